"""A DICOM file's pixels, the allow-listed columns of its header, and raw identifiers to be pseudonymised.

Reads only the tags that are listed here or named in `keep`; every value is checked and brought to a fixed form. The
list is that of the project's privacy rules; DICOM PS3.15, annex E, says why the rest stays behind.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import date
from difflib import get_close_matches
from typing import Any

from numpy.typing import NDArray

from osler.decode.dicom import DicomFile
from osler.decode.planes import Plane, planes_of, values_of
from osler.decode.quiet import quiet
from osler.errors import SourceError

__all__ = [
    "COLUMNS",
    "IDENTIFIERS",
    "age_in_years",
    "check_keep",
    "code",
    "header_of",
    "read_dicom",
    "read_values",
    "year_of",
]

# What is stored of a header without being named.
COLUMNS = (
    "modality",
    "body_part",
    "view",
    "laterality",
    "photometric",
    "rows",
    "columns",
    "frames",
    "spacing",
    "slice_thickness",
    "manufacturer",
    "year",
    "age",
    "sex",
    "encoding",
    "pixel_phi",
    "slice_spacing",
    "volume_findings",
)
IDENTIFIERS = {
    "patient_id": "PatientID",
    "study_id": "StudyInstanceUID",
    "series_id": "SeriesInstanceUID",
    "instance_id": "SOPInstanceUID",
}
# PS3.15 calls for a look at the pixels of these kinds where the header does not say that there is no text in them.
_TEXT_IN_PIXELS = ("US", "SC", "XC", "ES", "OT")
_NO_TEXT_VR = ("SQ", "OB", "OW", "OF", "OD", "OL", "OV", "UN", "OB or OW")
_OLDEST_YEAR = 1895


def code(value: Any, longest: int = 16) -> str | None:
    """Bring a code string to upper-case letters, digits and single spaces; None if it is empty or too long for one.

    Examples
    --------
    >>> from osler.sources.dicom import code
    >>> code("c-spine "), code("a sentence that someone typed here")
    ('C SPINE', None)
    """
    text = "" if value is None else str(value).strip()
    if len(text) > longest:
        return None
    return re.sub(r"[^A-Z0-9]+", " ", text.upper()).strip() or None


def year_of(value: Any) -> int | None:
    """Return the year of a DICOM date (YYYYMMDD, or the old YYYY.MM.DD), or None if it is no date.

    Examples
    --------
    >>> from osler.sources.dicom import year_of
    >>> year_of("20040119"), year_of("2004.01.19"), year_of("someday")
    (2004, 2004, None)
    """
    day = _day(value)
    return day.year if day else None


def _day(value: Any) -> date | None:
    found = re.fullmatch(r"([0-9]{4})(\.?)([0-9]{2})\2([0-9]{2})", "" if value is None else str(value).strip())
    if not found or not _OLDEST_YEAR <= int(found[1]) <= 2200:
        return None
    try:
        return date(int(found[1]), int(found[3]), int(found[4]))
    except ValueError:
        return None


def age_in_years(age: Any, born: Any = None, studied: Any = None) -> int | None:
    """Return an age in whole years, 90 for everyone of 90 or more.

    Parameters
    ----------
    age : str
        DICOM age string: three digits and D, W, M or Y.
    born, studied : str
        DICOM dates, used where `age` is absent.

    Examples
    --------
    >>> from osler.sources.dicom import age_in_years
    >>> age_in_years("018M"), age_in_years("097Y"), age_in_years(None, "19700102", "20040101")
    (1, 90, 33)
    """
    found = re.fullmatch(r"([0-9]{1,3})([DWMY])", "" if age is None else str(age).strip().upper())
    if found:
        number = int(found[1])
        years = {"D": number // 365, "W": number // 52, "M": number // 12, "Y": number}[found[2]]
    else:
        birth, day = _day(born), _day(studied)
        if birth is None or day is None or day < birth:
            return None
        years = day.year - birth.year - ((day.month, day.day) < (birth.month, birth.day))
    return min(years, 90) if years <= 150 else None


def check_keep(keep: Sequence[str], columns: Sequence[str] = ()) -> tuple[str, ...]:
    """Return the DICOM keywords among the names to keep; the others must be columns of a table.

    Raises
    ------
    ValueError
        A name is neither, or its tag holds no text; the message names the nearest.

    Examples
    --------
    >>> from osler.sources.dicom import check_keep
    >>> check_keep(["PatientID"])
    ('PatientID',)
    >>> check_keep(["PatientsID"])
    Traceback (most recent call last):
    ValueError: keep names 'PatientsID', which is no DICOM keyword and no column of a table; did you mean 'PatientID'?
    """
    if isinstance(keep, str):
        raise TypeError(f"keep is the text {keep!r}; give a list of names")
    if not keep:
        return ()
    try:
        from pydicom.datadict import DicomDictionary, dictionary_VR, tag_for_keyword
    except ImportError:
        if set(keep) <= set(columns):
            return ()
        raise SourceError(
            'keep names DICOM tags, which need the package pydicom; run pip install "osler[dicom]"',
            code="missing_decoder",
        ) from None
    tags = []
    for name in keep:
        tag = tag_for_keyword(name)
        if tag is None and name in columns:
            continue
        if tag is None:
            names = [*(entry[4] for entry in DicomDictionary.values() if entry[4]), *columns]
            known = {re.sub(r"[\W_]", "", known.lower()): known for known in names}
            near = get_close_matches(re.sub(r"[\W_]", "", str(name).lower()), known, n=1, cutoff=0.6)
            hint = f"; did you mean {known[near[0]]!r}?" if near else "; use a keyword such as 'PatientID'"
            raise ValueError(f"keep names {name!r}, which is no DICOM keyword and no column of a table{hint}")
        if dictionary_VR(tag) in _NO_TEXT_VR:
            raise ValueError(f"keep names {name!r}, which holds no single value; name tags of text or numbers")
        tags.append(name)
    return tuple(tags)


def read_dicom(
    data: bytes, keep: Sequence[str] = ()
) -> tuple[Sequence[NDArray[Any]], dict[str, Any], dict[str, str], tuple[Plane, ...]]:
    """Return a DICOM file's frames, its columns, its raw identifiers, and where each frame lies.

    Columns, each absent where the header lacks it or it does not have the right form: modality, body_part, view,
    laterality, photometric, rows, columns, frames, spacing (of rows, mm), slice_thickness (mm), manufacturer, year
    (of the study), age (years, 90 for 90 or more), sex (M, F or O), encoding (name of the transfer syntax), and
    pixel_phi, "possible" where the pixels may hold text; and the tags of `keep` under their keywords.

    Raises
    ------
    SourceError
        As `osler.decode.read_pixels`.
    """
    file = DicomFile(data)
    frames = file.frames()
    columns = _columns(file, frames[0].shape, len(frames))
    columns.update(_kept(file, keep))
    return frames, columns, _identifiers(file), planes_of(file, len(frames))


def read_values(
    data: bytes, keep: Sequence[str] = ()
) -> tuple[NDArray[Any], tuple[Plane, ...], str, dict[str, Any], dict[str, str]]:
    """Return a DICOM file's values in the units of its modality, where each frame lies, the unit, and as `read_dicom`.

    Raises
    ------
    SourceError
        As `osler.decode.planes.values_of`.

    Examples
    --------
    >>> from pathlib import Path
    >>> from pydicom.data import get_testdata_file
    >>> from osler.sources.dicom import read_values
    >>> values, planes, unit, columns, _ = read_values(Path(get_testdata_file("CT_small.dcm")).read_bytes())
    >>> values.shape, len(planes), unit, columns["modality"]
    ((1, 128, 128), 1, 'HU', 'CT')
    """
    file = DicomFile(data)
    values, unit = values_of(file)
    columns = _columns(file, values.shape[1:], len(values))
    columns.update(_kept(file, keep))
    return values, planes_of(file, len(values)), unit, columns, _identifiers(file)


def header_of(file: DicomFile, shape: Sequence[int], frames: int) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the columns and the raw identifiers of a header whose pixels are read elsewhere.

    Examples
    --------
    >>> from pathlib import Path
    >>> from pydicom.data import get_testdata_file
    >>> from osler.decode.dicom import DicomFile
    >>> from osler.sources.dicom import header_of
    >>> file = DicomFile.header(Path(get_testdata_file("CT_small.dcm", download=False)).read_bytes())
    >>> header_of(file, (128, 128), 1)[0]["modality"]
    'CT'
    """
    return _columns(file, shape, frames), _identifiers(file)


