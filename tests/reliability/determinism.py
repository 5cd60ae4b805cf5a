"""R10. Equal input gives equal bytes: at 1, 2, 3 and 8 threads, with and without SIMD, in another process."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections import Counter

from forms import EVERY

NAME, UNIT = "determinism", "files compared"
SIZES = {"quick": 200, "ci": 200, "full": 2_000}
SCRIPT = """
import hashlib, sys
import numpy as np, osler
seed, rows, dim, metric, codes, keep = int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), *sys.argv[4:7]
vectors = np.random.default_rng(seed).standard_normal((rows, dim)).astype(np.float32)
for threads in map(int, sys.argv[7].split(",")):
    options = {"metric": metric, "codes": codes, "keep_vectors": keep, "seed": seed, "threads": threads}
    index = osler.Index.build(vectors[: rows - 90], **options)
    index.add(vectors[rows - 90 :], np.arange(rows, rows + 90, dtype=np.uint64), threads=threads)
    index.delete(np.arange(0, rows // 3, 7, dtype=np.uint64))
    print(hashlib.sha256(index.__reduce__()[1][0]).hexdigest())
"""


def piece(seed: int) -> Counter[str]:
    form = EVERY[seed % len(EVERY)]
    metric = ("cosine", "dot", "l2")[seed % 3]
    rows, dim = (2_600, 100)[seed % 2], 8 + seed % 60
    said = set()
    files = 0
    for level, threads in (("", "1,2,3,8"), ("scalar", "2")):
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        if level:
            environment["OSLER_SIMD"] = level
        arguments = [str(seed), str(rows + dim), str(dim), metric, form.codes, form.keep, threads]
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT, *arguments], env=environment, capture_output=True, text=True, timeout=600
        )
        assert done.returncode == 0, done.stderr
        said |= set(done.stdout.split())
        files += len(done.stdout.split())
    assert len(said) == 1, f"seed {seed}, {metric}, {form}: {len(said)} different files of {files}"
    assert len(next(iter(said))) == hashlib.sha256().digest_size * 2
    return Counter({UNIT: files})
