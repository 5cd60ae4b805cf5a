"""Metadata: unset against null, types and their conflicts, tables of other libraries, names that are refused."""

from __future__ import annotations

import datetime
import json
import struct
import tempfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import osler
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from osler.collection.columns import Column, Table
from osler.collection.rows import Columns
from osler.items import Locator, Part

ROWS: list[dict[str, Any]] = [
    {"age": 61, "name": "ä'\"\n", "flag": True, "dose": 0.25},
    {"age": None, "day": datetime.date(2024, 5, 31), "tags": ["x", "y"]},
    {},
    {"when": datetime.datetime(2024, 5, 31, 12, 0, 1, 5), "tags": [], "dose": None},
]


def test_a_value_that_was_never_set_is_not_null(tmp_path: Path, cases: osler.Collection) -> None:
    keys = ["a", "b", "c", "d"]
    cases.add_vectors(keys[:2], None, metadata=ROWS[:2])
    cases.add_vectors(keys[2:], None, metadata=ROWS[2:])
    for opened in (cases, None):
        found = opened or osler.Collection.open(tmp_path / "cases.osler")
        assert [hit.metadata for hit in found.get(keys)] == ROWS
        assert found.keys("age IS NULL") == ["b", "c", "d"]
        assert found.keys("dose IS NULL") == ["b", "c", "d"]
        assert found.to_polars()["age"].to_list() == [61, None, None, None]
        assert found.schema == {
            "age": "int",
            "name": "text",
            "flag": "bool",
            "dose": "float",
            "day": "date",
            "tags": "list of text",
            "when": "datetime",
        }


def test_a_table_sets_every_cell(cases: osler.Collection) -> None:
    table = pl.DataFrame({"age": [1, None], "site": ["x", None]})
    for number, given_ in enumerate([table, table.to_arrow(), table.to_pandas(), table.to_dicts()]):
        keys = [f"{number}-0", f"{number}-1"]
        cases.add_vectors(keys, None, metadata=given_)
        ages = [hit.metadata["age"] for hit in cases.get(keys)]
        assert ages[0] == 1
        assert ages[1] is None or np.isnan(ages[1])
        assert [hit.metadata["site"] for hit in cases.get(keys)] == ["x", None]


def test_a_column_of_null_gets_its_type_later(tmp_path: Path, cases: osler.Collection) -> None:
    cases.add_vectors(["a"], None, metadata=[{"n": None}])
    assert cases.schema == {"n": "null"}
    assert cases.keys("n IS NULL") == ["a"]
    assert cases.keys("n = 1") == []
    cases.add_vectors(["b"], None, metadata=[{"n": "text"}])
    assert cases.schema == {"n": "text"}
    assert cases.keys("n = 'text'") == ["b"]
    with osler.Collection.open(tmp_path / "cases.osler") as again:
        assert [hit.metadata for hit in again.get(["a", "b"])] == [{"n": None}, {"n": "text"}]


def test_whole_numbers_become_real_ones_beside_them(cases: osler.Collection) -> None:
    cases.add_vectors(["a"], None, metadata=[{"n": 1}])
    cases.add_vectors(["b"], None, metadata=[{"n": 1.5}])
    values = [hit.metadata["n"] for hit in cases.get(["a", "b"])]
    assert values == [1.0, 1.5]
    assert all(type(value) is float for value in values)
    assert cases.keys("n < 1.2") == ["a"]


