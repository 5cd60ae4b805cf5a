"""Python layers import downwards only, and few modules know the compiled one.

Reads the imports of every module with `ast`, those inside functions included; runs none of them.
"""

from __future__ import annotations

import ast
from pathlib import Path

import osler
import pytest

PACKAGE = Path(osler.__file__).parent

# A component imports from components of lower rank and from itself.
RANKS = {
    "errors": 0,
    "config": 1,
    "items": 1,
    "progress": 1,
    "index": 2,
    "decode": 2,
    "sources": 3,
    "encoders": 3,
    "collection": 4,
    "classify": 5,
    "curate": 5,
    "evaluate": 5,
    "rag": 5,
    "explore": 5,
    "integrations": 6,
    "server": 6,
    "distributed": 6,
    "cli": 7,
}
NATIVE_IMPORTERS = {
    "index",
    "collection.privacy",
    "collection.segment",
    "collection.store",
    "decode.lookup",
    "encoders.resample",
}


def imported(source: str, module: str, *, is_package: bool = False) -> set[str]:
    """Return the modules of the package that `source` imports, as dotted names below `osler`."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = ["osler", *module.split(".")][: None if is_package else -1]
                base = ".".join([*parents[: len(parents) - node.level + 1], *([base] if base else [])])
            found.update(f"{base}.{alias.name}" if base == "osler" else base for alias in node.names)
    inside = {name.removeprefix("osler").removeprefix(".") for name in found if name.split(".")[0] == "osler"}
    return {osler._HOME.get(name, f"osler.{name}").removeprefix("osler.") for name in inside}


def violations(source: str, module: str, *, is_package: bool = False) -> list[str]:
    """Return what `module` may not import."""
    own = module.split(".")[0]
    wrong = []
    for name in sorted(imported(source, module, is_package=is_package)):
        component = name.split(".")[0]
        if component == "_native":
            if module not in NATIVE_IMPORTERS:
                wrong.append(f"{module} imports the compiled module")
        elif component == "__version__":
            continue
        elif component == "":
            if RANKS[own] < RANKS["cli"]:
                wrong.append(f"{module} imports the whole package")
        elif component not in RANKS:
            wrong.append(f"{module} imports {name}, which has no layer in this test")
        elif component != own and RANKS[component] >= RANKS[own]:
            wrong.append(f"{module} imports {name}")
    return wrong


def modules() -> list[tuple[str, Path]]:
    pairs = []
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        pairs.append((".".join(parts[:-1] if parts[-1] == "__init__" else parts), path))
    return [pair for pair in pairs if pair[0]]


def test_imports_point_one_way() -> None:
    found = modules()
    assert len(found) > 20
    unknown = {name.split(".")[0] for name, _ in found} - RANKS.keys()
    assert not unknown, f"give {sorted(unknown)} a layer"
    wrong = [
        line
        for name, path in found
        for line in violations(path.read_text(), name, is_package=path.name == "__init__.py")
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("sources.images", "from osler.encoders import load_encoder"),
        ("encoders.session", "def f():\n    import osler.sources"),
        ("classify.zero_shot", "from osler import curate"),
        ("index", "from osler import Collection"),
        ("collection.query", "from osler._native import Index"),
        ("collection.ingest", "from ..classify import zero_shot"),
        ("encoders.pooling", "import osler"),
        ("items", "from osler.config import settings"),
        ("errors", "from osler.items import Hit"),
    ],
)
def test_a_planted_import_is_found(module: str, source: str) -> None:
    assert violations(source, module)


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("collection.query", "from osler.collection.rows import Rows\nfrom osler import Index\nimport numpy"),
        ("collection.query", "from .rows import Rows\nfrom ..index import Index"),
        ("collection.store", "from osler._native import Store"),
        ("cli.query", "import osler\nfrom osler import Collection, __version__"),
    ],
)
def test_an_import_that_is_allowed_passes(module: str, source: str) -> None:
    assert violations(source, module) == []
