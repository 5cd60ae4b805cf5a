"""What a DICOMweb server has, by QIDO-RS: the address of a service, what is asked of it, and the instances it lists.

Asks through the client that it is given. Servers differ in what they take and how they page; whatever they answer, each
instance is listed once and the asking ends. DICOM PS3.18, section 10.6 (search transaction).
"""

from __future__ import annotations

import json
import re
import threading
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple
from urllib.parse import quote, urlencode

from osler.config import LIMITS
from osler.errors import ServerError
from osler.sources.address import UID, Address, Filter
from osler.sources.multipart import media_type
from osler.sources.web import Body, Client, CutShort, Refused, TooLarge

__all__ = ["Listed", "Listing"]

_STUDY, _SERIES, _INSTANCE = "0020000D", "0020000E", "00080018"
_RETRIEVE_URL, _ROWS, _SERIES_COUNT = "00081190", "00280010", "00201209"
_PAGE = 1_000
_AT_ONCE = 4
# Statuses by which servers say that they do not search all series of all studies.
_NO_FLAT_SEARCH = (400, 403, 404, 405, 406, 413, 414, 415, 500, 501)
_ACCEPTS = ("application/dicom+json", "application/json", "*/*")
_RETRIEVED = re.compile(r"(?:^|/)studies/([^/?#]+)(?:/series/([^/?#]+)(?:/instances/([^/?#]+))?)?")


class Listed(NamedTuple):
    """One instance: the path of its series, its own UID if it has a usable one, and whether it may hold pictures."""

    series: str
    uid: str
    pictures: bool

    @property
    def locator(self) -> str:
        """Path below the service."""
        return f"{self.series}/instances/{self.uid}"


class _Form(NamedTuple):
    """How a search is asked for: media type, further attributes wanted, limit and offset."""

    accept: str
    fields: bool
    paged: bool


_FORMS = tuple(
    _Form(accept, fields, paged)
    for accept in _ACCEPTS
    for fields, paged in ((True, True), (False, True), (False, False))
)


