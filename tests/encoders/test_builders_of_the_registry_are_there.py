"""Every entry that can be exported names a builder that exists, and nothing of it needs PyTorch before it runs."""

from __future__ import annotations

import ast
import importlib.util
import subprocess
import sys
from pathlib import Path

import osler.encoders.export
import pytest
from osler import EncoderError
from osler.encoders.entry import entries
from osler.encoders.export import export_encoder

FOLDER = Path(osler.encoders.export.__file__).parent
MODULES = sorted(FOLDER.glob("*.py"))
EXPORTED = sorted(name for name, entry in entries().items() if entry.architecture is not None)
HEAVY = {"monai", "onnx", "onnxruntime", "onnxscript", "open_clip", "safetensors", "timm", "torch", "torchvision"}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_no_module_imports_a_library_of_the_originals(path: Path) -> None:
    names = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            names.add(node.module.partition(".")[0])
    assert not names & {*HEAVY, "transformers"}


@pytest.mark.parametrize("name", EXPORTED)
def test_an_entry_names_a_builder(name: str) -> None:
    entry = entries()[name]
    assert entry.architecture is not None
    tree = ast.parse((FOLDER / f"{entry.architecture.builder}.py").read_text())
    assert {"build", "module"} <= {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    source = entry.source("checkpoint")
    assert source is not None
    assert set(entry.architecture.options.get("files", ())) <= {file.path for file in source.files}


def test_importing_the_export_imports_no_library_of_the_originals() -> None:
    code = "import sys, osler.encoders.export; print(sorted(set(sys.argv[1].split(',')) & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", code, ",".join([*HEAVY, "transformers"])], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_without_pytorch_one_sentence_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "torch" else found(name, *rest)
    )
    with pytest.raises(EncoderError, match=r'needs the package torch; pip install "osler\[export\]"') as caught:
        export_encoder("flair", tmp_path / "model.safetensors", tmp_path / "out")
    assert caught.value.code == "package_missing"
    assert not (tmp_path / "out").exists()
