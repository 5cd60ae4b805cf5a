"""No identifier of any package file, and no canary in any text tag, is in a message, a column or anything shown."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from dicom_files import build, package_files
from osler.errors import SourceError
from osler.sources import open_source
from osler.sources.identifiers import IDENTIFYING
from pydicom.datadict import DicomDictionary, dictionary_VR, tag_for_keyword
from pydicom.dataset import Dataset

TEXT = ("AE", "AS", "DA", "DT", "LO", "LT", "PN", "SH", "ST", "TM", "UC", "UI", "UR", "UT", "CS", "DS", "IS")
ALLOWED = {
    "BodyPartExamined",
    "ImageLaterality",
    "ImagerPixelSpacing",
    "Laterality",
    "Manufacturer",
    "Modality",
    "NominalScannedPixelSpacing",
    "NumberOfFrames",
    "PatientSex",
    "PhotometricInterpretation",
    "PixelSpacing",
    "SliceThickness",
    "SOPClassUID",
    "SpecificCharacterSet",
    "ViewPosition",
}


def _texts(dataset: Dataset) -> set[str]:
    """Return every value of an identifying attribute, at any depth, decoded and as it was written."""
    found: set[str] = set()
    for element in dataset.iterall():
        if element.keyword.lower() not in IDENTIFYING and element.VR != "PN" and not element.tag.is_private:
            continue
        if element.VR not in TEXT:
            continue
        values = element.value if isinstance(element.value, pydicom.multival.MultiValue) else [element.value]
        for value in values:
            found.add(str(value).strip())
            if element.VR == "PN" and value:
                found.update(part.strip() for group in str(value).split("=") for part in group.split("^"))
                found.update(raw.decode("latin-1") for raw in (value.original_string,) if isinstance(raw, bytes))
    return {text for text in found if len(text) >= 4 and not text.isspace()}


def test_no_identifier_of_a_package_file_is_shown_or_stored(
    capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    known = checked = 0
    for path in package_files():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                dataset = pydicom.dcmread(path, force=True)
                identifiers = _texts(dataset)
            except Exception:
                identifiers = set()
            allowed = " ".join(str(dataset.get(keyword, "")).upper() for keyword in ALLOWED)
        caplog.clear()
        source = open_source(path)
        try:
            item = source.read(source.entries[0])
            shown = [repr(item), *(str(value) for value in item.metadata.values() if isinstance(value, str))]
        except SourceError as error:
            shown = [str(error), repr(error)]
        shown += [repr(source), repr(source.entries[0])]
        known += len(identifiers)
        for text in identifiers:
            checked += 1
            # A station may be called after its maker, a protocol after the part of the body.
            if text.upper() in allowed:
                continue
            assert not any(text in line for line in shown), (path.name, "an identifier of this file is shown")
    assert checked == known > 1500
    printed = capfd.readouterr()
    assert printed.out == printed.err == "" and caplog.records == []


def _canary(vr: str, number: int) -> Any:
    return {
        "DA": f"1777{number % 12 + 1:02d}{number % 27 + 1:02d}",
        "DT": f"1777{number % 12 + 1:02d}{number % 27 + 1:02d}101112",
        "TM": "071717",
        "AS": "717Y",
        "UI": f"1.7.7777.{number}",
        "DS": str(777000 + number),
        "IS": str(777000 + number),
    }.get(vr, f"QUINCE{number}X"[:16])


def _canaries() -> dict[str, Any]:
    found = {}
    for number, (tag, (vr, _, _, _, keyword)) in enumerate(sorted(DicomDictionary.items())):
        group = tag >> 16
        if keyword and vr in TEXT and keyword not in ALLOWED and group not in (0, 2, 4, 6, 0x28, 0xFFFE):
            found[keyword] = _canary(vr, number)
    return found


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("broken", [False, True])
def test_canaries_in_every_text_tag_stay_in_the_file(
    broken: bool, tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    canaries = _canaries()
    assert len(canaries) > 2000
    data = build(np.zeros((4, 4), np.uint16), **canaries, **({"BitsAllocated": 12} if broken else {}))
    (tmp_path / "x").write_bytes(data)
    assert data.count(b"QUINCE") > 500
    caplog.clear()
    source = open_source(tmp_path / "x")
    try:
        item = source.read(source.entries[0])
    except SourceError as error:
        assert broken and error.__cause__ is None
        shown = f"{error} {error!r}"
    else:
        assert not broken
        shown = f"{dict(item.metadata)} {item!r}"
        assert set(item.metadata) == {"modality", "photometric", "rows", "columns", "frames", "encoding", "pixel_phi"}
        assert set(item.identifiers) == {"patient_id", "study_id", "series_id", "instance_id"}
    printed = capfd.readouterr()
    shown += printed.out + printed.err + "".join(record.getMessage() for record in caplog.records)
    for mark in ("QUINCE", "7777", "1777", "777", "0717"):
        assert mark not in shown


@pytest.mark.filterwarnings("ignore")
def test_a_canary_that_is_named_is_kept_exactly(tmp_path: Path) -> None:
    canaries = _canaries()
    keep = [keyword for keyword in canaries if dictionary_VR(tag_for_keyword(keyword) or 0) in ("LO", "PN", "SH")]
    (tmp_path / "x").write_bytes(build(np.zeros((4, 4), np.uint16), **canaries))
    source = open_source(tmp_path / "x", keep=keep)
    metadata = source.read(source.entries[0]).metadata
    assert len(keep) > 300 and all(metadata[keyword] == canaries[keyword] for keyword in keep)