class Listing:
    """Asks a server what it has of what an address asks for.

    Parameters
    ----------
    client : Client
    address : Address
    page : int
        How many a server is asked for at a time.

    Examples
    --------
    >>> from osler.sources.address import parse_address
    >>> from osler.sources.qido import Listing
    >>> from osler.sources.web import Client
    >>> address = parse_address("https://pacs.example/dicom-web/studies/1.2/series/1.2.3/instances/1.2.3.4")
    >>> listing = Listing(Client(address.root), address)
    >>> listing.any(), listing.instances()[0].locator
    (True, 'studies/1.2/series/1.2.3/instances/1.2.3.4')
    """

    def __init__(self, client: Client, address: Address, page: int = _PAGE) -> None:
        self._client = client
        self._address = address
        self._page_size = page
        self._lock = threading.Lock()
        # What the server takes, once that is known.
        self._form: _Form | None = None
        self._listed = 0
        self._short = 0

    def any(self) -> bool:
        """Tell whether there is anything."""
        return any(self._of_series(one) for one in self._series())

    def instances(self) -> list[Listed]:
        """Return all instances, each once, in no order.

        Raises
        ------
        ServerError
        """
        found: list[Listed] = []
        with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="osler-list") as pool:
            try:
                for listed in pool.map(self._of_series, self._series()):
                    found.extend(listed)
            except BaseException:
                # The others need not be waited for.
                self._client.close()
                raise
        if self._short:
            warnings.warn(
                f"the server lists fewer instances of {self._short:,} series than it counts there; only those listed "
                "are read",
                RuntimeWarning,
                stacklevel=2,
            )
        return found

    def _series(self) -> Iterator[tuple[str, str, int | None]]:
        """Yield study, series and, where the server says it, the number of instances, each series once."""
        study, series = [*self._address.uids[:2], "", ""][:2]
        if series and not self._filters("study", "series"):
            yield study, series, None
            return
        seen: set[tuple[str, str]] = set()
        for found in self._of_study(study) if study and not self._filters("study") else self._all_series():
            asked = study in ("", found[0]) and series in ("", found[1])
            if asked and found[:2] not in seen:
                seen.add((found[0], found[1]))
                yield found

    def _all_series(self) -> Iterator[tuple[str, str, int | None]]:
        if not self._filters("study"):
            try:
                for record in self._search("/series", "series"):
                    found = _series_of(record)
                    if found is None:
                        # The server does not say of which study it is.
                        break
                    yield found
                else:
                    return
            except Refused as error:
                if error.status not in _NO_FLAT_SEARCH:
                    raise _refused(error.status) from None
        try:
            for record in self._search("/studies", "study"):
                uid = _uid(record, _STUDY, 1)
                if uid:
                    yield from self._of_study(uid)
        except Refused as error:
            raise _refused(error.status) from None

    def _of_study(self, study: str) -> Iterator[tuple[str, str, int | None]]:
        for record in self._below(f"/studies/{study}/series", "series"):
            series = _uid(record, _SERIES, 2)
            if series:
                yield study, series, _count(record)

    def _of_series(self, of: tuple[str, str, int | None]) -> list[Listed]:
        study, series, count = of
        path = f"studies/{study}/series/{series}"
        named = self._address.uids[2:]
        if named and not self._filters("instance"):
            return [Listed(path, named[0], True)]
        total = None if self._filters("instance") else count
        try:
            records = list(self._below(f"/{path}/instances", "instance", total))
        except Refused as error:
            if error.status != 500:
                raise _refused(error.status) from None
            # A fault in one series does not cost the others: it is an outcome of its own.
            return [Listed(path, "", False)]
        with self._lock:
            self._listed += len(records)
            self._short += total is not None and len(records) < total
        if self._listed > LIMITS.listed:
            raise ServerError(
                f"the server lists more than {LIMITS.listed} instances; ask for fewer, as by ?StudyDate=, or set "
                "OSLER_LIMIT_LISTED to raise that"
            )
        # Servers that say of none how many rows it has do not tell pictures apart.
        tells = any(_values(record, _ROWS) for record in records)
        return [
            Listed(path, uid, bool(uid) and (not tells or bool(_values(record, _ROWS))))
            for record in records
            for uid in [_uid(record, _INSTANCE, 3)]
            if not named or uid == named[0]
        ]

    def _filters(self, *levels: str) -> list[Filter]:
        return [one for one in self._address.filters if one.level in levels]

    def _below(self, path: str, level: str, total: int | None = None) -> Iterator[dict[str, Any]]:
        """Search below a study or series that is there; one that is gone meanwhile has nothing."""
        try:
            yield from self._search(path, level, total)
        except Refused as error:
            if error.status not in (404, 410):
                raise

    def _search(self, path: str, level: str, total: int | None = None) -> Iterator[dict[str, Any]]:
        """Yield the records of all pages, each once, until a page has nothing new.

        A page that is shorter than was asked for need not be the last: servers have limits of their own.
        """
        filters = self._filters(level)
        tag = {"study": _STUDY, "series": _SERIES, "instance": _INSTANCE}[level]
        seen: set[str] = set()
        offset: int | None = 0
        while offset is not None:
            page = self._page(path, filters, level, offset)
            new = {_uid(record, tag, 0) or repr(record): record for record in page}
            new = {uid: record for uid, record in new.items() if uid not in seen}
            seen.update(new)
            if len(seen) > LIMITS.listed:
                raise ServerError("the server lists without an end; ask for fewer, as by ?StudyDate=")
            yield from (record for record in new.values() if _admitted(record, filters))
            if total is not None and len(seen) >= total:
                return
            paged = self._form is None or self._form.paged
            if new and paged:
                offset += len(page)
            elif len(page) == self._page_size and offset and paged:
                # It gave the same again: without an offset to go by, it is asked for all at once.
                page = self._page(path, filters, level, None)
                rest = {_uid(record, tag, 0) or repr(record): record for record in page}
                yield from (one for uid, one in rest.items() if uid not in seen and _admitted(one, filters))
                return
            else:
                return

    def _page(self, path: str, filters: Sequence[Filter], level: str, offset: int | None) -> list[dict[str, Any]]:
        """Return one page, asked for in the first of the forms that the server takes."""
        refused: Refused | None = None
        for form in [self._form] if self._form else _FORMS:
            pairs = [(one.name, one.value) for one in filters]
            pairs += [("fuzzymatching", "true")] if self._address.fuzzy and filters else []
            if form.fields and level == "series":
                pairs += [("includefield", tag) for tag in (_STUDY, _SERIES_COUNT)]
            if form.paged and offset is not None:
                pairs += [("limit", str(self._page_size)), ("offset", str(offset))]
            query = f"?{urlencode(pairs, quote_via=quote)}" if pairs else ""
            try:
                page = self._client.get(path + query, form.accept, _records, most=LIMITS.answer_bytes, compressed=True)
            except Refused as error:
                refused = error
                if error.status not in (400, 406, 415, 501):
                    break
                continue
            except TooLarge:
                raise ServerError(
                    f"the server lists more at once than {LIMITS.answer_bytes} bytes; ask for less, as by "
                    "?StudyDate=, or set OSLER_LIMIT_ANSWER_BYTES to raise that"
                ) from None
            except CutShort as error:
                raise ServerError(f"the server does not answer a search as a whole: {error}; try again later") from None
            self._form = form
            return page
        assert refused is not None
        raise refused


