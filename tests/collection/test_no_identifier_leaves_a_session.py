"""Canaries in every text of a DICOM file, in names of files, in the notes of pictures and in a table: after building,
asking, failing, being killed and exporting, none is in anything that was written or said. What was asked for by name is
where it should be."""

from __future__ import annotations

import base64
import binascii
import csv
import os
import re
import signal
import subprocess
import sys
import time
import urllib.parse
import zlib
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import format_reader
import numpy as np
import osler
import polars as pl
import pydicom
import pytest
from PIL import Image, PngImagePlugin
from pydicom.data import get_testdata_file
from pydicom.datadict import DicomDictionary
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

CANARY = re.compile(rb"zq\d{5}w", re.IGNORECASE)
UID = re.compile(rb"1\.3\.99991\.\d+")
TEXT = {"PN", "LO", "SH", "ST", "LT", "UT", "UC", "AE"}
# Columns that are stored of every file, and what the file needs to be read.
LET_THROUGH = {"Manufacturer", "SpecificCharacterSet", "CodingSchemeVersion"}
KEPT = "StudyDescription"


def marked(numbers: Iterator[int]) -> tuple[pydicom.Dataset, int]:
    """A file with a canary in each text and identifier that the standard knows; how many there are."""
    dataset = pydicom.dcmread(str(get_testdata_file("CT_small.dcm", download=False)))
    placed = 0
    nested = Dataset()
    for tag, (vr, _, _, retired, keyword) in DicomDictionary.items():
        if not keyword or tag >> 16 in (0, 2, 4) or retired or keyword in LET_THROUGH:
            continue
        if vr in TEXT:
            value = f"Zq{next(numbers):05}w"
        elif vr == "UI" and "Class" not in keyword and "Syntax" not in keyword:
            value = f"1.3.99991.{next(numbers)}"
        else:
            continue
        setattr(dataset if placed % 4 else nested, keyword, value)
        placed += 1
    nested.PatientName = f"Zq{next(numbers):05}w^Jane"
    for keyword in ("PatientName", "PatientID", KEPT):
        setattr(dataset, keyword, f"Zq{next(numbers):05}w")
    dataset.OtherPatientIDsSequence = Sequence([nested])
    block = dataset.private_block(0x0099, f"Zq{next(numbers):05}w", create=True)
    block.add_new(1, "LO", f"Zq{next(numbers):05}w")
    return dataset, placed


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """Everything that is done with a folder, in processes whose folders all lie in one place; and what they said."""
    folder = tmp_path_factory.mktemp("session")
    numbers = count(10_000)
    source = folder / "source"
    ward = source / f"Zq{next(numbers):05}w"
    ward.mkdir(parents=True)
    placed = 0
    for _ in range(3):
        dataset, more = marked(numbers)
        dataset.save_as(ward / f"Zq{next(numbers):05}w.dcm", enforce_file_format=True)
        placed += more
    assert placed > 2_000
    whole = next(ward.iterdir()).read_bytes()
    (ward / f"Zq{next(numbers):05}w.dcm").write_bytes(whole[: len(whole) // 2])
    (ward / f"Zq{next(numbers):05}w.txt").write_text(f"Zq{next(numbers):05}w")
    notes = PngImagePlugin.PngInfo()
    notes.add_text("Author", f"Zq{next(numbers):05}w")
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64), np.uint8)
    Image.fromarray(pixels).save(source / "a.png", pnginfo=notes)
    exif = Image.Exif()
    exif[0x010E] = f"Zq{next(numbers):05}w"
    Image.fromarray(pixels[::-1]).save(source / "b.jpg", exif=exif)
    Image.fromarray(pixels[:, ::-1]).save(source / "c.tif", tiffinfo={270: f"Zq{next(numbers):05}w"})
    with open(folder / "source.csv", "w", newline="") as stream:
        rows = [
            ["file", "patient_id", "side"],
            ["a.png", f"Zq{next(numbers):05}w", "left"],
            ["b.jpg", f"Zq{next(numbers):05}w", "right"],
        ]
        csv.writer(stream).writerows(rows)
    said: list[str] = []
    for name in ("tmp", "home", "work"):
        (folder / name).mkdir()
    environment = os.environ | {
        "TMPDIR": str(folder / "tmp"),
        "OSLER_HOME": str(folder / "home"),
        "HOME": str(folder / "home"),
    }

    def run(*arguments: str, expected: int = 0) -> str:
        command = [sys.executable, "-m", "osler.cli", *arguments]
        done = subprocess.run(
            command, capture_output=True, text=True, cwd=folder / "work", env=environment, timeout=300
        )
        assert done.returncode == expected, done.stderr
        said.extend([done.stdout, done.stderr])
        return done.stdout

    run("index", "build", str(source), "-o", "cases.osler", "--metadata", str(folder / "source.csv"))
    run("index", "build", str(source), "-o", "kept.osler", "--keep", KEPT)
    run("index", "info", "cases.osler")
    run("index", "audit", "cases.osler")
    run("index", "verify", "cases.osler")
    run("query", "cases.osler", "--like", "a.png", "--format", "json")
    run("query", "cases.osler", "--like", "a.png", "--where", "modality = 'CT'", "--html", "hits.html")
    run("query", "cases.osler", "--like", "a.png", "--where", "nothing = 1", expected=2)
    run("index", "delete", "cases.osler", "--key", "b.jpg")
    run("index", "erase", "cases.osler", "--key", "c.tif")
    run("index", "compact", "cases.osler")
    for ending in ("npy", "parquet", "usearch", "faiss", "hnswlib"):
        run("index", "export", "cases.osler", "-o", f"out.{ending}")
    _killed(folder, source, environment)
    run("index", "verify", "killed.osler")
    return folder, said


