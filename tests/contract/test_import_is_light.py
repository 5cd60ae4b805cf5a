"""`import osler` loads numpy and the compiled core, and nothing that a search over vectors does not need.

Each check is a process of its own, because an import cannot be undone.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = {
    "PIL",
    "click",
    "huggingface_hub",
    "imagecodecs",
    "joblib",
    "nibabel",
    "onnx",
    "onnxruntime",
    "pandas",
    "polars",
    "pyarrow",
    "pydantic",
    "pydicom",
    "rich",
    "scipy",
    "sklearn",
    "tokenizers",
    "usearch",
}


def loaded(program: str) -> set[str]:
    program += "\nimport json, sys\nprint(json.dumps(sorted({name.split('.')[0] for name in sys.modules})))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return set(json.loads(done.stdout))


@pytest.mark.parametrize(
    "program",
    [
        "import osler",
        "import osler; osler.Index; osler.Error; osler.Bitmap; dir(osler)",
        "import osler, numpy\nosler.Index.build(numpy.eye(3)).search(numpy.ones(3))",
        "import osler; osler.Collection",
        "import osler; osler.sources.open_source; osler.items.Item",
    ],
)
def test_nothing_heavy_is_loaded(program: str) -> None:
    assert loaded(program) & HEAVY == set()


def test_a_heavy_module_would_be_seen() -> None:
    assert "polars" in loaded("import osler, polars") & HEAVY


def test_numpy_is_the_only_foreign_package() -> None:
    """Names that `import osler` adds to those of `import numpy`, the standard library's apart."""
    own = loaded("import osler; osler.Index") - loaded("import numpy") - set(sys.stdlib_module_names)
    # Of Python itself, though its list of names leaves it out: by it a sub-interpreter is told.
    assert own - {"_xxsubinterpreters"} == {"osler"}


def test_no_file_is_touched_and_no_thread_started(tmp_path: Path) -> None:
    program = (
        "import threading, os, osler; osler.Index; "
        "assert threading.active_count() == 1; assert not os.path.exists(os.environ['OSLER_HOME'])"
    )
    home = tmp_path / "home"
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={"OSLER_HOME": str(home), "HOME": str(tmp_path), "PATH": ""},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert list(tmp_path.iterdir()) == []


def test_a_sub_interpreter_is_refused_and_the_first_one_goes_on() -> None:
    script = """
import sys
if sys.version_info < (3, 13):
    import _xxsubinterpreters as interpreters
else:
    import _interpreters as interpreters
for order in range(2):
    other = interpreters.create()
    refused = "import osler\\ntry: osler.Index\\nexcept ImportError as error: print(error)\\nelse: print('let in')"
    interpreters.run_string(other, refused)
    import osler, numpy as np
    assert len(osler.Index.build(np.eye(3, dtype=np.float32))) == 3
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 2 and all("sub-interpreter" in line for line in lines), done.stdout
