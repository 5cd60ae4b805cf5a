"""From a DICOM header come the allowed columns in a fixed form, tags that were named, and nothing else."""

from __future__ import annotations

from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dicom_files import build, path_of, sequence
from hypothesis import given
from hypothesis import strategies as st
from osler.errors import SourceError
from osler.items import Item
from osler.sources import open_source
from osler.sources.dicom import age_in_years, code, year_of

GREY = np.arange(16, dtype=np.uint8).reshape(4, 4)


def _read(tmp_path: Path, keep: Any = (), **elements: Any) -> Item:
    (tmp_path / "x.dcm").write_bytes(build(GREY, **elements))
    source = open_source(tmp_path / "x.dcm", keep=keep)
    return source.read(source.entries[0])


@pytest.mark.filterwarnings("ignore")
def test_every_column_of_a_full_header(tmp_path: Path) -> None:
    item = _read(
        tmp_path,
        Modality="MG",
        BodyPartExamined="breast",
        ViewPosition="cc",
        ImageLaterality="L",
        PixelSpacing=["0.07", "0.08"],
        SliceThickness="2.5",
        Manufacturer="Maker, Inc.",
        StudyDate="20200131",
        PatientAge="061Y",
        PatientSex="F",
        PatientID="P-1",
        PatientName="Doe^Jane",
        StudyInstanceUID="1.2.3",
        SeriesInstanceUID="1.2.4",
        SOPInstanceUID="1.2.5",
    )
    assert dict(item.metadata) == {
        "modality": "MG",
        "body_part": "BREAST",
        "view": "CC",
        "laterality": "L",
        "photometric": "MONOCHROME2",
        "rows": 4,
        "columns": 4,
        "frames": 1,
        "spacing": 0.07,
        "slice_thickness": 2.5,
        "manufacturer": "MAKER INC",
        "year": 2020,
        "age": 61,
        "sex": "F",
        "encoding": "Explicit VR Little Endian",
    }
    assert dict(item.identifiers) == {
        "patient_id": "P-1",
        "study_id": "1.2.3",
        "series_id": "1.2.4",
        "instance_id": "1.2.5",
    }
    assert item.key is None and item.content == (tmp_path / "x.dcm").read_bytes()


def test_what_the_header_lacks_is_absent(tmp_path: Path) -> None:
    item = _read(tmp_path, Modality=None, PatientID="")
    assert set(item.metadata) == {"photometric", "rows", "columns", "frames", "encoding"}
    assert set(item.identifiers) == {"instance_id"}


@pytest.mark.parametrize(
    ("elements", "flagged"),
    [
        ({"Modality": "US"}, True),
        ({"Modality": "SC"}, True),
        ({"Modality": "CT"}, False),
        ({"Modality": "US", "BurnedInAnnotation": "NO"}, False),
        ({"Modality": "CT", "BurnedInAnnotation": "YES"}, True),
    ],
)
def test_pixels_that_may_hold_text_are_flagged(tmp_path: Path, elements: dict[str, str], flagged: bool) -> None:
    assert _read(tmp_path, **elements).metadata.get("pixel_phi") == ("possible" if flagged else None)


def test_measures_of_an_enhanced_file(tmp_path: Path) -> None:
    measures = sequence(PixelMeasuresSequence=sequence(PixelSpacing=["0.5", "0.5"], SliceThickness="3"))
    metadata = _read(tmp_path, SharedFunctionalGroupsSequence=measures).metadata
    assert metadata["spacing"] == 0.5 and metadata["slice_thickness"] == 3.0


def test_named_tags_are_kept_as_they_are(tmp_path: Path) -> None:
    item = _read(
        tmp_path,
        keep=["PatientName", "ImageType", "SeriesNumber", "StudyDescription", "EchoTime"],
        PatientName="Yamada^Tarou",
        ImageType=["ORIGINAL", "PRIMARY"],
        SeriesNumber=7,
        EchoTime="2.5",
    )
    assert item.metadata["PatientName"] == "Yamada^Tarou"
    assert item.metadata["ImageType"] == "ORIGINAL\\PRIMARY"
    assert item.metadata["SeriesNumber"] == 7 and item.metadata["EchoTime"] == 2.5
    assert "StudyDescription" not in item.metadata


