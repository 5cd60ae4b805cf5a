"""faiss and hnswlib files that are cut, changed or made to do harm: refused by name and place, in bounded memory."""

from __future__ import annotations

import re
import struct
import tracemalloc
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import foreign_files as made
import numpy as np
import osler
import pytest
from osler.collection.interchange import export_faiss, import_faiss, import_hnswlib, read_faiss, read_hnswlib
from osler.errors import CorruptIndexError

FILES = [*sorted((made.HERE / "faiss-1.15.1").glob("*-l2.faiss"))]
FILES += [made.HERE / "hnswlib-0.8.0" / f"{name}.hnswlib" for name in ("deleted", "l2")]
# What any eight bytes are made, counts and sizes among them: far too much, past 2**63, minus one, much, none.
ABSURD = [struct.pack("<Q", number) for number in (2**40, 2**63, 2**64 - 1, 2**31 - 1, 0)]
SPARE = 1 << 18


def read(path: Path) -> tuple[np.ndarray, np.ndarray]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        found: Any = read_faiss(path) if path.suffix == ".faiss" else read_hnswlib(path)
    return found[0], found[1]


def attempt(path: Path, content: bytes) -> ValueError | None:
    """Read a changed file; anything but vectors of its own size or a ValueError is a failure, as is more memory."""
    path.write_bytes(content)
    tracemalloc.reset_peak()
    before = tracemalloc.get_traced_memory()[0]
    try:
        keys, vectors = read(path)
        assert keys.dtype == np.uint64 and vectors.dtype == np.float32
        assert len(keys) == len(vectors) and vectors.nbytes <= len(content)
        problem = None
    except ValueError as error:
        assert path.name in str(error)
        problem = error
    assert tracemalloc.get_traced_memory()[1] - before <= 6 * len(content) + SPARE
    return problem


@pytest.fixture(scope="module", autouse=True)
def traced() -> Iterator[None]:
    tracemalloc.start()
    yield
    tracemalloc.stop()


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_a_cut_file_is_refused_wherever_it_is_cut(file: Path, tmp_path: Path) -> None:
    content = file.read_bytes()
    path = tmp_path / file.name
    assert attempt(path, content) is None
    for end in range(0, len(content), 7):
        problem = attempt(path, content[:end])
        assert problem is not None, f"cut at {end}"
        if end >= 96:
            assert isinstance(problem, CorruptIndexError)
    assert attempt(path, content + b"\0") is not None
    assert attempt(path, content + content) is not None


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_absurd_numbers_are_refused_or_read_as_they_are(file: Path, tmp_path: Path) -> None:
    content = file.read_bytes()
    path = tmp_path / file.name
    refused = 0
    for at in [*range(320), *range(320, len(content) - 8, 8)]:
        absurd = ABSURD[at % len(ABSURD)]
        refused += attempt(path, content[:at] + absurd + content[at + 8 :]) is not None
    assert refused > 20


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_flipped_bits_never_do_more_than_change_numbers(file: Path, tmp_path: Path, rng: np.random.Generator) -> None:
    content = file.read_bytes()
    path = tmp_path / file.name
    for _ in range(250):
        changed = bytearray(content)
        for at in rng.integers(len(content) * 8, size=rng.integers(1, 6)).tolist():
            changed[at // 8] ^= 1 << at % 8
        attempt(path, bytes(changed))


def test_an_import_of_a_changed_file_makes_all_or_nothing(tmp_path: Path, rng: np.random.Generator) -> None:
    whole = 0
    for number in range(120):
        file = FILES[number % len(FILES)]
        changed = bytearray(file.read_bytes())
        at = int(rng.integers(len(changed)))
        changed[at] ^= int(rng.integers(1, 256))
        path = tmp_path / f"{number}{file.suffix}"
        path.write_bytes(changed)
        out = tmp_path / f"{number}.osler"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            try:
                load: Any = import_faiss if file.suffix == ".faiss" else import_hnswlib
                with load(path, out) as cases:
                    assert len(cases) in (45, 46, 47, 48)
                    whole += 1
            except ValueError:
                assert not out.exists() or not len(osler.Collection.open(out))
        assert path.read_bytes() == changed
    assert 20 < whole < 120


def test_a_message_names_file_place_and_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "a.faiss"
    export_faiss(osler.Index.build(np.eye(4, dtype=np.float32)), path)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(CorruptIndexError) as caught:
        read_faiss(path)
    assert str(caught.value) == (
        "a.faiss is damaged in its vectors, before byte 45: 64 bytes should follow and 63 do; get a whole copy"
    )
    assert caught.value.findings == (
        {"file": "a.faiss", "section": "vectors", "offset": 45, "problem": "64 bytes should follow and 63 do"},
    )


def nested(depth: int) -> bytes:
    header = struct.pack("<4siqqqBi", b"IxMp", 2, 0, 0, 0, 1, 1)
    return header * depth + struct.pack("<4siqqqBiQ", b"IxF2", 2, 0, 0, 0, 1, 1, 0) + struct.pack("<Q", 0) * depth


def test_indexes_in_indexes_end(tmp_path: Path) -> None:
    assert attempt(tmp_path / "a.faiss", nested(3)) is None
    problem = attempt(tmp_path / "a.faiss", nested(10_000))
    assert re.search("deeper than Osler reads", str(problem))