@pytest.mark.parametrize(
    ("first", "second", "words"),
    [
        (1, "x", "holds int in row 'a' and text in row 'b'"),
        ("x", 1, "holds text in row 'a' and int in row 'b'"),
        (True, 1, "holds bool in row 'a' and int in row 'b'"),
        ([1], ["x"], "holds list of int in row 'a' and list of text in row 'b'"),
        ([1], 1, "holds list of int in row 'a' and int in row 'b'"),
        (datetime.date(2024, 1, 1), "2024-01-01", "holds date in row 'a' and text in row 'b'"),
    ],
)
@pytest.mark.parametrize("together", [True, False])
def test_a_conflict_of_types_names_both_rows_and_adds_nothing(
    first: Any, second: Any, words: str, together: bool, cases: osler.Collection
) -> None:
    if together:
        with pytest.raises(ValueError, match=words):
            cases.add_vectors(["a", "b"], None, metadata=[{"n": first}, {"n": second}])
        assert len(cases) == 0
    else:
        cases.add_vectors(["0"], None, metadata=[{}])
        cases.add_vectors(["a"], None, metadata=[{"n": first}])
        with pytest.raises(ValueError, match=words):
            cases.add_vectors(["b"], None, metadata=[{"n": second, "new": 1}])
        assert cases.keys() == ["0", "a"]
        assert list(cases.schema) == ["n"]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"key": "x"}, "cannot be named 'key'"),
        ({"__set": 1}, "cannot be named '__set'"),
        ({"": 1}, "needs a name"),
        ({3: 1}, "needs a name"),
        ({"n": {"a": 1}}, "holds a dict"),
        ({"n": b"x"}, "holds a bytes"),
        ({"n": [1, "x"]}, "several types"),
        ({"n": 2**63}, "beyond 64 bits"),
        ({"n": datetime.datetime(2024, 1, 1, tzinfo=datetime.UTC)}, "with a zone"),
        ({"n": "x" * 70_000}, "exceeds 65536 bytes"),
    ],
)
def test_what_cannot_be_stored_is_refused(row: Any, message: str, cases: osler.Collection) -> None:
    with pytest.raises(ValueError, match=message):
        cases.add_vectors(["a", "b"], np.eye(8)[:2], metadata=[{}, row])
    assert len(cases) == 0


@pytest.mark.parametrize(
    ("keys", "vectors", "options", "error", "message"),
    [
        (["a", "a"], np.eye(8)[:2], {}, ValueError, "key 'a' is given twice"),
        (["a", 1], np.eye(8)[:2], {}, TypeError, "key 1 is a int"),
        (["a", ""], np.eye(8)[:2], {}, ValueError, "key 1 is empty"),
        (["a", "b\ud800"], np.eye(8)[:2], {}, ValueError, "key 1 holds half of a surrogate pair"),
        ("ab", np.eye(8)[:2], {}, TypeError, "keys is one str"),
        (["a"], np.eye(8)[:2], {}, ValueError, "2 vectors for 1 keys"),
        (["a"], np.eye(7)[:1], {}, ValueError, "7 columns, this collection has dim 8"),
        (["a"], np.ones(8), {}, ValueError, "shape"),
        (["a"], np.array([["x"] * 8]), {}, ValueError, "dtype"),
        (["a", "b"], np.vstack([np.ones(8), np.full(8, np.inf)]), {}, ValueError, "row 1 of vectors holds NaN"),
        (["a", "b"], np.vstack([np.ones(8), np.zeros(8)]), {}, ValueError, "row 1 of vectors is zero"),
        (["a"], np.ones((2, 8)), {"parts": [0, 1]}, ValueError, "outside the 1 keys"),
        (["a"], np.ones((2, 8)), {"parts": [0]}, ValueError, "2 vectors for 1 entries"),
        (["a"], np.ones((2, 8)), {"parts": [0.0, 0.0]}, ValueError, "whole numbers"),
        (["a"], None, {"parts": [0]}, ValueError, "without vectors"),
        (["a"], np.ones((1, 8)), {"kind": "video"}, ValueError, "kind is 'video'"),
        (["a"], np.ones((1, 8)), {"kind": ["text", "text"]}, ValueError, "kind has 2 entries"),
        (["a"], np.ones((1, 8)), {"locators": [3]}, TypeError, "a locator is a int"),
        (["a"], np.ones((1, 8)), {"locators": []}, ValueError, "locators has 0 entries"),
        (["a"], np.ones((1, 8)), {"metadata": []}, ValueError, "0 rows for 1 keys"),
        (["a"], np.ones((1, 8)), {"metadata": 3}, TypeError, "metadata is a int"),
        (["a"], np.ones((1, 8)), {"metadata": [3]}, TypeError, "list of dicts"),
        (["a"], np.ones((1, 8)), {"on_duplicate": "merge"}, ValueError, "on_duplicate is 'merge'"),
    ],
)
def test_arguments_that_do_not_fit_are_refused_and_nothing_is_added(
    keys: Any, vectors: Any, options: Any, error: type[Exception], message: str, cases: osler.Collection
) -> None:
    with pytest.raises(error, match=message):
        cases.add_vectors(keys, vectors, **options)
    assert len(cases) == 0
    assert cases.schema == {}