def _records(body: Body) -> list[dict[str, Any]]:
    data = b"" if body.status == 204 else body.all()
    if not data.strip():
        return []
    try:
        found = json.loads(data.decode("utf-8-sig", "replace"))
    except (ValueError, RecursionError):
        if not body.framed and media_type(body.type).endswith("json"):
            raise CutShort("it ended in the middle of an answer") from None
        found = None
    if isinstance(found, list) and all(isinstance(record, dict) for record in found):
        return found
    raise ServerError(
        "the server does not answer a search with DICOM JSON; check that the address is that of its DICOMweb service, "
        "which often ends in /dicom-web"
    )


def _refused(status: int) -> ServerError:
    if status == 403:
        return ServerError("the server does not let this user search; ask for the right to do so")
    if status in (404, 410):
        return ServerError(
            "the server has no such address (status 404); check that it is that of its DICOMweb service, which often "
            "ends in /dicom-web"
        )
    return ServerError(f"the server refuses the search (status {status}); ask it for something else, or look into it")


def _values(record: dict[str, Any], tag: str) -> list[Any]:
    """Return the values of an attribute; none where they lie elsewhere (BulkDataURI), which is not followed."""
    element = record.get(tag, record.get(tag.lower()))
    values = element.get("Value") if isinstance(element, dict) else None
    return [one for one in values if one is not None] if isinstance(values, list) else []


def _uid(record: dict[str, Any], tag: str, level: int) -> str:
    """Return a UID that can stand in a path, from its attribute or from the URL that it can be retrieved at."""
    for value in _values(record, tag)[:1]:
        text = str(value).strip(" \0")
        if UID.fullmatch(text):
            return text
    for value in _values(record, _RETRIEVE_URL)[:1] if level else []:
        found = _RETRIEVED.search(str(value))
        if found and found[level] and UID.fullmatch(found[level]):
            return found[level]
    return ""


def _series_of(record: dict[str, Any]) -> tuple[str, str, int | None] | None:
    study, series = _uid(record, _STUDY, 1), _uid(record, _SERIES, 2)
    return (study, series, _count(record)) if study and series else None


def _count(record: dict[str, Any]) -> int | None:
    """Return how many instances a series has, as the server says."""
    for value in _values(record, _SERIES_COUNT)[:1]:
        text = str(value)
        if text.isascii() and text.isdigit() and int(text[:12]):
            return int(text[:12])
    return None


def _admitted(record: dict[str, Any], filters: Sequence[Filter]) -> bool:
    """Tell whether a record can be what was asked for: servers may pass over what they do not know, and say nothing."""
    return all(
        any(_matches(str(value).strip(" \0"), one) for value in values)
        for one in filters
        if (values := _values(record, one.tag)) and one.vr in ("UI", "CS", "LO", "SH", "DA")
    )


def _matches(value: str, wanted: Filter) -> bool:
    if wanted.vr == "DA":
        first, dash, last = wanted.value.partition("-")
        day = value.replace(".", "")
        return (first or "0") <= day <= (last or "9") if dash else day == wanted.value
    for one in re.split(r"[\\,]", wanted.value):
        pattern = re.escape(one.strip()).replace(r"\*", ".*").replace(r"\?", ".")
        if re.fullmatch(pattern, value, re.IGNORECASE | re.DOTALL):
            return True
    # A value may hold a comma itself.
    return value.lower() == wanted.value.lower()