@pytest.mark.parametrize(
    ("name", "words"), [("PatientsName", "PatientName"), ("patient id", "PatientID"), ("PixelData", "no single value")]
)
def test_an_unknown_tag_is_refused_with_the_nearest(tmp_path: Path, name: str, words: str) -> None:
    (tmp_path / "x").write_bytes(build(GREY))
    with pytest.raises(ValueError, match=words):
        open_source(tmp_path, keep=[name])
    with pytest.raises(TypeError, match="list of names"):
        open_source(tmp_path, keep=name)


@pytest.mark.filterwarnings("ignore")
def test_a_header_that_is_free_text_is_not_stored(tmp_path: Path) -> None:
    item = _read(
        tmp_path,
        BodyPartExamined="CHEST",
        ViewPosition="AP",
        PatientSex="X",
        Manufacturer="A" * 65,
        StudyDate="19000001",
        PatientAge="061",
    )
    kept = {"modality", "body_part", "view", "photometric", "rows", "columns", "frames", "encoding", "pixel_phi"}
    assert set(item.metadata) == kept


@given(st.text(max_size=40))
def test_codes_are_capitals_digits_and_spaces(text: str) -> None:
    found = code(text)
    if found is not None:
        assert 0 < len(found) <= 16 and found == found.strip() and "  " not in found
        assert all(letter in "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789 " for letter in found)
        assert code(found) == found


@given(st.integers(0, 999), st.sampled_from("DWMY"))
def test_ages_are_whole_years_up_to_ninety(number: int, unit: str) -> None:
    days = {"D": 1, "W": 7, "M": 30.4375, "Y": 365.25}[unit]
    found = age_in_years(f"{number:03d}{unit}")
    years = number * days / 365.25
    if years > 151:
        assert found is None
    else:
        assert found is not None and 0 <= found <= 90 and abs(found - min(years, 90)) <= 1.1


@given(st.dates(date(1900, 1, 1), date(2020, 1, 1)), st.integers(0, 40_000))
def test_ages_from_dates_count_birthdays(born: date, days: int) -> None:
    studied = born + timedelta(days=days)
    whole = 0
    while True:
        try:
            birthday = born.replace(year=born.year + whole + 1)
        except ValueError:
            birthday = date(born.year + whole + 1, 3, 1)
        if birthday > studied:
            break
        whole += 1
    assert age_in_years("", f"{born:%Y%m%d}", f"{studied:%Y%m%d}") == min(whole, 90)
    if days:
        assert age_in_years(None, f"{studied:%Y%m%d}", f"{born:%Y%m%d}") is None


@given(st.dates(date(1895, 1, 1), date(2200, 12, 31)))
def test_years_of_dates(day: date) -> None:
    assert year_of(f"{day:%Y%m%d}") == year_of(f"{day:%Y.%m.%d}") == day.year


@given(st.text(max_size=12))
def test_no_other_text_is_a_date_or_an_age(text: str) -> None:
    found = year_of(text)
    assert found is None or (text.strip()[:4].isdecimal() and 1895 <= found <= 2200)
    assert age_in_years(text) is None or text.strip()[-1].upper() in "DWMY"


def test_real_files_have_sound_columns() -> None:
    for name, expected in (
        ("RG1_J2KI.dcm", {"modality": "CR", "body_part": "CHEST", "view": "PA", "age": 64, "sex": "F", "year": 2004}),
        ("emri_small.dcm", {"modality": "MR", "frames": 10, "body_part": "HEAD"}),
        ("US1_J2KI.dcm", {"modality": "US", "encoding": "JPEG 2000", "pixel_phi": "possible"}),
        ("CT_small.dcm", {"modality": "CT", "manufacturer": "GE MEDICAL SYSTEMS", "slice_thickness": 5.0}),
    ):
        source = open_source(path_of(name))
        metadata = source.read(source.entries[0]).metadata
        assert expected.items() <= metadata.items()


def test_without_pydicom_a_tag_cannot_be_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pydicom.datadict", None)
    with pytest.raises(SourceError, match="pip install"):
        open_source(tmp_path, keep=["PatientID"])