def test_parts_keep_their_places(tmp_path: Path, cases: osler.Collection) -> None:
    places = [Locator(frame=2), {"box": [1, 2, 3, 4]}, {"span": (0, 9)}, None]
    kinds = ["image", "image", "text", "text"]
    cases.add_vectors(["a", "b"], np.eye(8)[:4], parts=[1, 0, 1, 1], locators=places, kind=kinds)
    with osler.Collection.open(tmp_path / "cases.osler") as again:
        found = again.part_vectors(kind="any")
        assert found.keys == ["a", "b"]
        assert found.owner.tolist() == [0, 1, 1, 1]
        assert found.parts == [
            Part(0, "image", Locator(box=(1, 2, 3, 4))),
            Part(0, "image", Locator(frame=2)),
            Part(1, "text", Locator(span=(0, 9))),
            Part(2, "text", Locator()),
        ]
        assert found.vectors.argmax(1).tolist() == [1, 0, 2, 3]
        assert again["b"].part.locator.frame == 2
        assert [hit.part.position for hit in again.search(vector=np.eye(8)[3], kind="text")] == [2]


def test_columns_can_be_looked_through(cases: osler.Collection) -> None:
    cases.add_vectors(["a", "b", "c"], None, metadata=[{"n": 3, "s": "x"}, {"n": 1, "s": "x"}, {"n": None}])
    assert cases.unique("s") == ["x"]
    assert cases.unique("n") == [1, 3]
    assert cases.minmax("n") == (1, 3)
    assert cases.count("n > 1") == 1
    assert cases.count() == 3
    assert list(cases) == ["a", "b", "c"]
    assert cases.to_polars("s = 'x'")["key"].to_list() == ["a", "b"]
    with pytest.raises(ValueError, match="did you mean 'n'"):
        cases.unique("nn")
    with pytest.raises(KeyError, match="no item 'z'"):
        cases.get(["a", "z"])
    assert [hit.key for hit in cases.get(["z", "b"], missing="skip")] == ["b"]
    with pytest.raises(KeyError):
        cases["z"]
    assert cases.delete(["z"]) == 0
    with pytest.raises(ValueError, match="exactly one of keys= and where="):
        cases.delete()
    with pytest.raises(ValueError, match="there is no column 'm'"):
        cases.delete(where="m = 1")
    with pytest.raises(KeyError):
        cases.update("z", metadata={})


VALUE = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(allow_nan=False),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=8),
    st.dates(),
    st.lists(st.integers(-5, 5), max_size=3),
)


@given(st.lists(st.dictionaries(st.sampled_from(["a", "b", "c"]), VALUE), min_size=1, max_size=6))
def test_rows_come_back_from_their_file_as_they_went(rows: list[dict[str, Any]]) -> None:
    with tempfile.TemporaryDirectory() as folder, osler.Collection.create(f"{folder}/x.osler", dim=2) as cases:
        kept = []
        for number, row in enumerate(rows):
            before = cases.schema
            try:
                cases.add_vectors([str(number)], None, metadata=[row])
            except ValueError:
                assert cases.schema == before
                continue
            kept.append((str(number), row))
        for _ in range(2):
            with osler.Collection.open(cases.path) as again:
                assert [(hit.key, hit.metadata) for hit in again.get(again.keys())] == kept
            cases.compact()


def test_pandas_and_arrow_are_only_needed_by_those_who_pass_them() -> None:
    assert hasattr(pa.table({"a": [1]}), "__arrow_c_stream__")
    assert hasattr(pd.DataFrame({"a": [1]}), "__arrow_c_stream__")


def test_values_at_the_ends_of_what_python_has_come_back(cases: osler.Collection) -> None:
    rows = [
        {"when": datetime.datetime.min, "day": datetime.date.min, "n": 2**63 - 1},
        {"when": datetime.datetime.max, "day": datetime.date.max, "n": -(2**63)},
        {"when": datetime.datetime(4000, 1, 1), "day": datetime.date(9999, 12, 31)},
    ]
    cases.add_vectors(["a", "b", "c"], None, metadata=rows)
    with osler.Collection.open(cases.path) as again:
        assert [hit.metadata for hit in again.get(["a", "b", "c"])] == rows
        assert again.count("when > TIMESTAMP '3999-01-01 00:00:00'") == 2


