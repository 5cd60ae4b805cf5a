"""Canaries: after every file of pydicom was added, no identifier of any of them is in any byte that was written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import data_store
import format_reader
import osler
import pydicom
import pytest
from osler.collection.privacy import ALLOWED, IDENTIFIERS
from pydicom.charset import python_encoding

DATA = [Path(pydicom.__file__).parent / "data", Path(data_store.__file__).parent / "data"]
# Attributes of the basic profile of PS3.15 whose values stand for one person, visit or place.
IDENTIFYING = [
    "PatientName",
    "PatientID",
    "OtherPatientIDs",
    "OtherPatientNames",
    "PatientAddress",
    "PatientTelephoneNumbers",
    "PatientComments",
    "PatientMotherBirthName",
    "ReferringPhysicianName",
    "PerformingPhysicianName",
    "OperatorsName",
    "PhysiciansOfRecord",
    "RequestingPhysician",
    "NameOfPhysiciansReadingStudy",
    "InstitutionName",
    "InstitutionAddress",
    "StationName",
    "AccessionNumber",
    "StudyID",
    "DeviceSerialNumber",
    "PatientBirthDate",
    "StudyDate",
    "SeriesDate",
    "AcquisitionDate",
    "ContentDate",
    "StudyDescription",
    "SeriesDescription",
    "StudyInstanceUID",
    "SeriesInstanceUID",
    "SOPInstanceUID",
    "FrameOfReferenceUID",
]
# Values that say nothing of a person, and occur in any text or number.
TOO_SHORT = 6


def encodings(text: str) -> set[bytes]:
    found = set()
    for name in {"utf-8", "utf-16-le", *(codec for codec in python_encoding.values() if codec)}:
        try:
            found.add(text.encode(name))
        except (UnicodeEncodeError, LookupError):
            continue
    return found


def canaries() -> dict[bytes, str]:
    """Identifying values of every file, as bytes in upper case, with the tag that they came from.

    Left out are those that the allow-list lets through: some files give the machine's maker as the institution, the
    part of the body as the description, or "Patient", which is part of the name of a column, as a name.
    """
    found: dict[bytes, str] = {}
    allowed = {*ALLOWED, *IDENTIFIERS}
    for folder in DATA:
        for path in sorted(folder.rglob("*")):
            try:
                dataset = pydicom.dcmread(path, force=False, stop_before_pixels=True)
            except Exception:
                continue
            allowed |= {str(dataset.get(keyword) or "").strip() for keyword in ("Manufacturer", "BodyPartExamined")}
            for keyword in IDENTIFYING:
                try:
                    value = dataset.get(keyword)
                except Exception:
                    continue
                for text in {str(value or "").strip(), *(str(value or "").split("^"))}:
                    raw = text.strip()
                    if len(raw) >= TOO_SHORT:
                        found.update(dict.fromkeys(encodings(raw.upper()), keyword))
    stored = "\n".join(allowed).upper()
    return {one: tag for one, tag in found.items() if one.decode("latin-1") not in stored}


def contents(file: Path) -> bytes:
    """The bytes of a file in upper case, and of a Parquet file its values too, which are compressed."""
    data = file.read_bytes()
    return (data + format_reader.texts(data)).upper()


@pytest.fixture(scope="module")
def everything(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    import importlib.util

    found = importlib.util.spec_from_file_location("tiny", Path(__file__).with_name("conftest.py"))
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    folder = tmp_path_factory.mktemp("canary")
    with osler.Collection.create(folder / "cases.osler", encoder=module.TinyEncoder()) as cases:
        report = cases.add([path for path in DATA if path.is_dir()], progress=False)
        cases.delete(cases.keys()[3:5])
        cases.search(text="chest").to_html(folder / "hits.html")
        (folder / "repr.txt").write_text("\n".join(map(repr, (cases, cases.info(), cases.search(text="chest")))))
        messages = "\n".join(f"{failure.code} {failure.message}" for failure in report.failures)
        (folder / "failures.txt").write_text(f"{messages}\n{report!r}")
    return folder, report


@pytest.mark.slow
def test_every_file_has_one_outcome(everything: tuple[Path, Any]) -> None:
    _, report = everything
    files = sum(file.is_file() for path in DATA for file in path.rglob("*"))
    assert report.added + report.skipped + report.duplicates == files
    assert report.added > 140


@pytest.mark.slow
def test_no_canary_is_in_any_byte_that_was_written(everything: tuple[Path, Any]) -> None:
    folder, _ = everything
    planted = canaries()
    assert len(planted) > 300
    scanned = 0
    for file in sorted(folder.rglob("*")):
        if not file.is_file() or file.parent.name == "locators":
            continue
        scanned += 1
        data = contents(file)
        found = sorted({keyword for canary, keyword in planted.items() if canary in data})
        assert not found, f"{file.name} holds a value of {found}"
    assert scanned > 8


@pytest.mark.slow
def test_the_scanner_finds_a_planted_canary(everything: tuple[Path, Any], tmp_path: Path) -> None:
    planted = canaries()
    names = [canary for canary, keyword in planted.items() if keyword == "PatientName" and canary.isascii()]
    assert len(names) > 20
    text = names[0].decode("ascii")
    with osler.Collection.create(tmp_path / "a.osler", dim=2) as cases:
        cases.add_vectors(["a", "b"], None, metadata=[{"a": text.lower()}] * 2)
        (segment,) = (cases.path / "segments").iterdir()
    assert names[0] not in segment.read_bytes().upper()
    assert names[0] in contents(segment)


def test_only_the_locators_know_where_the_files_lie(everything: tuple[Path, Any]) -> None:
    folder, _ = everything
    names = {path.name.upper().encode() for root in DATA for path in root.rglob("*.dcm") if len(path.name) > 9}
    assert len(names) > 100
    located = b"".join(contents(file) for file in (folder / "cases.osler" / "locators").iterdir())
    assert sum(name in located for name in names) > 80
    for file in folder.rglob("*"):
        if file.is_file() and file.parent.name != "locators":
            data = contents(file)
            assert not [name for name in names if name in data], file.name
