"""Flipped bits, truncations, missing files and foreign versions: each is refused, and the file is named."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import osler
import pytest


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "cases.osler"
    with osler.Collection.create(path, dim=8) as cases:
        vectors = np.random.default_rng(0).normal(size=(2_100, 8))
        cases.add_vectors([f"k{row}" for row in range(2_100)], vectors, metadata=[{"n": row} for row in range(2_100)])
        cases.delete(["k1"])
        cases.search(vector=vectors[0])
    assert len(list((path / "graphs").iterdir())) == 1
    return path


def listed(path: Path) -> list[Path]:
    with osler.Collection.open(path) as cases:
        names = list(cases._handle.store.state.files)
    return [max((path / "manifests").iterdir()), *(path / name for name in names)]


def flip(file: Path, at: int) -> None:
    data = bytearray(file.read_bytes())
    data[at] ^= 1
    file.write_bytes(bytes(data))


def use(path: Path) -> None:
    """Open, read every row and every vector, verify."""
    with osler.Collection.open(path) as cases:
        cases.to_polars()
        cases.part_vectors()
        cases.verify()


def test_an_untouched_collection_verifies(path: Path) -> None:
    use(path)


@pytest.mark.parametrize("part", ["manifests", "segments", "tombstones", "graphs"])
def test_a_flipped_bit_anywhere_is_refused_and_named(part: str, path: Path, rng: np.random.Generator) -> None:
    (file,) = [file for file in listed(path) if part in str(file)]
    original = file.read_bytes()
    positions = {0, len(original) - 1, *rng.integers(0, len(original), 12).tolist()}
    for at in positions:
        flip(file, at)
        with pytest.raises(osler.CorruptIndexError, match=file.name) as caught:
            use(path)
        assert caught.value.findings[0]["file"] == file.relative_to(path).as_posix()
        assert isinstance(caught.value, ValueError)
        file.write_bytes(original)
    use(path)


@pytest.mark.parametrize("part", ["manifests", "segments", "tombstones"])
@pytest.mark.parametrize("how", ["truncated", "longer", "empty", "missing"])
def test_a_file_of_another_length_is_refused_on_opening(part: str, how: str, path: Path) -> None:
    (file,) = [file for file in listed(path) if part in str(file)]
    data = file.read_bytes()
    if how == "missing":
        if part == "manifests":
            for manifest in (path / "manifests").iterdir():
                manifest.unlink()
        else:
            file.unlink()
    else:
        file.write_bytes({"truncated": data[:-1], "longer": data + b"\0", "empty": b""}[how])
    with pytest.raises(osler.CorruptIndexError, match="manifests" if part == "manifests" else file.name):
        osler.Collection.open(path)


@pytest.mark.parametrize("how", ["missing", "flipped", "empty", "foreign"])
@pytest.mark.parametrize("mode", ["r", "a"])
def test_without_its_graph_everything_is_still_found_with_a_warning(how: str, mode: str, path: Path) -> None:
    with osler.Collection.open(path) as cases:
        query = cases.part_vectors(["k7"]).vectors[0]
        expected = [(hit.key, hit.score) for hit in cases.search(vector=query, recall=1)]
    (file,) = (path / "graphs").iterdir()
    if how == "missing":
        file.unlink()
    elif how == "foreign":
        osler.Index.build(np.eye(3, dtype=np.float32)).save(str(file))
    elif how == "empty":
        file.write_bytes(b"")
    else:
        flip(file, 100)
    with osler.Collection.open(path, mode=mode) as cases:
        assert len(cases) == 2_099
        with pytest.warns(UserWarning, match=r"cases.osler has a .*graph"):
            found = [(hit.key, hit.score) for hit in cases.search(vector=query, recall=1)]
        assert [key for key, _ in found] == [key for key, _ in expected]
        np.testing.assert_allclose([s for _, s in found], [s for _, s in expected], atol=1e-6)
        with pytest.raises(osler.CorruptIndexError, match="graphs/"):
            cases.verify()


def test_a_reader_of_many_rows_without_a_graph_scans_them(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (file,) = (path / "graphs").iterdir()
    file.unlink()
    monkeypatch.setattr("osler.collection.graph._OUTSIDE_ROWS", 50)
    with osler.Collection.open(path) as cases:
        query = cases.part_vectors(["k7"]).vectors[0]
        with pytest.warns(UserWarning, match="missing or damaged graph"):
            hits = cases.search(vector=query, k=3, where="n >= 7")
        assert hits[0].key == "k7"
        vectors = cases.part_vectors()
        order = np.argsort(-(vectors.vectors @ query), kind="stable")
        keys = [vectors.keys[vectors.owner[row]] for row in order]
        assert [hit.key for hit in hits] == [key for key in keys if int(key[1:]) >= 7][:3]


def test_another_format_version_is_named_with_ours(path: Path) -> None:
    (path / "FORMAT").write_text('{"magic": "osler collection", "version": 1, "id": "0"}')
    for mode in ("r", "a"):
        with pytest.raises(osler.FormatVersionError, match="version 1; this version of Osler reads 2 to 2"):
            osler.Collection.open(path, mode=mode)


@pytest.mark.parametrize("data", [b"", b"{", b"[]", bytes(4096)])
def test_a_format_file_that_is_none_is_damage(data: bytes, path: Path) -> None:
    (path / "FORMAT").write_bytes(data)
    with pytest.raises(osler.CorruptIndexError, match="FORMAT"):
        osler.Collection.open(path)


def test_what_is_no_collection_is_told_apart(tmp_path: Path, path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no collection at none"):
        osler.Collection.open(tmp_path / "none")
    (tmp_path / "folder").mkdir()
    with pytest.raises(ValueError, match="folder is no collection of Osler"):
        osler.Collection.open(tmp_path / "folder")
    with pytest.raises(FileExistsError, match="mode='a'"):
        osler.Collection.create(path, dim=4)
    with pytest.raises(FileNotFoundError, match="folder for x"):
        osler.Collection.create(tmp_path / "none" / "x.osler", dim=4)


def test_files_of_others_are_ignored_and_left_alone(path: Path) -> None:
    for name in ("manifests/note.txt", "manifests/1.json", "notes.md"):
        (path / name).write_text("mine")
    use(path)
    with osler.Collection.open(path, mode="a") as cases:
        cases.add_vectors(["new"], np.ones((1, 8)))
    for name in ("manifests/note.txt", "manifests/1.json", "notes.md"):
        assert (path / name).read_text() == "mine"


def test_an_older_state_never_takes_the_place_of_a_damaged_one(path: Path) -> None:
    manifests = sorted((path / "manifests").iterdir())
    assert len(manifests) > 1
    manifests[-1].write_bytes(manifests[-2].read_bytes())
    with pytest.raises(osler.CorruptIndexError, match=manifests[-1].name):
        osler.Collection.open(path)


@pytest.mark.parametrize(("value", "problem"), [(np.nan, "not finite"), (np.inf, "not finite"), (1e25, "scored")])
def test_vectors_that_are_no_numbers_under_right_checksums_are_named(
    value: float, problem: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody made them: what is added is checked before."""
    from osler.collection import changes

    path = tmp_path / "cases.osler"
    monkeypatch.setattr(changes, "unit_rows", lambda vectors, *_: np.asarray(vectors, np.float32))
    with osler.Collection.create(path, dim=4, metric="dot") as cases:
        vectors = np.eye(4)
        vectors[2, 3] = value
        cases.add_vectors(list("abcd"), vectors)
        uses = [lambda: cases.search(vector=np.full(4, 1e18))]
        if problem == "not finite":
            uses += [cases.vectors, cases.part_vectors, lambda: cases.search(like="a")]
        for use in uses:
            with pytest.raises(osler.CorruptIndexError, match=rf"section vectors at byte \d+: .*{problem}") as caught:
                use()
            assert caught.value.findings[0]["section"] == "vectors"
        assert cases.keys() == list("abcd")