def _columns(file: DicomFile, shape: Sequence[int], frames: int) -> dict[str, Any]:
    studied = next((day for day in map(file.value, ("StudyDate", "SeriesDate", "AcquisitionDate")) if _day(day)), None)
    modality = code(file.value("Modality"))
    burned_in = code(file.value("BurnedInAnnotation"))
    sex = code(file.value("PatientSex"))
    maker = re.sub(r"[^A-Z0-9]+", " ", str(file.value("Manufacturer") or "").upper()).strip()
    columns: dict[str, Any] = {
        "modality": modality,
        "body_part": code(file.value("BodyPartExamined")),
        "view": code(file.value("ViewPosition")),
        "laterality": code(file.value("ImageLaterality")) or code(file.value("Laterality")),
        "photometric": file.photometric,
        "rows": int(shape[0]),
        "columns": int(shape[1]),
        "frames": frames,
        "spacing": _spacing(file),
        "slice_thickness": _positive(_measure(file, "SliceThickness")),
        "manufacturer": maker if 0 < len(maker) <= 64 else None,
        "year": year_of(studied),
        "age": age_in_years(file.value("PatientAge"), file.value("PatientBirthDate"), studied),
        "sex": sex if sex in ("M", "F", "O") else None,
        "encoding": file.encoding,
    }
    if burned_in == "YES" or (burned_in is None and modality in _TEXT_IN_PIXELS):
        columns["pixel_phi"] = "possible"
    return {name: value for name, value in columns.items() if value is not None}


