"""The address of a DICOMweb service, and what is asked of it: taken apart and checked before anything is sent.

Asks nobody. What an address asks for may name a patient, so no message and no repr repeats any of it. DICOM PS3.18,
section 8.3.4 (query parameters); RFC 3986.
"""

from __future__ import annotations

import ipaddress
import re
from difflib import get_close_matches
from typing import NamedTuple
from urllib.parse import parse_qsl, quote, unquote, urlsplit

__all__ = ["UID", "Address", "Filter", "is_address", "is_loopback", "parse_address"]

UID = re.compile(r"[0-9A-Za-z][0-9A-Za-z._-]{0,127}")
_SCHEMES = ("http", "https", "dicomweb")
_FUZZY = "fuzzymatching"
_RESOURCE = re.compile(
    r"(?P<root>.*?)/*(?:/studies(?:/(?P<study>[^/]+)(?:/series(?:/(?P<series>[^/]+)"
    r"(?:/instances(?:/(?P<instance>[^/]+))?)?)?)?)?|/series|/instances)?/*"
)
# The attributes that are asked for of studies and of series, PS3.18, tables 10.6.1-5, and what PACS take beyond these.
_OF_STUDY = frozenset(
    {
        "AccessionNumber",
        "InstitutionName",
        "IssuerOfPatientID",
        "ModalitiesInStudy",
        "NumberOfStudyRelatedInstances",
        "NumberOfStudyRelatedSeries",
        "OtherPatientIDs",
        "PatientAge",
        "PatientBirthDate",
        "PatientID",
        "PatientName",
        "PatientSex",
        "ReferringPhysicianName",
        "StudyDate",
        "StudyDescription",
        "StudyID",
        "StudyInstanceUID",
        "StudyTime",
    }
)
_OF_SERIES = frozenset(
    {
        "BodyPartExamined",
        "Laterality",
        "Manufacturer",
        "ManufacturerModelName",
        "Modality",
        "NumberOfSeriesRelatedInstances",
        "PatientPosition",
        "PerformedProcedureStepStartDate",
        "PerformedProcedureStepStartTime",
        "ProtocolName",
        "RequestAttributesSequence",
        "SeriesDate",
        "SeriesDescription",
        "SeriesInstanceUID",
        "SeriesNumber",
        "SeriesTime",
        "StationName",
    }
)


class Filter(NamedTuple):
    """One attribute that must match: as it is sent, its tag and value representation, and the value."""

    name: str
    tag: str
    vr: str
    value: str

    @property
    def level(self) -> str:
        """The first of study, series and instance that has the attribute."""
        first = self.name.partition(".")[0]
        return "study" if first in _OF_STUDY else "series" if first in _OF_SERIES else "instance"

    def __repr__(self) -> str:
        return "<osler Filter>"


class Address(NamedTuple):
    """A service, the study, series and instance that are asked for as far as any is, and what else must match."""

    root: str
    uids: tuple[str, ...] = ()
    filters: tuple[Filter, ...] = ()
    fuzzy: bool = False

    def __repr__(self) -> str:
        return "<osler Address>"


def is_loopback(host: str) -> bool:
    """Tell whether a host is this machine itself.

    Examples
    --------
    >>> from osler.sources.address import is_loopback
    >>> is_loopback("localhost"), is_loopback("127.0.0.1"), is_loopback("::1"), is_loopback("pacs.example")
    (True, True, True, False)
    """
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def is_address(source: object) -> bool:
    """Tell whether a source is the address of a server and not a path.

    Examples
    --------
    >>> from osler.sources.address import is_address
    >>> is_address("https://pacs.example/dicom-web"), is_address("pictures/https")
    (True, False)
    """
    return isinstance(source, str) and source.partition("://")[0].lower() in _SCHEMES and "://" in source


