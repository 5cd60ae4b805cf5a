"""NumPy and Parquet files: what goes out comes back, what others write comes in, and what is neither is refused."""

from __future__ import annotations

import datetime
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import osler
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from osler.collection import interchange
from osler.collection.interchange import export_npy, export_parquet, import_npy, import_parquet
from osler.items import Locator


@pytest.fixture
def full(tmp_path: Path, rng: np.random.Generator) -> osler.Collection:
    cases = osler.Collection.create(tmp_path / "full.osler", dim=6, metric="dot")
    cases.add_vectors(
        ["a", "b", "c"],
        rng.normal(size=(4, 6)),
        parts=[0, 1, 1, 2],
        kind=["image", "image", "text", "image"],
        locators=[Locator(frame=2), Locator(box=(1, 2, 3, 4)), Locator(span=(0, 5)), None],
        metadata=[
            {"n": 1, "kind": "mine", "tags": ["x", "y"]},
            {"day": datetime.date(2024, 5, 31), "f": 0.5},
            {"flag": True},
        ],
    )
    cases.add_vectors(["bare", "gone"], None, metadata=[{"n": 7}, {}])
    cases.delete(["gone"])
    return cases


def test_a_table_keeps_everything_but_places_of_files(tmp_path: Path, full: osler.Collection) -> None:
    export_parquet(full, tmp_path / "a.parquet")
    assert (tmp_path / "a.parquet").stat().st_mode & 0o777 == 0o600
    with import_parquet(tmp_path / "a.parquet", tmp_path / "b.osler", metric="dot") as again:
        assert again.keys() == full.keys() == ["a", "b", "c", "bare"]
        assert [hit.metadata for hit in again.get(again.keys())] == [hit.metadata for hit in full.get(full.keys())]
        ours, theirs = again.part_vectors(kind="any"), full.part_vectors(kind="any")
        assert ours.parts == theirs.parts and (ours.vectors == theirs.vectors).all()
        assert again.schema == full.schema
    table = pl.read_parquet(tmp_path / "a.parquet")
    assert table.columns[:7] == ["key", "part", "kind", "frame", "box", "span", "vector"]
    assert "metadata.kind" in table.columns
    assert pq.read_table(tmp_path / "a.parquet")["vector"].type == pa.list_(pa.float32(), 6)


def test_a_matrix_has_one_vector_an_item(tmp_path: Path, full: osler.Collection) -> None:
    export_npy(full, tmp_path / "a.npy")
    matrix = np.load(tmp_path / "a.npy", allow_pickle=False)
    assert matrix.dtype == np.float32
    np.testing.assert_array_equal(matrix, full.vectors(["a", "b", "c"]))
    with import_npy(tmp_path / "a.npy", tmp_path / "b.osler", metric="dot") as again:
        assert again.keys() == ["a", "b", "c"]
        np.testing.assert_array_equal(again.vectors(), matrix)


@pytest.mark.parametrize("dtype", [np.float16, np.float64, np.int8])
def test_a_matrix_of_others_is_numbered(dtype: Any, tmp_path: Path) -> None:
    np.save(tmp_path / "theirs.npy", np.array([[1, 0], [0, 2], [3, 4]], dtype))
    with import_npy(tmp_path / "theirs.npy", tmp_path / "a.osler", metric="l2") as cases:
        assert cases.keys() == ["0", "1", "2"]
        assert cases.vectors().tolist() == [[1, 0], [0, 2], [3, 4]]


def test_a_table_of_others_needs_a_key_and_a_vector(tmp_path: Path) -> None:
    table = pa.table({"id": [7, 8], "embedding": [[1.0, 0.0], [0.0, 1.0]], "label": ["x", None]})
    pq.write_table(table, tmp_path / "theirs.parquet")
    with import_parquet(tmp_path / "theirs.parquet", tmp_path / "a.osler", key="id", vector="embedding") as cases:
        assert cases.keys() == ["7", "8"]
        assert cases["7"].metadata == {"label": "x"}
        assert cases.search(vector=[0, 1], k=1)[0].key == "8"
    with pytest.raises(ValueError, match="no column 'key'"):
        import_parquet(tmp_path / "theirs.parquet", tmp_path / "b.osler")


