# `make help` lists the targets. All share one .venv, made by whichever runs first.
.DEFAULT_GOAL := help
.PHONY: help demo test test-rust test-python lint bench wheel clean

PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PIP_QUIET := 1
export OSLER_TEST_VECTORS ?=

$(BIN)/.tools: pyproject.toml
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --upgrade pip maturin
	@$(BIN)/python -m pip install --quiet --group test
	@touch $@

RUST_SOURCES := Cargo.toml Cargo.lock $(shell find rust models -type f 2>/dev/null)

$(BIN)/.built: $(BIN)/.tools $(RUST_SOURCES) pyproject.toml
	@VIRTUAL_ENV=$(CURDIR)/$(VENV) $(BIN)/maturin develop --release --quiet --extras cpu,dicom,models
	@touch $@

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /	/' | expand -t 14

demo: $(BIN)/.built  ## build a collection from pydicom's own DICOM files, ask it three questions, write demo/hits.html
	@tests/demo/demo.sh $(BIN) demo

test: test-rust test-python  ## all tests (about 10 minutes on 2 cores)

test-rust:  ## the engine's tests
	@cargo test --workspace --quiet

test-python: $(BIN)/.built  ## the library's tests
	@$(BIN)/python -m pytest

lint: $(BIN)/.built  ## rustfmt, clippy, ruff, mypy: any warning fails
	@cargo fmt --all --check
	@cargo clippy --workspace --all-targets --quiet -- -D warnings
	@$(BIN)/ruff format --check --quiet .
	@$(BIN)/ruff check --quiet .
	@$(BIN)/mypy

bench: $(BIN)/.built  ## ours and the peers side by side, quick
	@$(BIN)/python -m pip install --quiet --group bench
	@$(BIN)/python bench/run.py

wheel: $(BIN)/.tools  ## a release wheel in dist/
	@$(BIN)/maturin build --release --quiet --out dist

clean:  ## remove what the targets made
	@rm -rf $(VENV) target dist demo
