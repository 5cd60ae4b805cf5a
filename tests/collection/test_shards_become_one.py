"""`merge`, `shard=` and shared secrets: collections that were built apart become one, as if built at once."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import osler
import pytest
from osler.collection.privacy import Secret
from osler.items import Locator


def made(path: Path, keys: list[str], seed: int = 0, **options: Any) -> osler.Collection:
    cases = osler.Collection.create(path, dim=4, metric="dot")
    vectors = np.random.default_rng(seed).normal(size=(len(keys), 4))
    cases.add_vectors(keys, vectors, **options)
    return cases


def test_items_keep_their_vectors_columns_and_parts(tmp_path: Path) -> None:
    one = made(tmp_path / "one.osler", ["a", "b"], metadata=[{"n": 1, "s": "x"}, {"n": None}])
    two = osler.Collection.create(tmp_path / "two.osler", dim=4, metric="dot")
    vectors = np.random.default_rng(1).normal(size=(3, 4)).astype(np.float32)
    places = [Locator(frame=3), None, Locator(span=(1, 2))]
    two.add_vectors(["c", "d"], vectors, parts=[0, 1, 1], kind=["image", "image", "text"], locators=places)
    two.add_vectors(["gone", "e"], vectors[:2], metadata=[{}, {"n": 2.5, "t": "new"}])
    two.delete(["gone"])
    expected = {key: (two[key].metadata, two.part_vectors([key], kind="any")) for key in two}
    report = one.merge(two.path)
    assert (report.added, report.duplicates) == (3, 0)
    assert one.keys() == ["a", "b", "c", "d", "e"]
    assert one.schema == {"n": "float", "s": "text", "t": "text"}
    for key, (metadata, parts) in expected.items():
        own = one.part_vectors([key], kind="any")
        assert one[key].metadata == metadata
        assert own.parts == parts.parts and (own.vectors == parts.vectors).all()
    assert one.search(vector=vectors[0], kind="any", k=1)[0].key in ("c", "e")
    one.verify()
    assert two.keys() == ["c", "d", "e"], "the other stays as it is"
    with osler.Collection.open(one.path) as again:
        assert again.keys() == ["a", "b", "c", "d", "e"]


@pytest.mark.parametrize("how", ["error", "skip", "replace"])
def test_a_key_of_both_is_refused_skipped_or_replaced(how: Any, tmp_path: Path) -> None:
    one = made(tmp_path / "one.osler", ["a", "b"], metadata=[{"from": 1}] * 2)
    two = made(tmp_path / "two.osler", ["b", "c"], 1, metadata=[{"from": 2}] * 2)
    if how == "error":
        with pytest.raises(ValueError, match="key 'b' is in both collections, and nothing was added"):
            one.merge(two.path)
        assert one.keys() == ["a", "b"]
        return
    report = one.merge(two.path, on_duplicate=how)
    assert (report.added, report.duplicates) == ((1, 1) if how == "skip" else (2, 0))
    assert {hit.key: hit.metadata["from"] for hit in one.get(["a", "b", "c"])} == {
        "a": 1,
        "b": 1 if how == "skip" else 2,
        "c": 2,
    }
    assert len(one) == 3
    one.verify()


def test_what_cannot_be_one_collection_is_refused(tmp_path: Path) -> None:
    one = made(tmp_path / "one.osler", ["a"], metadata=[{"n": 1}])
    with pytest.raises(ValueError, match=r"one\.osler is this collection itself"):
        one.merge(one.path)
    osler.Collection.create(tmp_path / "wide.osler", dim=5, metric="dot")
    with pytest.raises(ValueError, match=r"has dim 5, and one\.osler has 4"):
        one.merge(tmp_path / "wide.osler")
    osler.Collection.create(tmp_path / "far.osler", dim=4, metric="l2")
    with pytest.raises(ValueError, match="has metric l2"):
        one.merge(tmp_path / "far.osler")
    text = made(tmp_path / "text.osler", ["b"], metadata=[{"n": "x"}])
    with pytest.raises(ValueError, match=r"column 'n' holds text in text\.osler and int here"):
        one.merge(text.path)
    with pytest.raises(FileNotFoundError):
        one.merge(tmp_path / "none.osler")
    with osler.Collection.open(one.path) as reader, pytest.raises(osler.ReadOnlyError):
        reader.merge(text.path)
    assert one.keys() == ["a"]


def test_shards_of_a_folder_are_the_folder(tmp_path: Path, pictures: Callable[..., Path], tiny: Any) -> None:
    folder = pictures(9)
    whole = osler.Collection.create(tmp_path / "whole.osler", encoder=tiny)
    whole.add(folder, progress=False)
    shards = []
    for number in (1, 2, 3):
        shard = osler.Collection.create(tmp_path / f"{number}.osler", encoder=tiny)
        shard.add(folder, shard=(number, 3), progress=False)
        shards.append(shard)
    assert sorted(key for shard in shards for key in shard) == sorted(whole)
    assert all(len(shard) < 9 for shard in shards)
    for shard in shards[1:]:
        shards[0].merge(shard.path)
    keys = sorted(whole)
    np.testing.assert_array_equal(shards[0].vectors(keys), whole.vectors(keys))
    places = {shards[0]._handle.snapshot.key(row): shards[0]._handle.snapshot.locator(row) for row in range(9)}
    assert places[keys[0]] == (str(folder), [keys[0]])
    with pytest.raises(ValueError, match="shard is"):
        whole.add(folder, shard=(4, 3), progress=False)


def test_shards_share_a_secret_and_others_do_not(tmp_path: Path, tiny: Any) -> None:
    from pydicom.data import get_testdata_file

    file, other = (get_testdata_file(name, download=False) for name in ("CT_small.dcm", "MR_small.dcm"))
    first = osler.Collection.create(tmp_path / "first.osler", encoder=tiny)
    first.add(file, progress=False)
    second = osler.Collection.create(tmp_path / "second.osler", encoder=tiny, secret=tmp_path / "first.secret")
    second.add([file, other], progress=False)
    stranger = osler.Collection.create(tmp_path / "stranger.osler", encoder=tiny)
    stranger.add(other, progress=False)
    assert first.merge(second.path, on_duplicate="skip").added == 1
    assert len(first) == 2
    with pytest.raises(osler.Error, match="different secrets") as caught:
        first.merge(stranger.path)
    assert caught.value.code == "secret"
    empty = osler.Collection.create(tmp_path / "empty.osler", encoder=tiny)
    empty.merge(first.path)
    assert (tmp_path / "empty.secret").exists()
    assert empty.add(file, progress=False).duplicates == 1
    shutil.rmtree(tmp_path / "empty.osler")


def test_a_creation_that_fails_leaves_nothing(tmp_path: Path) -> None:
    path, own = tmp_path / "z.osler", tmp_path / "z.secret"
    with pytest.raises(osler.Error, match=r"none\.secret is not there") as failure:
        osler.Collection.create(path, dim=4, secret=tmp_path / "none.secret")
    assert failure.value.code == "secret"
    Secret.make(tmp_path / "other.secret", "1" * 32)
    Secret.make(own, "2" * 32)
    for _ in range(2):
        with pytest.raises(osler.Error, match=r"another secret lies at z\.secret"):
            osler.Collection.create(path, dim=4, secret=tmp_path / "other.secret")
        assert sorted(entry.name for entry in tmp_path.iterdir()) == ["other.secret", "z.secret"]


def test_a_merge_that_fails_leaves_no_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Secret.make(tmp_path / "key.secret", "1" * 32)
    with osler.Collection.create(tmp_path / "two.osler", dim=4, metric="dot", secret=tmp_path / "key.secret") as two:
        two.add_vectors(["b"], np.ones((1, 4)))
    one = made(tmp_path / "one.osler", ["a"])

    def full(*_: Any) -> None:
        raise osler.Error("the disk is full", code="disk_full")

    with monkeypatch.context() as patch, pytest.raises(osler.Error, match="disk is full"):
        patch.setattr("osler.collection.handle.Handle.publish_segments", full)
        one.merge(two.path)
    assert not (tmp_path / "one.secret").exists()
    one.merge(two.path)
    assert (tmp_path / "one.secret").exists() and one.keys() == ["a", "b"]


def test_a_link_to_a_collection_is_that_collection(tmp_path: Path) -> None:
    made(tmp_path / "real.osler", ["a"]).close()
    (tmp_path / "link.osler").symlink_to(tmp_path / "real.osler")
    with osler.Collection.open(tmp_path / "link.osler", mode="a") as cases:
        cases._handle.secret(make=True)
    assert (tmp_path / "real.secret").exists() and not (tmp_path / "link.secret").exists()