def test_what_is_neither_is_refused_and_nothing_is_made(tmp_path: Path) -> None:
    (tmp_path / "a.npy").write_bytes(b"\x93NUMPY nothing")
    np.save(tmp_path / "flat.npy", np.ones(3))
    np.save(tmp_path / "objects.npy", np.array([[None]]), allow_pickle=True)
    np.save(tmp_path / "nan.npy", np.array([[np.nan, 1]]))
    for name in ("a.npy", "flat.npy", "objects.npy"):
        with pytest.raises(ValueError, match=name.replace(".", r"\.")):
            import_npy(tmp_path / name, tmp_path / "out.osler")
        assert not (tmp_path / "out.osler").exists()
    with pytest.raises(ValueError, match="row 0 of vectors holds NaN"):
        import_npy(tmp_path / "nan.npy", tmp_path / "nan.osler")
    (tmp_path / "a.parquet").write_bytes(b"PAR1 nothing")
    pl.DataFrame({"key": ["a", "b"], "vector": [[1.0], [1.0, 2.0]]}).write_parquet(tmp_path / "ragged.parquet")
    for name in ("a.parquet", "ragged.parquet"):
        with pytest.raises(ValueError, match=name.replace(".", r"\.")):
            import_parquet(tmp_path / name, tmp_path / "out.osler")
    with pytest.raises(FileNotFoundError):
        import_npy(tmp_path / "none.npy", tmp_path / "out.osler")


@pytest.mark.parametrize("ending", ["npy", "usearch", "faiss", "hnswlib"])
def test_names_are_those_of_the_file_beside_them(tmp_path: Path, ending: str) -> None:
    cases = osler.Collection.create(tmp_path / "a.osler", dim=3)
    cases.add_vectors(["x", "y", "z"], np.eye(3))
    path = tmp_path / f"a.{ending}"
    export, import_ = (getattr(interchange, f"{verb}_{ending}") for verb in ("export", "import"))
    export(cases, path)
    assert import_(path, tmp_path / "b.osler").keys() == ["x", "y", "z"]
    other = osler.Collection.create(tmp_path / "c.osler", dim=3)
    other.add_vectors(["p", "q", "r"], np.eye(3)[::-1])
    export(other, tmp_path / f"other.{ending}")
    path.write_bytes((tmp_path / f"other.{ending}").read_bytes())
    with pytest.raises(ValueError, match="names the rows of another file"):
        import_(path, tmp_path / "d.osler")
    assert not (tmp_path / "d.osler").exists()


def test_an_export_is_private_while_it_is_written_and_leaves_no_old_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cases = osler.Collection.create(tmp_path / "a.osler", dim=3)
    cases.add_vectors(["x", "y", "z"], np.eye(3))
    path = tmp_path / "a.npy"
    interchange.export_npy(cases, path)
    modes = []

    def save(stream: Any, *_: Any, **__: Any) -> None:
        modes.append(os.fstat(stream.fileno()).st_mode & 0o777)
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises(osler.Error, match=r"a\.npy could not be written"):
        patch.setattr(np, "save", save)
        interchange.export_npy(cases, path)
    assert modes == [0o600]
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["a.npy", "a.osler"]
    assert interchange.import_npy(path, tmp_path / "b.osler").keys() == ["0", "1", "2"]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"frame": ["Doe", "Jane"]}, "column 'frame' of a.parquet must hold whole numbers"),
        ({"kind": [1, 2]}, "column 'kind' of a.parquet must hold text"),
        ({"box": [["a"], ["b"]]}, "column 'box' of a.parquet must hold lists of whole numbers"),
        ({"key": [["a"], ["b"]]}, "column 'key' of a.parquet must hold text or whole numbers"),
        ({"__more": [1, 2]}, "cannot be named '__more'"),
    ],
)
def test_a_table_that_does_not_fit_is_refused_without_its_cells_and_leaves_nothing(
    tmp_path: Path, columns: dict[str, Any], message: str
) -> None:
    frame = pl.DataFrame({"key": ["a", "b"], "vector": np.eye(2)} | columns)
    frame.write_parquet(tmp_path / "a.parquet")
    with pytest.raises(ValueError, match=re.escape(message)) as failure:
        interchange.import_parquet(tmp_path / "a.parquet", tmp_path / "a.osler")
    assert "Doe" not in str(failure.value)
    assert not (tmp_path / "a.osler").exists()


def test_every_column_that_is_not_ours_is_metadata(tmp_path: Path) -> None:
    frame = pd.DataFrame({"id": [5, 6], "emb": [[1.0, 0.0], [0.0, 1.0]], "part": ["chest", "knee"], "vector": [7, 8]})
    frame.index = [3, 9]
    frame.to_parquet(tmp_path / "a.parquet")
    assert "__index_level_0__" in pl.read_parquet(tmp_path / "a.parquet").columns
    cases = interchange.import_parquet(tmp_path / "a.parquet", tmp_path / "a.osler", key="id", vector="emb")
    assert [cases[key].metadata for key in ("5", "6")] == [
        {"part": "chest", "vector": 7},
        {"part": "knee", "vector": 8},
    ]
