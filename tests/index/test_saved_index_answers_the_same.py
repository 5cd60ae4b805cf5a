"""Save and open, mapped or in memory, and pickle: the same rows, the same answers, the same bytes again."""

from __future__ import annotations

import copy
import os
import pickle
from pathlib import Path

import numpy as np
import oracle
import osler
import pytest
from forms import EVERY, Form


def small_and_large(metric: str, form: Form, rng: np.random.Generator) -> list[osler.Index]:
    indexes = [osler.Index(dim=19, metric=metric, **form.options)]
    for n in (1, 400, 2_700):
        rows, keys = rng.standard_normal((n, 19)), rng.permutation(9 * n)[:n]
        index = osler.Index.build(rows, keys, metric=metric, **form.options)
        index.delete(index.keys[: n // 5])
        indexes.append(index)
    return indexes


def same(left: osler.Index, right: osler.Index, rng: np.random.Generator) -> None:
    assert (left.dim, left.metric, left.codes, len(left)) == (right.dim, right.metric, right.codes, len(right))
    for what in ("keep_vectors", "scores_from", "search"):
        assert left.stats()[what] == right.stats()[what]
    np.testing.assert_array_equal(left.keys, right.keys)
    np.testing.assert_array_equal(left.get(left.keys), right.get(right.keys))
    queries = rng.standard_normal((20, left.dim)).astype(np.float32)
    mask = rng.random(len(left)) < 0.3
    for options in (
        {},
        {"exact": True},
        {"recall": 0.99},
        {"ef": 30},
        {"filter": mask},
        {"groups": np.arange(len(left)) % 7},
    ):
        a, b = left.search(queries, 6, **options), right.search(queries, 6, **options)
        np.testing.assert_array_equal(a.keys, b.keys)
        np.testing.assert_array_equal(a.scores, b.scores)


@pytest.mark.parametrize("form", EVERY, ids=str)
@pytest.mark.parametrize("metric", oracle.METRICS)
def test_round_trip(metric: str, form: Form, tmp_path: Path, rng: np.random.Generator) -> None:
    path, again = tmp_path / "a.osler", tmp_path / "b.osler"
    for index in small_and_large(metric, form, rng):
        index.save(path)
        for mmap in (True, False):
            reopened = osler.Index.open(path, mmap=mmap)
            assert reopened.verify() is None
            same(index, reopened, rng)
            reopened.save(again)
            assert again.read_bytes() == path.read_bytes()
        unpickled = pickle.loads(pickle.dumps(index))
        same(index, unpickled, rng)
        same(index, copy.deepcopy(index), rng)
        unpickled.save(again)
        assert again.read_bytes() == path.read_bytes()


def test_a_reopened_copy_goes_on_where_the_first_left_off(tmp_path: Path, rng: np.random.Generator) -> None:
    """Keys, insertion order and the random stream go on as if there had been no file between."""
    rows = rng.standard_normal((2_600, 14)).astype(np.float32)
    index = osler.Index.build(rows[:2_400])
    index.delete([2_399, 5])
    index.save(tmp_path / "a.osler")
    reopened = osler.Index.open(tmp_path / "a.osler", mmap=False)
    for one in (index, reopened):
        assert one.add(rows[2_400:]).tolist() == list(range(2_400, 2_600)), "a default number was used twice"
        one.save(tmp_path / ("b.osler" if one is index else "c.osler"))
    assert (tmp_path / "b.osler").read_bytes() == (tmp_path / "c.osler").read_bytes()


def test_a_mapped_index_is_read_only(tmp_path: Path, rng: np.random.Generator) -> None:
    index = osler.Index.build(rng.standard_normal((30, 6)))
    index.save(tmp_path / "a.osler")
    before = (tmp_path / "a.osler").read_bytes()
    mapped = osler.Index.open(tmp_path / "a.osler")
    for change in (lambda: mapped.add(np.ones((1, 6))), lambda: mapped.delete([3]), lambda: mapped.delete([99])):
        with pytest.raises(osler.ReadOnlyError, match="mmap=False") as raised:
            change()
        assert raised.value.code == "read_only"
    same(index, mapped, rng)
    copied = osler.Index.open(tmp_path / "a.osler", mmap=False)
    copied.add(np.ones((1, 6)))
    assert (len(copied), len(mapped)) == (31, 30)
    assert (tmp_path / "a.osler").read_bytes() == before


def test_saving_over_a_mapped_file_leaves_the_map_intact(tmp_path: Path, rng: np.random.Generator) -> None:
    path = tmp_path / "a.osler"
    index = osler.Index.build(rng.standard_normal((300, 6)))
    index.save(path)
    mapped = osler.Index.open(path)
    osler.Index.build(rng.standard_normal((10, 3))).save(path)
    same(index, mapped, rng)
    mapped.save(path)
    same(index, osler.Index.open(path), rng)


def test_save_is_atomic_and_leaves_nothing_else(tmp_path: Path, rng: np.random.Generator) -> None:
    path = tmp_path / "a.osler"
    osler.Index.build(rng.standard_normal((30, 6))).save(path)
    first = path.read_bytes()
    blocked = tmp_path / "folder"
    blocked.mkdir()
    with pytest.raises(OSError):
        osler.Index.build(rng.standard_normal((5, 2))).save(blocked)
    with pytest.raises(FileNotFoundError):
        osler.Index.build(rng.standard_normal((5, 2))).save(tmp_path / "none" / "a.osler")
    assert path.read_bytes() == first
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["a.osler", "folder"]
    assert path.stat().st_mode & 0o077 == 0, "an index holds patient data: its file is for its owner"


def test_paths_may_be_str_or_path(tmp_path: Path) -> None:
    index = osler.Index.build(np.eye(3, dtype=np.float32))
    index.save(str(tmp_path / "a.osler"))
    assert len(osler.Index.open(tmp_path / "a.osler")) == len(osler.Index.open(str(tmp_path / "a.osler"))) == 3


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"none\.osler"):
        osler.Index.open(tmp_path / "none.osler")
    with pytest.raises(OSError):
        osler.Index.open(tmp_path)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a device that is always full")
def test_a_full_disk_is_an_os_error() -> None:
    index = osler.Index.build(np.eye(3, dtype=np.float32))
    with pytest.raises(OSError):
        index.save("/dev/full/a.osler")