def parse_address(text: str, *, insecure: bool = False) -> Address:
    """Take an address apart, or refuse it with a sentence that repeats none of it.

    Raises
    ------
    ValueError

    Examples
    --------
    >>> from osler.sources.address import parse_address
    >>> found = parse_address("dicomweb://PACS.example:443/dicom-web/studies/1.2?Modality=CT")
    >>> found.root, found.uids, found.filters[0].tag
    ('https://pacs.example/dicom-web', ('1.2',), '00080060')
    >>> parse_address("http://pacs.example/dicom-web")
    Traceback (most recent call last):
    ValueError: the address is plain http on another machine, where anybody on the way can read it; use https, or ...
    """
    unusable = "the address of the server cannot be read; give it as https://host/dicom-web"
    try:
        parts = urlsplit(text)
        host, port = parts.hostname, parts.port
        _ = (host or "").encode("idna")
    except ValueError:
        raise ValueError(unusable) from None
    if "@" in parts.netloc:
        raise ValueError(
            "the address holds a user name or a password; take them out of it, and set OSLER_DICOMWEB_USER and "
            "OSLER_DICOMWEB_PASSWORD"
        )
    found = _RESOURCE.fullmatch(parts.path)
    if not host or parts.fragment or found is None or not text.isprintable() or " " in text:
        raise ValueError(unusable)
    scheme = "http" if parts.scheme == "http" else "https"
    if scheme == "http" and not insecure and not is_loopback(host):
        raise ValueError(
            "the address is plain http on another machine, where anybody on the way can read it; use https, or set "
            "OSLER_DICOMWEB_INSECURE=1 if that is meant"
        )
    named = f"[{host}]" if ":" in host else host
    if port is not None and port != (443 if scheme == "https" else 80):
        named = f"{named}:{port}"
    uids = tuple(unquote(found[level]) for level in ("study", "series", "instance") if found[level])
    if not all(UID.fullmatch(uid) for uid in uids):
        raise ValueError("the address names a study, series or instance by what is no UID; correct it")
    path = quote(found["root"], safe="/%:@!$&'()*+,;=~")
    filters, fuzzy = _filters(parts.query)
    return Address(f"{scheme}://{named}{path}", uids, filters, fuzzy)


def _filters(query: str) -> tuple[tuple[Filter, ...], bool]:
    if not query:
        return (), False
    from pydicom.datadict import dictionary_VR, keyword_for_tag, tag_for_keyword

    try:
        pairs = parse_qsl(query, keep_blank_values=True, max_num_fields=100)
    except ValueError:
        raise ValueError("the query of the address has too many parts; ask for less") from None
    filters: list[Filter] = []
    fuzzy = False
    for name, value in pairs:
        if name.lower() in ("limit", "offset", "includefield"):
            raise ValueError(f"the query of the address has {name.lower()}=, which Osler sets itself; take it out")
        if name.lower() == _FUZZY:
            fuzzy = value.strip().lower() == "true"
            continue
        keywords = [keyword_for_tag(one) if re.fullmatch("[0-9A-Fa-f]{8}", one) else one for one in name.split(".")]
        tags = [tag_for_keyword(one) if one else None for one in keywords]
        if not all(tags):
            raise ValueError(f"the query of the address asks for no attribute of DICOM that there is{_nearest(name)}")
        if not value.strip() or not value.isprintable():
            raise ValueError(f"the query of the address gives no value for {keywords[0]}; give one, or take it out")
        if any(one.name == ".".join(keywords) for one in filters):
            raise ValueError(f"the query of the address asks twice for {keywords[0]}; join the values with a comma")
        vr = dictionary_VR(tags[-1]) if len(tags) == 1 else ""
        filters.append(Filter(".".join(keywords), f"{tags[0]:08X}", vr, value.strip()))
    return tuple(filters), fuzzy


def _nearest(name: str) -> str:
    """Return a hint at what was meant; the name itself may be a value that slipped."""
    known = sorted(_OF_STUDY | _OF_SERIES | {"SOPClassUID", "SOPInstanceUID", "InstanceNumber"})
    near = get_close_matches(name, known, 1)
    return f"; did you mean {near[0]}" if near else "; use keywords, as in ?Modality=CT"
