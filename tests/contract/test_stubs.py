"""The stubs of the compiled module say what the module has, and the package is marked as typed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import osler

PACKAGE = Path(osler.__file__).parent


def stubtest(path: Path, cache: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "mypy.stubtest", "osler._native"],
        cwd=cache,
        env={"MYPYPATH": str(path), "PATH": "", "MYPY_CACHE_DIR": str(cache / "cache")},
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_stubs_agree_with_the_binary(tmp_path: Path) -> None:
    assert (PACKAGE / "_native.pyi").is_file(), "without stubs there is nothing to compare, and the check would pass"
    done = stubtest(PACKAGE.parent, tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_planted_difference_is_found(tmp_path: Path) -> None:
    text = (PACKAGE / "_native.pyi").read_text()
    package = tmp_path / "osler"
    package.mkdir()
    (package / "__init__.pyi").touch()
    for right, wrong in (("def search(", "def serach("), ("recall: float = 0.95", "recall: float = 0.9")):
        assert right in text
        (package / "_native.pyi").write_text(text.replace(right, wrong))
        done = stubtest(tmp_path, tmp_path)
        assert done.returncode != 0, wrong


def test_the_package_is_typed() -> None:
    assert (PACKAGE / "py.typed").is_file()


def test_a_user_program_type_checks(tmp_path: Path) -> None:
    """What a program outside the project sees under `mypy --strict`: right use passes, wrong use is reported."""
    program = tmp_path / "program.py"
    program.write_text(
        "import numpy as np\n"
        "import osler\n"
        "index = osler.Index.build(np.eye(4, dtype=np.float32), metric='l2')\n"
        "found = index.search(np.ones(4, dtype=np.float32), k=2, recall=0.9)\n"
        "keys, size, name = found.keys, len(index), index.metric\n"
        "kept = index.bitmap([1]) & ~index.bitmap([2])\n"
        "cases = osler.Collection.open('cases.osler')\n"
        "for hit in cases.search(text='effusion', k=3):\n"
        "    print(hit.key, hit.score, hit.metadata)\n"
        "index.search(np.ones(4), top_k=3)\n"
        "osler.Index(dim='4')\n"
        "osler.Indexx\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--cache-dir", str(tmp_path / "cache"), str(program)],
        cwd=tmp_path,
        env={"MYPYPATH": str(PACKAGE.parent), "PATH": ""},
        capture_output=True,
        text=True,
        timeout=300,
    )
    lines = [line for line in done.stdout.splitlines() if "program.py:" in line and ": error:" in line]
    assert [line.split(":")[1] for line in lines] == ["10", "11", "12"], done.stdout