def _measure(file: DicomFile, keyword: str) -> Any:
    """Return a value from the header or, in an enhanced file, from the measures that frames share or the first has."""
    value = file.value(keyword)
    for sequence in ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"):
        if value is None:
            with quiet():
                try:
                    value = file.dataset[sequence].value[0].PixelMeasuresSequence[0][keyword].value
                except Exception:
                    value = None
    return value


def _spacing(file: DicomFile) -> float | None:
    for keyword in ("PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing"):
        spacing = _positive(_measure(file, keyword))
        if spacing is not None:
            return spacing
    return None


def _positive(value: Any) -> float | None:
    try:
        number = float(value[0] if isinstance(value, Sequence) and not isinstance(value, str) else value)
    except (IndexError, TypeError, ValueError):
        return None
    return number if 0.0 < number < 1e6 else None


def _identifiers(file: DicomFile) -> dict[str, str]:
    texts = {name: str(file.value(keyword) or "").strip() for name, keyword in IDENTIFIERS.items()}
    return {name: text for name, text in texts.items() if text}


def _kept(file: DicomFile, keep: Sequence[str]) -> dict[str, Any]:
    kept: dict[str, Any] = {}
    for keyword in keep:
        value = file.value(keyword)
        if value is None or value == "":
            continue
        if isinstance(value, int | float) and not isinstance(value, bool):
            kept[keyword] = int(value) if isinstance(value, int) else float(value)
        elif isinstance(value, Sequence) and not isinstance(value, str | bytes):
            kept[keyword] = "\\".join(str(part) for part in value)
        else:
            kept[keyword] = str(value)
    return kept
