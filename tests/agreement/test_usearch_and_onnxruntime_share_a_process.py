"""Reading or writing usearch files does not keep encoders from being loaded afterwards.

usearch's wheel exports a C++ library of its own, and ONNX Runtime's import crashes when it comes after; Osler sees to
the order. A process of its own, because the order of imports is what is tested.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

PROGRAM = """
import sys
import numpy as np
import osler
from osler.collection.interchange import export_usearch, read_usearch

export_usearch(osler.Index.build(np.eye(4, dtype=np.float32)), sys.argv[1])
keys, vectors, metric = read_usearch(sys.argv[1])
print(len(keys), osler.load_encoder("minilm", device="cpu").encode_texts(["effusion"]).shape)
"""


def test_encode_after_usearch(tmp_path: Path) -> None:
    path = str(tmp_path / "four.usearch")
    done = subprocess.run([sys.executable, "-c", PROGRAM, path], capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stdout) == (0, "4 (1, 384)\n"), done.stderr
