"""Slides that were made to do harm end in an outcome of their own: bombs, lies, cycles, cuts and bits that were turned.

Each is read in a contained process; what that may hold and how long it may take is bounded, and the next slide is read.
"""

from __future__ import annotations

import io
import os
import struct
import sys
import zlib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from osler.config import LIMITS
from osler.errors import SourceError
from osler.sources import open_source, process, slide_process, workers
from osler.sources.decoder import Here
from osler.sources.slide_kind import slide_kind
from osler.sources.workers import Workers
from slide_files import draw_slide, tissue_picture, write_dicom_slide, write_slide

CODES = {
    "bad_header",
    "decode_failed",
    "missing_decoder",
    "no_level",
    "no_mpp",
    "no_pixels",
    "no_tissue",
    "no_tiles",
    "too_large",
    "truncated",
    "unsupported_format",
    "unsupported_transfer_syntax",
    "not_an_image",
    "unknown_format",
}


@pytest.fixture(scope="module")
def decoder() -> Iterator[Workers]:
    found = Workers(1)
    yield found
    found.close()


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    picture = draw_slide(500, 700, 8)[0]
    return write_slide(tmp_path_factory.mktemp("good") / "good.svs", picture, kind="svs", compression="jpeg", tile=128)


def outcome(path: Path, decoder: Any, tiles: str = "128@0.5") -> str:
    """Read a slide to its last tile."""
    try:
        source = open_source(path, tiles=tiles, decoder=decoder)
        item = source.read(source.entries[0])
        for tile in item.values:
            assert tile.shape in ((128, 128, 3), (500, 700, 3)) or tile.ndim >= 2
        return "read"
    except SourceError as error:
        assert error.code in CODES, (error.code, str(error))
        return error.code


def tiff(*directories: list[tuple[int, int, Any]], chain: list[int] | None = None, data: bytes = b"") -> bytes:
    """A little-endian TIFF: per directory its tags as (tag, type, values); `chain` overrides which comes next."""
    out = bytearray(b"II*\0\0\0\0\0") + data
    places = []
    for tags in directories:
        extra = bytearray()
        while len(out) % 2:
            out += b"\0"
        places.append(len(out))
        base = len(out) + 2 + 12 * len(tags) + 4
        entries = b""
        for tag, kind, values in tags:
            raw = (
                values
                if isinstance(values, bytes)
                else b"".join(struct.pack({3: "<H", 4: "<I"}[kind], v) for v in values)
            )
            count = len(values)
            if len(raw) <= 4:
                entries += struct.pack("<HHI", tag, kind, count) + raw.ljust(4, b"\0")
            else:
                entries += struct.pack("<HHII", tag, kind, count, base + len(extra))
                extra += raw
        out += struct.pack("<H", len(tags)) + entries + b"\0\0\0\0" + extra
    for number, place in enumerate(places):
        count = struct.unpack("<H", out[place : place + 2])[0]
        following = (chain or [*range(1, len(places)), -1])[number]
        at = place + 2 + 12 * count
        out[at : at + 4] = struct.pack("<I", places[following] if following >= 0 else 0)
    out[4:8] = struct.pack("<I", places[0])
    return bytes(out)


def level(
    width: int,
    height: int,
    tile: tuple[int, int] = (128, 128),
    spans: list[tuple[int, int]] | None = None,
    compression: int = 8,
    bits: int = 8,
    more: list[tuple[int, int, Any]] | None = None,
) -> list[tuple[int, int, Any]]:
    spans = [(8, 64)] if spans is None else spans
    tags = [
        (256, 4, [width]),
        (257, 4, [height]),
        (258, 3, [bits] * 3),
        (259, 3, [compression]),
        (262, 3, [2]),
        (270, 2, b"Aperio |MPP = 0.5\0"),
        (277, 3, [3]),
        (322, 4, [tile[0]]),
        (323, 4, [tile[1]]),
        (324, 4, [offset for offset, _ in spans]),
        (325, 4, [count for _, count in spans]),
    ]
    return sorted(tags + (more or []))


