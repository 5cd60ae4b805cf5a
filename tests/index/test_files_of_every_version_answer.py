"""Files that were written once, of every version that is read and every form, still give the answers of their rows."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import golden_files
import numpy as np
import oracle
import osler
import pytest
from forms import EVERY, Form

VERSIONS = sorted(folder.name for folder in golden_files.FIXTURES.glob("index-*"))
KEYS = np.arange(100, 100 + golden_files.ROWS)


def path(version: str, form: Form) -> Path:
    return golden_files.FIXTURES / version / f"{str(form).replace(':', '-')}.index"


def test_there_is_a_file_of_every_form_in_the_version_that_is_written(tmp_path: Path) -> None:
    osler.Index.build(golden_files.vectors()).save(tmp_path / "a.index")
    version = int.from_bytes((tmp_path / "a.index").read_bytes()[8:12], "little")
    assert f"index-{version}" in VERSIONS
    assert all(path(f"index-{version}", form).exists() for form in EVERY)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("form", EVERY, ids=str)
@pytest.mark.parametrize("mmap", [True, False])
def test_an_index_answers_as_it_did(version: str, form: Form, mmap: bool) -> None:
    index = osler.Index.open(path(version, form), mmap=mmap)
    index.verify()
    metric = golden_files.metric(str(form))
    rows = golden_files.vectors()
    if metric == "cosine":
        rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    assert (index.metric, index.dim, len(index)) == (metric, golden_files.DIM, golden_files.ROWS)
    assert (np.sort(index.keys) == KEYS).all()
    stored = index.get(KEYS)
    off = np.linalg.norm(stored - rows, axis=1) / np.linalg.norm(rows, axis=1)
    assert off.mean() <= max(form.error, 1e-6)
    if form.keeps:
        oracle.check_exact_search(index, rows[:7] + 0.01, golden_files.K, 1.5e-3 if form.codes == "f16" else 4e-6)


@pytest.mark.parametrize("version", VERSIONS)
def test_an_index_can_be_changed_and_written_anew(version: str, tmp_path: Path) -> None:
    index = osler.Index.open(path(version, EVERY[0]), mmap=False)
    index.delete(KEYS[:3])
    index.add(golden_files.vectors()[:3], np.arange(3, dtype=np.uint64))
    index.save(tmp_path / "a.index")
    assert len(osler.Index.open(tmp_path / "a.index")) == golden_files.ROWS


GRAPHS = """
import sys
from pathlib import Path
root = Path(sys.argv[1])
sys.path[:0] = [str(root / "target" / "testing"), str(root / "tests")]
import golden_files, numpy as np, osler
from forms import EVERY
from reliability import testing
with testing.small_indexes():
    for form in EVERY:
        for file in golden_files.FIXTURES.glob(f"index-*/{str(form).replace(':', '-')}.index"):
            index = osler.Index.open(file)
            keys = np.arange(100, 164)
            found = index.search(index.get(keys), 3, recall=0.99)
            own = (found.keys == keys[:, None]).any(axis=1).mean()
            # Of few bits, and of the longest rows under dot, another may be nearer.
            weak = form.error > 0.1 or golden_files.metric(str(form)) == "dot"
            assert own >= (0.5 if weak else 0.95), (file.name, own)
"""


def test_the_graphs_of_old_files_are_walked() -> None:
    done = subprocess.run(
        [sys.executable, "-c", GRAPHS, str(golden_files.ROOT)], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("version", sorted(folder.name for folder in golden_files.FIXTURES.glob("collection-*")))
def test_a_collection_answers_as_it_did(version: str, tmp_path: Path) -> None:
    path = tmp_path / "cases.osler"
    # Without the empty folders that no repository keeps.
    shutil.copytree(golden_files.FIXTURES / version / "cases.osler", path)
    gone = {"case-04", "case-07"}
    wanted = golden_files.items(range(20))
    with osler.Collection.open(path) as cases:
        cases.verify()
        assert cases.keys() == [key for key in wanted["keys"] if key not in gone]
        assert cases.schema == {"age": "int", "site": "text"}
        assert cases.count("site IS NULL AND age > 3") == 5
        parts = cases.part_vectors()
        alive = np.array([wanted["keys"][owner] not in gone for owner in wanted["parts"]])
        assert (parts.vectors == wanted["vectors"][alive]).all()
        assert [part.locator.frame for part in parts.parts[:4]] == [0, 1, 0, 1]
        query = wanted["vectors"][6]
        scores = {}
        for owner, row in zip(wanted["parts"][alive], wanted["vectors"][alive], strict=True):
            scores[owner] = max(scores.get(owner, -np.inf), float(row @ query))
        best = sorted(scores, key=lambda owner: -scores[owner])[:5]
        assert [hit.key for hit in cases.search(vector=query, k=5)] == [wanted["keys"][owner] for owner in best]
    with osler.Collection.open(path, mode="a") as cases:
        cases.erase("case-00")
        cases.add_vectors(["new"], wanted["vectors"][:1])
        cases.verify()
        assert len(cases) == 18
