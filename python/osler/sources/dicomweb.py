"""A DICOMweb server as a source: instances are found by QIDO-RS and fetched by WADO-RS, one by one, as they are read.

Asks the server that its address names, through `osler.sources.web`; writes nothing. DICOM PS3.18, sections 10.4
(WADO-RS) and 10.6 (QIDO-RS). What the address asks for may name a patient: it goes to the server and nowhere else.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from osler.config import LIMITS, settings
from osler.errors import ServerError, SourceError
from osler.items import Item
from osler.sources import Source
from osler.sources.address import Address, parse_address
from osler.sources.decoder import Decoder
from osler.sources.images import Entry
from osler.sources.multipart import dicom_file
from osler.sources.qido import Listed, Listing
from osler.sources.slide_list import Slides
from osler.sources.tables import Join
from osler.sources.web import Client, CutShort, Refused, TooLarge, check_credentials

__all__ = ["ServerSource", "open_server", "probe"]

# As stored, whatever that is; where a server does not know how to say that, as it likes.
_ACCEPTS = (
    'multipart/related; type="application/dicom"; transfer-syntax=*',
    'multipart/related; type="application/dicom"',
    "application/dicom; transfer-syntax=*",
    "application/dicom",
)
_FAILURES_IN_A_ROW = 16
# A multipart body has heads and boundaries around its file.
_AROUND_BYTES = 64 << 10


class ServerSource(Source):
    """The instances or series of a server; see `osler.sources.Source`.

    Attributes
    ----------
    root : str
        Address of the service, without what was asked of it.

    Examples
    --------
    >>> from osler.sources.dicomweb import ServerSource
    >>> from osler.sources.web import Client
    >>> root = "https://pacs.example/dicom-web"
    >>> source = ServerSource(root, [], client=Client(root))
    >>> source, source.root
    (<osler Source with 0 entries>, 'https://pacs.example/dicom-web')
    >>> source.close()
    """

    def __init__(
        self,
        root: str,
        entries: Sequence[Entry],
        *,
        client: Client,
        items: Literal["file", "series"] = "file",
        keep: Sequence[str] = (),
        join: Join | None = None,
        decoder: Decoder | None = None,
    ) -> None:
        super().__init__(root, entries, items=items, keep=keep, join=join, decoder=decoder)
        self._slides = _NoSlides(self._decoder, None)
        self._client = client
        # The first of the ways to ask for an instance that has worked.
        self._accepted: str | None = None
        self._failed = 0

    def place(self, entry: Entry) -> tuple[str, list[str]]:
        """Return where the instances of an entry lie: an address, and the path of each below it.

        Those of a series lie below the series, so that a series of one instance is not that instance.
        """
        if not entry.members:
            return str(self.root), [entry.locator]
        series = f"{entry.path.parent.parent.as_posix()}/"
        return f"{self.root}/{series[:-1]}", [one.as_posix().removeprefix(series) for one in entry.members]

    def close(self) -> None:
        """End all connections."""
        self._client.close()

    def _series(self, entry: Entry, key: str | None) -> tuple[Item, list[str]]:
        from osler.sources.series import series_item

        # Servers need not say where a slice lies, so what was read does.
        return series_item(entry, self._decoder, self._keep, key=key, load=self._load, arrange=True)

    def _load(self, path: Path) -> bytes:
        """Fetch one instance.

        Raises
        ------
        SourceError
            ``missing``, ``no_permission``, ``not_served``, ``empty`` or ``too_large``: it, and not the server, is at
            fault.
        ServerError
            The server is at fault, and the next instance would not fare better.
        """
        if not path.name:
            raise SourceError(
                "the server lists an instance without a UID, or a series without its instances; look for them there",
                code="not_served",
            )
        refused = 0
        for accept in dict.fromkeys([self._accepted or _ACCEPTS[0], *_ACCEPTS]):
            try:
                data = self._client.get(
                    f"/{path.as_posix()}", accept, dicom_file, most=LIMITS.bytes_per_file + _AROUND_BYTES
                )
            except Refused as error:
                refused = error.status
                if refused in (400, 406, 415, 501):
                    continue
                if refused >= 500:
                    self._count_failure(f"status {refused}")
                break
            except TooLarge:
                raise SourceError(
                    f"the instance has more than {LIMITS.bytes_per_file} bytes, which is the limit; set "
                    "OSLER_LIMIT_BYTES_PER_FILE to raise it",
                    code="too_large",
                ) from None
            except CutShort as error:
                self._count_failure(str(error))
                raise SourceError(
                    f"the instance does not come whole from the server: {error}; add the source again", code="cut_short"
                ) from None
            self._accepted, self._failed = self._accepted or accept, 0
            return data
        raise _not_served(refused)

    def _count_failure(self, why: str) -> None:
        """Take it for the server's fault, and not an instance's, where one instance after the other fails."""
        self._failed += 1
        if self._failed >= _FAILURES_IN_A_ROW:
            raise ServerError(
                f"the server fails: {why}, for {self._failed} instances in a row; check that it runs, then go on"
            ) from None


class _NoSlides(Slides):
    """Slides of a source that has none: its paths name no files."""

    def kind(self, entry: Entry) -> None:
        """Return None for any entry."""


def _not_served(status: int) -> SourceError:
    """Return the outcome of an instance that the server does not give."""
    if status in (404, 410):
        return SourceError("the server lists the instance and does not have it; look for it there", code="missing")
    if status == 403:
        return SourceError(
            "the server does not let this user have the instance; ask for the right to read it", code="no_permission"
        )
    return SourceError(
        f"the server does not give the instance as a DICOM file (status {status}); look at this instance there",
        code="not_served",
    )


def open_server(
    address: str,
    *,
    keep: Sequence[str] = (),
    metadata: Any = None,
    items: Literal["file", "series"] = "file",
    decoder: Decoder | None = None,
    insecure: bool | None = None,
) -> ServerSource:
    """List the instances of a DICOMweb server that an address asks for; none is fetched before it is read.

    Parameters
    ----------
    address : str
        ``https://host/dicom-web`` or ``dicomweb://host/dicom-web``, which is the same, or ``http://`` on this machine.
        Behind it may stand ``/studies/UID`` and ``/series/UID``, and a query of attributes that must match, as QIDO-RS
        has them: ``?Modality=CT&StudyDate=20240101-20241231``.
    keep, metadata, items, decoder
        As `osler.sources.open_source`.
    insecure : bool, optional
        Ask another machine over plain http, where anybody on the way can read the answers and the credentials; by
        default as ``OSLER_DICOMWEB_INSECURE`` says.

    Returns
    -------
    ServerSource
        To be closed, which ends its connections.

    Raises
    ------
    ValueError
        The address cannot be used, or the credentials in the environment cannot.
    ServerError
        ``OSLER_OFFLINE`` is set; there is no such server; it refuses; it fails again and again.

    Examples
    --------
    >>> from osler.sources.dicomweb import open_server
    >>> open_server("https://reader:secret@pacs.example/dicom-web")
    Traceback (most recent call last):
    ValueError: the address holds a user name or a password; take them out of it, and set OSLER_DICOMWEB_USER and ...
    """
    if items not in ("file", "series"):
        raise ValueError(f"items is {items!r}; use 'file' or 'series'")
    found, client = _connect(address, insecure)
    try:
        # In an order of their own, whatever that of the server is.
        listed = sorted(Listing(client, found).instances())
        entries = _entries(listed)
        join = Join(metadata, entries, (), keep) if metadata is not None else None
        if items == "series":
            entries = _by_series(listed, entries)
        tags: Sequence[str] = ()
        if keep:
            from osler.sources.dicom import check_keep

            tags = check_keep(keep, sorted(join.columns if join else ()))
    except BaseException:
        client.close()
        raise
    return ServerSource(found.root, entries, client=client, items=items, keep=tags, join=join, decoder=decoder)


def probe(address: str, *, keep: Sequence[str] = (), metadata: Any = None) -> bool:
    """Tell whether a server has anything that an address asks for, by the first thing that it lists.

    Raises
    ------
    ValueError, ServerError
        As `open_server`: what is wrong with `keep` and `metadata` is told too, as far as that is known without entries.

    Examples
    --------
    >>> from osler.sources.dicomweb import probe
    >>> probe("https://pacs.example/dicom-web?Modalty=CT")
    Traceback (most recent call last):
    ValueError: the query of the address asks for no attribute of DICOM that there is; did you mean Modality
    """
    found, client = _connect(address, None)
    columns = Join(metadata, [], (), keep).columns if metadata is not None else set()
    if keep:
        from osler.sources.dicom import check_keep

        check_keep(keep, sorted(columns))
    try:
        return Listing(client, found, page=1).any()
    finally:
        client.close()


def _connect(address: str, insecure: bool | None) -> tuple[Address, Client]:
    insecure = settings().dicomweb_insecure if insecure is None else insecure
    found = parse_address(address, insecure=insecure)
    check_credentials()
    if settings().offline:
        raise ServerError(
            "OSLER_OFFLINE is set, and the source is a server; unset it, or name files that came from there",
            code="offline",
        )
    return found, Client(found.root, insecure=insecure)


def _entries(listed: Sequence[Listed]) -> list[Entry]:
    return [Entry(one.locator, Path(one.locator if one.uid else ""), 0, i) for i, one in enumerate(listed)]


def _by_series(listed: Sequence[Listed], entries: Sequence[Entry]) -> list[Entry]:
    """Join the entries of each series; what has no picture stays an entry of its own."""
    alone = [entry for one, entry in zip(listed, entries, strict=True) if not one.pictures]
    series: dict[str, list[Entry]] = {}
    for one, entry in zip(listed, entries, strict=True):
        if one.pictures:
            series.setdefault(one.series, []).append(entry)
    joined = [
        Entry(of[0].locator, of[0].path, 0, of[0].number, tuple(e.path for e in of), tuple(e.number for e in of))
        for of in series.values()
    ]
    return sorted([*alone, *joined], key=lambda entry: entry.locator)
