"""The walk over elements before parsing: every file of the packages passes, and what exhausts parsers is refused."""

from __future__ import annotations

import io
import os
import struct
import subprocess
import sys
from pathlib import Path

import data_store
import numpy as np
import pydicom.data
import pytest
from dicom_files import build
from osler.config import LIMITS, Limits
from osler.decode import read_pixels
from osler.decode.prewalk import check_elements
from osler.errors import SourceError
from pydicom.dataset import Dataset
from pydicom.filewriter import dcmwrite
from pydicom.sequence import Sequence

ROOTS = [Path(pydicom.data.__file__).parent, Path(data_store.__file__).parent]
FILES = sorted(file for root in ROOTS for file in root.rglob("*") if file.is_file() and file.stat().st_size < 3 << 20)
RAMP = np.arange(64 * 64, dtype=np.uint16).reshape(64, 64)


def test_no_file_of_the_packages_is_refused() -> None:
    assert len(FILES) > 150
    for file in FILES:
        check_elements(file.read_bytes())


def written(dataset: Dataset, implicit: bool) -> bytes:
    stream = io.BytesIO()
    dcmwrite(stream, dataset, implicit_vr=implicit, little_endian=True)
    return stream.getvalue()


def nested(depth: int) -> Dataset:
    inner = Dataset()
    inner.PatientComments = "end"
    for _ in range(depth):
        outer = Dataset()
        outer.ReferencedImageSequence = Sequence([inner])
        inner = outer
    return inner


@pytest.mark.parametrize("implicit", [False, True])
@pytest.mark.parametrize("undefined", [False, True])
def test_depth_is_counted_in_every_writing(implicit: bool, undefined: bool) -> None:
    for depth, refused in ((LIMITS.sequence_depth - 1, False), (LIMITS.sequence_depth + 1, True)):
        dataset = nested(depth)
        level = dataset
        while undefined and "ReferencedImageSequence" in level:
            level["ReferencedImageSequence"].is_undefined_length = True
            level = level.ReferencedImageSequence[0]
            level.is_undefined_length_sequence_item = True
        data = written(dataset, implicit)
        if refused:
            with pytest.raises(SourceError, match="nested more than 32 deep") as caught:
                check_elements(data)
            assert caught.value.code == "too_large"
        else:
            check_elements(data)


def test_ten_thousand_levels_cost_nothing() -> None:
    item = struct.pack("<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF)
    sequence = struct.pack("<HH2sHI", 0x0008, 0x1140, b"SQ", 0, 0xFFFFFFFF)
    with pytest.raises(SourceError, match="nested"):
        read_pixels(build(RAMP)[:132] + build(RAMP)[132:].split(b"\x08\x00")[0] + (sequence + item) * 10_000)


def test_elements_are_counted() -> None:
    one = struct.pack("<HH2sH", 0x0011, 0x1001, b"LO", 2) + b"ab"
    head = build(RAMP)
    start = head.index(struct.pack("<HH", 0x0008, 0x0016))
    check_elements(head[:start] + one * 1_000)
    with pytest.raises(SourceError, match=r"more than 50,000 elements.*OSLER_LIMIT_ELEMENTS") as caught:
        check_elements(head[:start] + one * (LIMITS.elements + 1))
    assert caught.value.code == "too_large"


def test_a_long_element_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    head = build(RAMP)
    start = head.index(struct.pack("<HH", 0x0008, 0x0016))
    long = struct.pack("<HH2sHI", 0x0011, 0x1001, b"OB", 0, 2_000)
    monkeypatch.setattr("osler.decode.prewalk.LIMITS", Limits(element_bytes=1_000))
    with pytest.raises(SourceError, match=r"an element of more than 1,000 bytes.*OSLER_LIMIT_ELEMENT_BYTES"):
        check_elements(head[:start] + long + bytes(2_000))
    # What states more than there is is left to the parser.
    check_elements(head[:start] + long + bytes(100))


def test_a_header_cut_anywhere_or_of_noise_ends_the_walk(rng: np.random.Generator) -> None:
    data = build(RAMP)[:3_000]
    for length in range(0, len(data), 7):
        check_elements(data[:length])
    for _ in range(300):
        changed = bytearray(data)
        for at in rng.integers(0, len(data), 6):
            changed[at] = rng.integers(256)
        try:
            check_elements(bytes(changed))
        except SourceError as error:
            assert error.code == "too_large"


def test_a_limit_is_raised_from_the_environment() -> None:
    script = "from osler.config import LIMITS; print(LIMITS.elements)"
    environment = {**os.environ, "OSLER_LIMIT_ELEMENTS": "70000"}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "70000"
    environment["OSLER_LIMIT_ELEMENTS"] = "many"
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True)
    assert "OSLER_LIMIT_ELEMENTS is 'many'" in done.stderr