def _killed(folder: Path, source: Path, environment: dict[str, str]) -> None:
    """Kill a build in the middle: after its first commit, while it decodes."""
    script = (
        "import sys, time\nfrom osler.collection import ingest\nfrom osler.cli import main\n"
        "ingest._COMMIT_ITEMS = ingest._ENCODE_FRAMES = 1\nreal = ingest._Run.take\n"
        "def take(self, read):\n    real(self, read)\n"
        "    print('took', file=sys.stderr, flush=True)\n    time.sleep(0.3)\n"
        "ingest._Run.take = take\n"
        f"sys.argv[1:] = ['index', 'build', {str(source)!r}, '-o', 'killed.osler']\nmain()\n"
    )
    command = [sys.executable, "-c", script]
    with subprocess.Popen(command, cwd=folder / "work", env=environment, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        for line in process.stderr:
            manifests = folder / "work" / "killed.osler" / "manifests"
            if "took" in line and manifests.is_dir() and len(list(manifests.iterdir())) > 1:
                break
        time.sleep(0.05)
        process.send_signal(signal.SIGKILL)


def views(data: bytes) -> Iterator[tuple[str, bytes]]:
    """Bytes as they are and as they may hide something."""
    yield "plain", data
    yield "in UTF-16", data.replace(b"\0", b"")
    yield "reversed", data[::-1]
    yield "quoted", urllib.parse.unquote_to_bytes(data)
    for run in re.findall(rb"[0-9a-fA-F]{16,}", data):
        yield "in hex", binascii.unhexlify(run[: len(run) // 2 * 2])
    for run in re.findall(rb"[A-Za-z0-9+/_-]{11,}", data):
        plain = run.translate(bytes.maketrans(b"-_", b"+/"))
        for start in range(4):
            part = plain[start:]
            yield "in base64", base64.b64decode(part + b"A" * (-len(part) % 4))
    for start in [match.start() for match in re.finditer(rb"\x78[\x01\x5e\x9c\xda]|\x1f\x8b\x08", data)]:
        try:
            yield "deflated", zlib.decompressobj(zlib.MAX_WBITS | 32).decompress(data[start:], 1 << 22)
        except zlib.error:
            continue


def found(data: bytes) -> list[str]:
    """In what guise there is a canary."""
    return sorted({guise for guise, view in views(data) if CANARY.search(view) or UID.search(view)})


def contents(file: Path) -> bytes:
    data = file.read_bytes()
    if file.suffix == ".parquet":
        return data + repr(pl.read_parquet(file).to_dicts()).encode()
    return data + format_reader.texts(data)


@pytest.mark.slow
def test_the_scanner_sees_every_guise() -> None:
    canary = b"Zq12345w"
    for hidden in (
        canary, canary.upper(), canary.decode().encode("utf-16-le"), canary[::-1], canary.hex().encode(),
        b"%5a%71%31%32%33%34%35%77", base64.b64encode(b"xy" + canary + b"z"), base64.urlsafe_b64encode(b"x" + canary),
        zlib.compress(b"before " + canary), b"1.3.99991.44",
    ):  # fmt: skip
        assert found(b"some " + hidden + b" more"), hidden
    assert not found(b"nothing of it, zq1234w")


@pytest.mark.slow
def test_no_canary_is_in_what_was_written(session: tuple[Path, list[str]]) -> None:
    folder, _ = session
    scanned = set()
    for file in sorted(folder.rglob("*")):
        inside = file.relative_to(folder).parts[0] in ("work", "tmp", "home")
        # Where files lie is kept apart, and kept.osler was asked to keep something.
        if not file.is_file() or not inside or file.parent.name == "locators" or "kept.osler" in file.parts:
            continue
        scanned.add(file.suffix)
        assert not found(contents(file)), f"{file.relative_to(folder)}: {found(contents(file))}"
        assert not CANARY.search(file.name.encode())
    assert scanned >= {
        ".segment",
        ".manifest",
        ".npy",
        ".parquet",
        ".usearch",
        ".faiss",
        ".hnswlib",
        ".html",
        ".secret",
    }


@pytest.mark.slow
def test_places_hold_names_of_files_alone(session: tuple[Path, list[str]]) -> None:
    folder, _ = session
    names = {path.name.encode() for path in (folder / "source").rglob("*")}
    stems = {match.lower() for name in names for match in CANARY.findall(name)}
    located = b"".join(contents(file) for file in (folder / "work" / "cases.osler" / "locators").iterdir())
    assert located
    assert {match.lower() for match in CANARY.findall(located)} <= stems
    assert not UID.search(located)


@pytest.mark.slow
def test_no_canary_was_said(session: tuple[Path, list[str]]) -> None:
    _, said = session
    assert sum(map(len, said)) > 2_000
    for text in said:
        assert not found(text.encode()), text


@pytest.mark.slow
def test_what_was_asked_for_is_there(session: tuple[Path, list[str]]) -> None:
    folder, _ = session
    with osler.Collection.open(folder / "work" / "kept.osler") as cases:
        kept = [value for value in cases.unique(KEPT) if value]
        assert len(kept) == 3 and all(CANARY.fullmatch(value.encode()) for value in kept)
        assert cases.info().policy["keep"] == [KEPT]
        others = [name for name in cases.schema if name != KEPT]
        assert not found(repr(cases.to_polars().select(others).to_dicts()).encode())
    with osler.Collection.open(folder / "work" / "killed.osler") as cases:
        assert 0 < len(cases) < 6