def test_times_of_numpy_and_pandas_are_times(cases: osler.Collection) -> None:
    time = datetime.datetime(2024, 5, 31, 12, 0, 1, 5)
    rows = [{"t": np.datetime64(time, unit)} for unit in ("us", "ns")]
    rows += [{"t": pd.Timestamp(time)}, {"t": pd.NaT}, {"t": np.datetime64("NaT")}]
    cases.add_vectors(list("abcde"), None, metadata=rows)
    assert [hit.metadata["t"] for hit in cases.get(list("abcde"))] == [time, time, time, None, None]
    with pytest.raises(ValueError, match="column 't' holds a timedelta64"):
        cases.add_vectors(["f"], None, metadata=[{"t": np.timedelta64(1, "ns")}])


def test_whole_numbers_that_no_fraction_stands_beside_are_refused(cases: osler.Collection) -> None:
    cases.add_vectors(["a"], None, metadata=[{"id": 2**53 + 1}])
    for row in ({"id": 0.5}, {"id": 1.0}):
        with pytest.raises(ValueError, match=r"column 'id' holds a whole number beyond 2\*\*53"):
            cases.add_vectors(["b"], None, metadata=[row])
    cases.add_vectors(["c"], None, metadata=[{"f": 0.5}])
    with pytest.raises(ValueError, match="column 'f'"):
        cases.add_vectors(["d"], None, metadata=[{"f": 2**60}])
    # A row that is refused leaves nothing behind, not even how large its numbers were.
    columns = Columns({"n": "int"})
    with pytest.raises(ValueError, match="several types"):
        columns.accept("bad", {"n": 2**60, "l": [1, "x"]})
    columns.accept("good", {"n": 0.5})
    assert cases.count(f"id = {2**53 + 1}") == 1
    assert len(cases) == 2


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"l": ["x" * 70_000]}], "exceeds 65536 bytes"),
        ([{"s": "é" * 40_000}], "exceeds 65536 bytes"),
        ([{"s": "\ud800"}], "column 's' holds half of a surrogate pair"),
        ([{"\ud800": 1}], "name of a metadata column holds half"),
        ([{f"column {number}": 1 for number in range(2_001)}], "more than 2000 columns"),
    ],
)
def test_what_could_not_be_read_again_is_refused_before_it_is_written(
    rows: Any, message: str, cases: osler.Collection
) -> None:
    with pytest.raises(ValueError, match=message):
        cases.add_vectors(["a"], None, metadata=rows)
    assert len(cases) == 0 and cases.schema == {}


def test_a_table_too_large_to_be_read_is_not_written(cases: osler.Collection, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("osler.collection.columns._MOST_BYTES", 100_000)
    with pytest.raises(ValueError, match="metadata of 3 rows together is"):
        cases.add_vectors(list("abc"), None, metadata=[{"s": "x" * 40_000}] * 3)
    cases.add_vectors(["a"], None, metadata=[{"s": "x" * 40_000}])
    assert cases["a"].metadata == {"s": "x" * 40_000}


def test_rows_that_no_byte_stands_for_are_refused() -> None:
    # A list of 39 million entries of which each takes nothing, in 200 bytes.
    ends = np.full(1, 39_000_000, "<u4").tobytes()
    column = {"name": "l", "type": "list of null", "buffers": [0, len(ends), 0]}
    head = json.dumps({"rows": 1, "columns": [column]}).encode()
    head += b" " * (-(len(head) + 4) % 8)
    data = zlib.compress(struct.pack("<I", len(head)) + head + ends + bytes(4))
    with pytest.raises(ValueError, match="wrong states"):
        Table.read(data, 1)
    for kind, wrong in (("date", -2_999_999), ("datetime", 62_000_000_000_000_000 * 5)):
        bad = Column(kind, np.full(1, 2, np.uint8), np.array([wrong], "<i4" if kind == "date" else "<i8"))
        with pytest.raises(ValueError, match=f"wrong {kind}s"):
            Table.read(Table(1, {"c": bad}).to_bytes(), 1)
