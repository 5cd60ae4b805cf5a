"""No byte of an index file can change without `verify` saying so, and no damaged file crashes or answers wrongly.

Every byte of one small file is flipped; larger files are sampled. An error names file, section and offset.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import osler
import pytest
from forms import FULL, SCANNED, WALKED, Form

DETECTED = (osler.CorruptIndexError, osler.FormatVersionError)


def small(path: Path, n: int = 12) -> bytes:
    rows = np.random.default_rng(3).standard_normal((n, 5)).astype(np.float32)
    index = osler.Index.build(rows, keys=np.arange(100, 100 + n))
    index.delete([100])
    index.save(path)
    return path.read_bytes()


def verify(path: Path, *, mmap: bool) -> None:
    osler.Index.open(path, mmap=mmap).verify()


def undetected(path: Path, content: bytes, flips: Iterable[tuple[int, int]], *, mmap: bool) -> list[tuple[int, int]]:
    """Flip bits in place, one pattern at a time, and return the (offset, pattern) that went unnoticed."""
    missed = []
    with path.open("r+b", buffering=0) as file:
        for offset, pattern in flips:
            file.seek(offset)
            file.write(bytes([content[offset] ^ pattern]))
            try:
                verify(path, mmap=mmap)
            except DETECTED:
                pass
            else:
                missed.append((offset, pattern))
            file.seek(offset)
            file.write(content[offset : offset + 1])
    verify(path, mmap=mmap)
    return missed


@pytest.mark.parametrize("mmap", [True, False], ids=["mapped", "in memory"])
def test_every_byte_counts(tmp_path: Path, mmap: bool, rng: np.random.Generator) -> None:
    path = tmp_path / "a.osler"
    content = small(path)
    patterns = rng.integers(1, 256, len(content)).tolist()
    missed = undetected(path, content, enumerate(patterns), mmap=mmap)
    assert not missed, f"{len(missed)} of {len(content)} damaged bytes passed, the first at {missed[0]}"


@pytest.mark.parametrize("form", WALKED + SCANNED, ids=str)
def test_bytes_of_every_form_count(tmp_path: Path, form: Form, rng: np.random.Generator) -> None:
    path = tmp_path / "a.osler"
    rows = rng.standard_normal((2_050, 12)).astype(np.float32)
    osler.Index.build(rows, **form.options).save(path)
    content = path.read_bytes()
    offsets = rng.choice(len(content), 60, replace=False).tolist()
    patterns = rng.integers(1, 256, len(offsets)).tolist()
    for mmap in (True, False):
        missed = undetected(path, content, zip(offsets, patterns, strict=True), mmap=mmap)
        assert not missed, f"{len(missed)} damaged bytes passed, the first at {missed[0]}"


def test_every_bit_of_the_first_page_counts(tmp_path: Path) -> None:
    path = tmp_path / "a.osler"
    content = small(path)
    flips = [(offset, 1 << bit) for offset in range(min(4096, len(content))) for bit in range(8)]
    assert undetected(path, content, flips, mmap=True) == []


def test_findings_name_the_place(tmp_path: Path) -> None:
    path = tmp_path / "a.osler"
    content = bytearray(small(path, 2_200))
    for offset in (5_000, len(content) // 2, len(content) - 1):
        damaged = bytearray(content)
        damaged[offset] ^= 0x10
        path.write_bytes(damaged)
        with pytest.raises(osler.CorruptIndexError, match=r"a\.osler") as raised:
            verify(path, mmap=True)
        assert isinstance(raised.value, ValueError)
        assert raised.value.code == "corrupt"
        assert raised.value.findings
        for finding in raised.value.findings:
            assert {"file", "section", "offset", "problem"} <= finding.keys()
            assert Path(finding["file"]).name == "a.osler"
        nearest = min(abs(int(finding["offset"]) - offset) for finding in raised.value.findings)
        assert nearest <= 1 << 16, "the finding lies outside the damaged block"


def test_all_damage_is_listed(tmp_path: Path) -> None:
    path = tmp_path / "a.osler"
    content = bytearray(small(path, 3_000))
    places = [len(content) // 4, len(content) // 2, 3 * len(content) // 4]
    for offset in places:
        content[offset] ^= 1
    path.write_bytes(content)
    with pytest.raises(osler.CorruptIndexError) as raised:
        verify(path, mmap=True)
    assert len(raised.value.findings) >= 2, "one pass must name more than the first damage"


def test_truncated_and_extended_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.osler"
    content = small(path, 40)
    lengths = {0, 1, 7, 8, 9, *range(0, len(content), 512), *range(len(content) - 20, len(content))}
    for length in sorted(lengths):
        path.write_bytes(content[:length])
        for mmap in (True, False):
            with pytest.raises(DETECTED):
                verify(path, mmap=mmap)
    for more in (b"\0", bytes(4096), content):
        path.write_bytes(content + more)
        with pytest.raises(DETECTED):
            verify(path, mmap=True)


def test_other_files_are_refused(tmp_path: Path, rng: np.random.Generator) -> None:
    path = tmp_path / "a.osler"
    for content in (b"", b"\x93NUMPY" + bytes(5_000), b"%PDF-1.7\n" * 900, bytes(50_000), rng.bytes(50_000)):
        path.write_bytes(content)
        with pytest.raises(DETECTED, match=r"a\.osler"):
            osler.Index.open(path)


@pytest.mark.parametrize("form", [FULL[0], *WALKED[1:], SCANNED[0], SCANNED[1]], ids=str)
def test_damage_never_changes_an_answer(tmp_path: Path, form: Form, rng: np.random.Generator) -> None:
    """Without `verify`, what a search touches is checked: it raises, or its answer is the undamaged one."""
    path = tmp_path / "a.osler"
    rows = rng.standard_normal((2_300, 16)).astype(np.float32)
    osler.Index.build(rows, **form.options).save(path)
    content = bytearray(path.read_bytes())
    whole = osler.Index.open(path).search(rows[:40], 10)
    raised = 0
    for offset in rng.choice(len(content), 300, replace=False):
        bit = 1 << int(rng.integers(8))
        content[offset] ^= bit
        path.write_bytes(content)
        content[offset] ^= bit
        try:
            found = osler.Index.open(path).search(rows[:40], 10)
        except DETECTED:
            raised += 1
        else:
            np.testing.assert_array_equal(found.keys, whole.keys)
            np.testing.assert_array_equal(found.scores, whole.scores)
    print(f"{raised} of 300 damaged files raised, the others answered as before")
    assert raised > 0


def test_a_damaged_pickle_is_refused(rng: np.random.Generator) -> None:
    constructor, arguments = osler.Index.build(rng.standard_normal((20, 4))).__reduce__()[:2]
    content = next(argument for argument in arguments if isinstance(argument, bytes))
    for offset in range(0, len(content), 997):
        damaged = bytearray(content)
        damaged[offset] ^= 1
        with pytest.raises(DETECTED):
            constructor(*(bytes(damaged) if argument is content else argument for argument in arguments)).verify()