@cache
def hostile() -> dict[str, tuple[bytes, set[str]]]:
    """Files, and the outcomes that each may have."""
    pixels = zlib.compress(bytes(128 * 128 * 3))
    one = [(8, len(pixels))]
    bomb = zlib.compress(bytes(256 << 20), 9)
    many = [level(256, 256, spans=one * 4)] + [level(256 // 2, 256 // 2, spans=one)] * 300
    huge_jpeg = b"\xff\xd8\xff\xc0\0\x11\x08\xff\xff\xff\xff\x03\x01\x22\0\x02\x11\x01\x03\x11\x01\xff\xd9"
    return {
        "sound": (tiff(level(128, 128, spans=one), data=pixels), {"no_tissue"}),
        "a cycle of directories": (
            tiff(level(128, 128, spans=one), level(64, 64, spans=one), chain=[1, 0], data=pixels),
            {"no_tissue"},
        ),
        "a directory that follows itself": (tiff(level(128, 128, spans=one), chain=[0], data=pixels), {"no_tissue"}),
        "hundreds of levels": (tiff(*many, data=pixels), {"bad_header", "no_tissue"}),
        "tiles of a gigapixel": (tiff(level(65_535, 65_535, (1 << 30, 1 << 30), one)), {"too_large", "bad_header"}),
        "tiles of no pixel": (tiff(level(128, 128, (0, 0), one), data=pixels), {"bad_header", "decode_failed"}),
        "a slide of 2^31 pixels a side": (
            tiff(level((1 << 31) - 1, (1 << 31) - 1, spans=one)),
            {"too_large", "bad_header"},
        ),
        "fewer tiles than there must be": (tiff(level(4_096, 4_096, spans=one), data=pixels), {"bad_header"}),
        "tiles beyond the end": (tiff(level(128, 128, spans=[(1 << 30, 100)]), data=pixels), {"truncated"}),
        "tiles that are the header": (
            tiff(level(128, 128, spans=[(0, 64)]), data=pixels),
            {"decode_failed", "no_tissue"},
        ),
        "a deflate bomb": (
            tiff(level(128, 128, spans=[(8, len(bomb))]), data=bomb),
            {"no_tissue", "decode_failed", "too_large"},
        ),
        "a JPEG of four gigapixels": (
            tiff(level(128, 128, spans=[(8, len(huge_jpeg))], compression=7), data=huge_jpeg),
            {"decode_failed", "too_large"},
        ),
        "64 bits a sample": (
            tiff(level(128, 128, spans=one, bits=64), data=pixels),
            {"unsupported_format", "bad_header", "decode_failed"},
        ),
        "a compression of no name": (
            tiff(level(128, 128, spans=one, compression=999), data=pixels),
            {"decode_failed", "unsupported_format", "bad_header"},
        ),
        "a resolution of nothing": (
            tiff(level(128, 128, spans=one, more=[(282, 5, b"\0" * 8)]), data=pixels),
            {"no_tissue", "bad_header"},
        ),
        "no directory": (b"II*\0\xff\xff\xff\x7f" + bytes(64), {"decode_failed", "truncated", "bad_header"}),
        "big and nothing": (b"II+\0\x08\0\0\0" + b"\xff" * 8 + bytes(64), {"decode_failed", "truncated", "bad_header"}),
    }


@pytest.mark.parametrize("name", hostile())
def test_each_has_its_outcome_and_leaves_the_next_alone(
    name: str, decoder: Workers, good: Path, tmp_path: Path
) -> None:
    data, codes = hostile()[name]
    (tmp_path / "a.svs").write_bytes(data)
    assert outcome(tmp_path / "a.svs", decoder) in codes
    assert outcome(tmp_path / "a.svs", Here()) in codes
    assert outcome(good, decoder) == "read"
    assert decoder.peak < 900 << 20 and decoder.broken == 0


@pytest.mark.slow
def test_bits_that_are_turned_and_ends_that_are_cut(
    decoder: Workers, good: Path, tmp_path: Path, rng: np.random.Generator
) -> None:
    """In the process that is to hold it; the same file in this one says the same."""
    seen: dict[str, int] = {}
    data = good.read_bytes()
    path = tmp_path / "a.svs"
    directories = [offset for offset in starts(data) if offset]
    for trial in range(50):
        turned = bytearray(data)
        if trial % 5 == 4:
            del turned[int(rng.integers(8, len(turned))) :]
        for _ in range(int(rng.integers(1, 6))):
            # Half of them in directories, where sizes and places are.
            at = (
                int(rng.choice(directories)) + int(rng.integers(0, 250))
                if rng.random() < 0.6
                else int(rng.integers(len(turned)))
            )
            if at < len(turned):
                turned[at] = int(rng.integers(256))
        path.write_bytes(bytes(turned) or b"x")
        found = outcome(path, decoder)
        seen[found] = seen.get(found, 0) + 1
    assert len(seen) >= 4 and sum(seen.values()) == 50, seen
    assert decoder.broken == 0 and decoder.peak < 900 << 20
    assert outcome(good, decoder) == "read"


def starts(data: bytes) -> list[int]:
    with tifffile.TiffFile(io.BytesIO(data)) as found:
        return [page.offset for page in found.pages]


@pytest.mark.slow
def test_dicom_that_was_turned(decoder: Workers, tmp_path: Path, rng: np.random.Generator) -> None:
    picture = tissue_picture(300, 300, 2)
    first, *rest = write_dicom_slide(tmp_path / "sound", picture, label=False)
    data = first.read_bytes()
    folder = tmp_path / "turned"
    folder.mkdir()
    for path in rest:
        (folder / path.name).write_bytes(path.read_bytes())
    seen = set()
    for trial in range(16):
        turned = bytearray(data)
        if trial % 4 == 3:
            del turned[int(rng.integers(600, len(turned))) :]
        for _ in range(int(rng.integers(1, 5))):
            at = int(rng.integers(400, 1_800 if rng.random() < 0.7 else len(turned)))
            if at < len(turned):
                turned[at] = int(rng.integers(256))
        (folder / first.name).write_bytes(turned)
        seen.add(outcome(folder, decoder))
    assert len(seen) >= 3 and decoder.broken == 0


def test_kinds_are_told_of_anything(rng: np.random.Generator, good: Path, tmp_path: Path) -> None:
    data, path = good.read_bytes(), tmp_path / "a"
    for trial in range(400):
        turned = bytearray(data[: int(rng.integers(1, len(data)))] if trial % 2 else data)
        for at in rng.integers(0, min(len(turned), 4_000), 8):
            turned[at] = int(rng.integers(256))
        path.write_bytes(turned)
        for wanted in (False, True):
            assert slide_kind(path, wanted=wanted) in (None, "tiff", "openslide")
    path.write_bytes(tiff(level(128, 128), level(64, 64), chain=[1, 0]))
    assert slide_kind(path) == "tiff"
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    assert slide_kind(fifo) is None and slide_kind(tmp_path) is None


FAULTY = """
import ctypes, os, sys, time
from osler.sources import slide_worker, slides
real = slides.Slide.region
def region(self, box, width, height):
    if box[0] == 256 and box[1] == 128 and width == 128:
        fault = {fault!r}
        if fault == "SEGV":
            ctypes.string_at(0)
        elif fault == "SPIN":
            while True:
                pass
        elif fault == "MEMORY":
            bytearray(8 << 30)
        elif fault == "OPEN":
            open("/dev/null")
        elif fault == "SHAPE":
            return real(self, box, width, height)[:-1]
        elif fault == "NOISE":
            os.write(3, b"\\xff" * 4096)
    return real(self, box, width, height)
def pipes(descriptor, dup=os.dup):
    return dup(descriptor)
slides.Slide.region = region
slide_worker.main(int(sys.argv[1]), sys.argv[2], sys.argv[3:])
"""


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        ("SEGV", "crashed"),
        ("SPIN", "too_slow"),
        ("MEMORY", "too_large"),
        ("OPEN", "decode_failed"),
        ("SHAPE", "crashed"),
    ],
)
def test_a_fault_in_a_tile_costs_the_tile(
    fault: str, code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import dataclasses

    from osler.sources import interpreter, worker

    small = dataclasses.replace(LIMITS, decode_seconds=1, decode_bytes=1 << 30)
    for module in (process, workers, worker, interpreter):
        monkeypatch.setattr(module, "LIMITS", small)
    monkeypatch.setattr(process, "SLIDE_PROGRAM", FAULTY.format(fault=fault))
    picture = tissue_picture(640, 640, 3)
    path = write_slide(tmp_path / "a.tif", picture, compression="zlib", factors=(1, 4), tile=128)
    decoder = Workers(1)
    source = open_source(path, tiles="128@0.5,tissue=0", decoder=decoder)
    values = source.read(source.entries[0]).values
    tiles = list(values)
    decoder.close()
    assert dict(values.unreadable) == {7: code}  # type: ignore[attr-defined]
    assert np.array_equal(tiles[8], picture[128:256, 384:512]) and (tiles[7] == 255).all()


def test_what_a_process_says_of_a_slide_is_checked() -> None:
    sound: dict[str, Any] = {"format": "svs", "mpp": [0.5, 0.5], "levels": [[10, 20]], "columns": {}, "identifiers": {}}
    assert slide_process._info(sound, "tiff").height == 20
    wrong: list[dict[str, Any]] = [
        {"format": 7},
        {"format": "a\x1b]0;b"},
        {"format": "x" * 99},
        {"mpp": [0.5]},
        {"mpp": [float("inf"), 1.0]},
        {"mpp": "0.5"},
        {"levels": []},
        {"levels": [[0, 5]]},
        {"levels": [[True, 5]]},
        {"levels": [[1 << 40, 5]]},
        {"levels": [[5, 5, 5]]},
        {"levels": [[5, 5]] * 99},
        {"columns": {"patient": "Doe"}},
        {"identifiers": {"patient_id": "Doe"}},
        {"columns": None},
    ]
    for one in wrong:
        with pytest.raises(SourceError, match="gave no right answer"):
            slide_process._info(sound | one, "tiff")
    with pytest.raises(SourceError, match="gave no right answer"):
        slide_process._info({}, "tiff")
    assert slide_process._info(sound | {"identifiers": {"patient_id": "1"}}, "dicom").identifiers == {"patient_id": "1"}


TAKEN = """
import ctypes, json, os, resource, sys
from osler.sources import slide_worker, worker
real = slide_worker._SlideWorker._done
def done(self, request, data):
    told = {}
    for name, call in (("open", lambda: os.open("/etc/passwd", os.O_RDONLY)), ("dup", lambda: os.dup(0)),
                       ("write", lambda: os.write(int(sys.argv[3]), b"x")), ("unlink", lambda: os.unlink("nothing")),
                       ("fork", os.fork)):
        try:
            call()
            told[name] = "done"
        except OSError as error:
            told[name] = type(error).__name__
    raise worker.SourceError(json.dumps([told, sorted(sys.modules)]), code="told")
slide_worker._SlideWorker._done = done
slide_worker.main(int(sys.argv[1]), sys.argv[2], sys.argv[3:])
"""


@pytest.mark.skipif(sys.platform != "linux", reason="filters of system calls are Linux's")
def test_the_process_can_reach_its_slide_and_nothing_else(good: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import json

    monkeypatch.setattr(process, "SLIDE_PROGRAM", TAKEN)
    monkeypatch.setattr(process, "_MESSAGE_LENGTH", 1 << 20)
    decoder = Workers(1)
    with pytest.raises(SourceError) as caught:
        decoder.slide([good], "tiff")
    decoder.close()
    told, modules = json.loads(str(caught.value))
    assert set(told) == {"open", "dup", "write", "unlink", "fork"} and "done" not in told.values(), told
    assert {"tifffile", "imagecodecs"} <= set(modules)
    assert not {"onnxruntime", "polars", "scipy", "osler.collection", "osler.encoders", "openslide"} & set(modules)


def test_nothing_is_left_running(good: Path) -> None:
    decoder = Workers(1)
    source = open_source(good, tiles="64@0.5", decoder=decoder)
    values = source.read(source.entries[0]).values
    _ = values[0], values[1]
    assert len(decoder._running) == 1
    decoder.close()
    assert not decoder._running
    with pytest.raises(Exception, match="were ended") as caught:
        values[len(values) - 1]
    assert caught.value.code == "closed"  # type: ignore[attr-defined]
