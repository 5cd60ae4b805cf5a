"""A cache of its own for converted models, and a tiny encoder to load from a folder.

Writes below pytest's temporary folders only.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from tiny_encoder import TinyEncoder, tiny_encoder

MODELS = Path(__file__).resolve().parents[2] / "models"


@pytest.fixture(scope="session")
def shared_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(autouse=True)
def _own_home(shared_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OSLER_HOME", str(shared_home))


@pytest.fixture(scope="session")
def golden_script() -> Any:
    """Load models/NAME/golden.py, which computes golden vectors in plain numpy."""

    def load(name: str) -> ModuleType:
        spec = importlib.util.spec_from_file_location(f"golden_{name}", MODELS / name / "golden.py")
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    return load


@pytest.fixture
def tiny(tmp_path: Path, rng: np.random.Generator) -> TinyEncoder:
    """An encoder for both modalities in a folder, not yet saved."""
    return tiny_encoder(tmp_path / "tiny", rng)
