# `make help` lists the targets. All share one .venv, made by whichever runs first.
.DEFAULT_GOAL := help
.PHONY: help demo test test-rust test-python test-export test-sanitized soak soak-ci lint bench bench-check bench-full bench-data bench-encoding wheel clean

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
	@$(BIN)/python -m pip install --quiet --no-deps --group models-apart
	@VIRTUAL_ENV=$(CURDIR)/$(VENV) $(BIN)/maturin develop --release --quiet --extras cpu,dicom,hub,models,models-more,volumes
	@touch $@

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /	/' | expand -t 16

demo: $(BIN)/.built  ## build a collection from pydicom's own DICOM files, ask it three questions, write demo/hits.html
	@tests/demo/demo.sh $(BIN) demo

# The same package over a compiled module that can fail, lose power and have bugs: for tests/reliability, never in a wheel.
TESTING := target/testing

$(TESTING)/.built: $(BIN)/.built
	@cargo build --release --quiet --package osler-python --features extension-module,testing
	@mkdir -p $(TESTING)/osler
	@for path in python/osler/*; do ln -sfn "$(CURDIR)/$$path" $(TESTING)/osler/; done
	@rm -f $(TESTING)/osler/*.so
	@cp target/release/lib_native.so $(TESTING)/osler/_native.abi3.so
	@touch $@

# A real DICOMweb server for the tests. Where there is none they say so; with OSLER_TEST_ORTHANC=required they fail.
ORTHANC := target/orthanc

$(ORTHANC)/root: tests/orthanc.sh
	@tests/orthanc.sh $(ORTHANC) || true
	@test ! -d $@ || touch $@

test: test-rust test-python  ## all tests (about 35 minutes on 2 cores)

test-rust:  ## the engine's tests
	@cargo test --workspace --quiet

test-python: $(BIN)/.built $(TESTING)/.built $(ORTHANC)/root  ## the library's tests
	@$(BIN)/python -m pytest

# PyTorch and the libraries of the original models, several GB, in an environment of their own.
EXPORT := target/export-env

$(EXPORT)/.built: $(BIN)/.built pyproject.toml
	@test -x $(EXPORT)/bin/python || $(PYTHON) -m venv $(EXPORT)
	@$(EXPORT)/bin/python -m pip install --quiet --upgrade pip maturin
	@$(EXPORT)/bin/python -m pip install --quiet --group test-export
	@VIRTUAL_ENV=$(CURDIR)/$(EXPORT) $(EXPORT)/bin/maturin develop --release --quiet --extras cpu,dicom,models,hub,volumes,export
	@$(EXPORT)/bin/python tests/export/originals.py
	@touch $@

test-export: $(EXPORT)/.built  ## encoders from random checkpoints of true shape to answers, against their own libraries: hours
	@OSLER_TEST_EXPORT=1 $(EXPORT)/bin/python -m pytest tests/export

soak: $(TESTING)/.built  ## the harnesses of tests/reliability at full size: hours; goes on where it stopped
	@$(BIN)/python tests/reliability/run.py --size full

soak-ci: $(TESTING)/.built  ## the same at the size of a day: 35 minutes on 2 cores
	@$(BIN)/python tests/reliability/run.py --size ci
	@$(BIN)/python tests/reliability/run.py --every 16
	@$(BIN)/python tests/reliability/run.py --bugs 25

test-sanitized:  ## the kernels' tests under the address sanitizer, in a build of their own: 4 minutes
	@RUSTC_BOOTSTRAP=1 RUSTFLAGS=-Zsanitizer=address CARGO_TARGET_DIR=target/sanitized \
		cargo test --package osler-kernels --lib --quiet --target $(shell rustc -vV | sed -n 's/^host: //p')

lint: $(BIN)/.built  ## rustfmt, clippy, ruff, mypy: any warning fails
	@cargo fmt --all --check
	@cargo clippy --workspace --all-targets --quiet -- -D warnings
	@$(BIN)/ruff format --check --quiet .
	@$(BIN)/ruff check --quiet .
	@$(BIN)/mypy

# The peers live in an environment of their own: no peer enters ours.
BENCH := bench/.venv
BENCH_PYTHON := $(BENCH)/bin/python

$(BENCH)/.tools: pyproject.toml bench/install.py
	@test -x $(BENCH_PYTHON) || $(PYTHON) -m venv $(BENCH)
	@$(BENCH_PYTHON) -m pip install --quiet --upgrade pip maturin
	@$(BENCH_PYTHON) bench/install.py
	@touch $@

$(BENCH)/.built: $(BENCH)/.tools $(RUST_SOURCES) pyproject.toml
	@VIRTUAL_ENV=$(CURDIR)/$(BENCH) $(BENCH)/bin/maturin develop --release --quiet --extras cpu,models
	@touch $@

bench: $(BENCH)/.built  ## ours and the peers side by side, quick: 10,000 vectors
	@$(BENCH_PYTHON) bench/run.py --profile quick

bench-check: $(BENCH)/.built  ## every engine in every case, small: what installs and runs here
	@$(BENCH_PYTHON) bench/run.py --profile check

bench-full: $(BENCH)/.built  ## all engines, cases and sizes: hours; goes on where it stopped
	@$(BENCH_PYTHON) bench/run.py --profile full

bench-data: $(BENCH)/.built  ## make and keep the vectors of bench-full: about an hour on 2 cores
	@nice -n 19 $(BENCH_PYTHON) bench/texts.py
	@nice -n 19 $(BENCH_PYTHON) bench/clip_like.py 1000000

bench-encoding: $(EXPORT)/.built  ## pictures a second from files to vectors, beside the session alone and PyTorch: 20 minutes
	@$(EXPORT)/bin/python bench/encoding.py

wheel: $(BIN)/.tools  ## a release wheel in dist/
	@$(BIN)/maturin build --release --quiet --out dist

clean:  ## remove what the targets made
	@rm -rf $(VENV) $(BENCH) target dist demo
