"""What users have, as items: files, folders, lists of them, tables that name pictures, DICOM files, series and servers.

Reads below the paths and the address that it is given; knows no encoder and no collection. Files are decoded in this
process unless another decoder is passed: `osler.sources.workers.contained` gives the one that collections use.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from osler.decode import format_of, read_bytes
from osler.decode.stack import Gaps
from osler.errors import SourceError
from osler.items import Item
from osler.sources.address import is_address
from osler.sources.crops import Parting, cropped, parting_of
from osler.sources.decoder import Decoder, Here
from osler.sources.images import Entry, agreed, check_link, is_collection, list_files, parts_of, relative, size_of
from osler.sources.multiscale import Multiscale
from osler.sources.regions import Regions
from osler.sources.slide_list import Slides
from osler.sources.tables import PSEUDONYMISED, Join, is_table, table_entries
from osler.sources.tiles import Tiles

__all__ = ["Entry", "Multiscale", "Regions", "Source", "Tiles", "open_source"]

Path_ = str | os.PathLike[str]


class Source:
    """Entries in a fixed order, each read into an item or refused with a code and a sentence.

    Attributes
    ----------
    entries : sequence of Entry
    root : Path or str
        What the locators are relative to: an absolute folder, or the address of a server.
    items : {"file", "series"}
    whole : bool
        A volume is one part, and not one part a slice; see `as_volumes`.
    """

    def __init__(
        self,
        root: Path | str,
        entries: Sequence[Entry],
        *,
        roots: Sequence[Path] = (),
        items: Literal["file", "series"] = "file",
        keep: Sequence[str] = (),
        keys: Sequence[str | None] = (),
        rows: Sequence[dict[str, Any]] = (),
        join: Join | None = None,
        decoder: Decoder | None = None,
        tiles: Tiles | None = None,
        parts: Parting | None = None,
    ) -> None:
        self.root = root
        self.entries = tuple(entries)
        self.items = items
        self._roots = tuple(roots)
        self._keep = tuple(keep)
        self._keys = keys
        self._rows = rows
        self._join = join
        self._decoder = decoder or Here()
        self._slides = Slides(self._decoder, tiles)
        self._parting = parts
        self.whole = False
        self._gaps: Gaps = "refuse"

    def __len__(self) -> int:
        return len(self.entries)

    def __repr__(self) -> str:
        return f"<osler Source with {len(self.entries)} entries>"

    @property
    def unmatched_rows(self) -> int:
        """Rows of the metadata that fit no entry; when joined on SOPInstanceUID, none that was read so far."""
        return self._join.unmatched if self._join else 0

    def table_cells(self) -> Iterator[Mapping[str, Any]]:
        """Yield the cells of each row of the tables, without the columns that name files or become pseudonyms.

        Examples
        --------
        >>> from pydicom.data import get_testdata_file
        >>> from osler.sources import open_source
        >>> file = get_testdata_file("CT_small.dcm", download=False)
        >>> table = [{"file": "CT_small.dcm", "label": "normal", "patient_id": "7"}]
        >>> list(open_source(file, metadata=table).table_cells())
        [{'label': 'normal'}]
        """
        for row in itertools.chain(self._rows, self._join.rows if self._join else ()):
            yield {name: value for name, value in row.items() if name not in PSEUDONYMISED}

    def content(self, entry: Entry) -> bytes | None:
        """Return the bytes of an entry that is one file, by which it is known without decoding it; None for others.

        Raises
        ------
        SourceError
            As `read`.

        Examples
        --------
        >>> from pydicom.data import get_testdata_file
        >>> from osler.sources import open_source
        >>> source = open_source(get_testdata_file("CT_small.dcm", download=False))
        >>> len(source.content(source.entries[0]))
        39206
        >>> source.close()
        """
        if self._slides.kind(entry) is not None:
            check_link(entry.path, self._roots)
            if self.whole:
                raise SourceError(
                    "the file is a whole slide, and this encoder takes volumes: NIfTI files and DICOM series",
                    code="not_a_volume",
                )
            return self._slides.content(entry, self._cells(entry))
        return None if entry.members else self._load(entry.path)

    def place(self, entry: Entry) -> tuple[str, list[str]]:
        """Return where the files of an entry lie: a root, and the path of each below it.

        Examples
        --------
        >>> from pydicom.data import get_testdata_file
        >>> from osler.sources import open_source
        >>> source = open_source(get_testdata_file("CT_small.dcm", download=False))
        >>> source.place(source.entries[0])[1]
        ['CT_small.dcm']
        """
        if not entry.members:
            return str(self.root), [entry.locator]
        return str(self.root), [member.relative_to(self.root).as_posix() for member in entry.members]

    def close(self) -> None:
        """Let go of what the source holds; reading from it ends."""

    def as_volumes(self, gaps: Gaps = "refuse") -> None:
        """Read whole volumes from now on: NIfTI files, multi-frame DICOM files and DICOM series, one part each.

        Parameters
        ----------
        gaps : {"refuse", "fill"}
            What becomes of a series with missing or unevenly spaced slices: an outcome of its own, or a volume with
            values between neighbours.

        Examples
        --------
        >>> from pathlib import Path
        >>> from pydicom.data import get_testdata_file
        >>> from osler.sources import open_source
        >>> source = open_source(get_testdata_file("eCT_Supplemental.dcm", download=False))
        >>> source.as_volumes()
        >>> source.read(source.entries[0]).values
        (<osler Volume 512 x 512 x 2, int16, HU>,)
        """
        self.whole, self._gaps = True, gaps

    def read(self, entry: Entry, content: bytes | None = None) -> Item:
        """Read one entry, of which `content` is what `content` has returned if that was asked before.

        A plain picture's key is its locator, a table's row has the key that it gives (a series that of its first
        file), and a DICOM file has none: its key is to be made from `content`. Cells of a table and of the metadata
        replace columns of the file, unless they are empty; of a series, those on which its files agree.

        Raises
        ------
        SourceError
            Its `code` is the outcome; its message names no value of the file and no path.

        Examples
        --------
        >>> from pydicom.data import get_testdata_file
        >>> from osler.sources import open_source
        >>> source = open_source(get_testdata_file("CT_small.dcm", download=False))
        >>> item = source.read(source.entries[0])
        >>> item.metadata["modality"], item.metadata["rows"], item.key
        ('CT', 128, None)
        """
        key = self._keys[entry.number] if entry.number < len(self._keys) else None
        uids: list[str] = []
        if self._slides.kind(entry) is not None:
            check_link(entry.path, self._roots)
            item = self._slides.read(entry, self._cells(entry), key, content)
        elif entry.members and self.whole:
            from osler.sources.volumes import series_volume

            item, uids = series_volume(entry, self._decoder, self._keep, key, load=self._load, gaps=self._gaps)
        elif entry.members:
            item, uids = self._series(entry, key)
        else:
            item = self._file(entry, self._load(entry.path) if content is None else content, key)
            uids = [item.identifiers["instance_id"]] if "instance_id" in item.identifiers else []
        if self._parting is not None and not self.whole and self._slides.kind(entry) is None:
            item = cropped(item, self._parting)
        cells = self._cells(entry, uids)
        return _with(item, cells) if cells else item

    def _cells(self, entry: Entry, uids: Sequence[str] = ()) -> dict[str, Any]:
        """Return what the tables say of an entry, and of a series what they say of all its files."""
        numbers = entry.numbers or (entry.number,)
        cells = agreed([self._rows[number] for number in numbers]) if self._rows else {}
        return cells | (agreed(self._join.cells(entry, uids)) if self._join else {})

    def _load(self, path: Path) -> bytes:
        check_link(path, self._roots)
        return read_bytes(path)

    def _series(self, entry: Entry, key: str | None) -> tuple[Item, list[str]]:
        from osler.sources.series import series_item

        return series_item(entry, self._decoder, self._keep, key=key)

    def _file(self, entry: Entry, data: bytes, key: str | None) -> Item:
        # What is no picture is told here, without a decoder.
        dicom = format_of(data) == "dicom"
        if self.whole:
            from osler.sources.volumes import volume_item

            return volume_item(entry, data, self._decoder, self._keep, key, gaps=self._gaps)
        found = self._decoder.decode(data, self._keep)
        return Item(
            key=entry.locator if key is None and not dicom else key,
            locator=entry.locator,
            content=data,
            values=found.frames,
            parts=parts_of(len(found.frames)),
            metadata=MappingProxyType(found.columns),
            identifiers=MappingProxyType(found.identifiers),
        )


def _with(item: Item, cells: dict[str, Any]) -> Item:
    named = {name: str(cells[name]) for name in PSEUDONYMISED if cells.get(name) not in (None, "")}
    columns = {
        name: value
        for name, value in cells.items()
        if name not in PSEUDONYMISED and (value is not None or name not in item.metadata)
    }
    return Item(
        key=item.key,
        locator=item.locator,
        content=item.content,
        values=item.values,
        parts=item.parts,
        metadata=MappingProxyType({**item.metadata, **columns}),
        identifiers=MappingProxyType({**item.identifiers, **named}),
    )


def open_source(
    source: Path_ | Sequence[Path_],
    *,
    keep: Sequence[str] = (),
    metadata: Any = None,
    items: Literal["file", "series"] = "file",
    decoder: Decoder | None = None,
    tiles: Tiles | str | None = None,
    parts: Parting | Literal["whole", "multiscale"] | None = None,
) -> Source:
    """List what a source holds, without reading pixels.

    Parameters
    ----------
    source : path or sequence of paths
        A file; a folder, with every file below it; or a table (CSV, TSV, Parquet) whose column path, file or filename
        names pictures relative to it, with an optional column key. Of several, locators are relative to the folder
        that they have in common, and a file that is named twice is read once. Or the address of a DICOMweb server,
        alone and as a str: see `osler.sources.dicomweb.open_server`.
    keep : sequence of str
        DICOM keywords to store as they are under their keyword, and columns of tables to accept although their names
        are those of identifiers.
    metadata : path or data frame, optional
        More columns, joined on key, path, file, filename or SOPInstanceUID: the first of these that is there.
    items : {"file", "series"}
        One item a file, or one item a DICOM series, its parts in the order of its slices. The parts of a NIfTI file are
        its axial slices; `Source.as_volumes` makes whole volumes of both.
    decoder : Decoder, optional
        What decodes the files; by default this process does.
    tiles : Tiles or str, optional
        How whole slides are cut into the parts of their items, also as a text such as ``224@0.5``; with it every tiled
        TIFF is a slide, and so is DICOM slide microscopy. Without it, slides are tiled as ``Tiles()`` says where their
        maker's mark, or levels and a microscope's resolution, tell them from pictures.
    parts : {"whole", "multiscale"}, Multiscale or Regions, optional
        What of a picture, or of each frame of a file, are the parts of its item: by default the whole of it; crops at
        several scales; or the regions of boxes and masks, where the picture has any. Not of slides and volumes.

    Returns
    -------
    Source

    Raises
    ------
    FileNotFoundError
        A path is not there.
    ValueError
        A table or the metadata cannot be used as they are, a name in `keep` is not known, or `items` is neither.
    ServerError
        A server cannot be reached, refuses or fails.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> import numpy as np
    >>> from PIL import Image
    >>> from osler.sources import open_source
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     Image.fromarray(np.zeros((4, 6), dtype=np.uint8)).save(pathlib.Path(folder) / "a.png")
    ...     source = open_source(folder)
    ...     item = source.read(source.entries[0])
    >>> item.key, dict(item.metadata)
    ('a.png', {'format': 'png', 'rows': 4, 'columns': 6, 'frames': 1})
    """
    if items not in ("file", "series"):
        raise ValueError(f"items is {items!r}; use 'file' or 'series'")
    parting = parting_of(parts)
    named = [source] if isinstance(source, str | os.PathLike) else list(source)
    if any(map(is_address, named)):
        if len(named) > 1 or tiles is not None or parting is not None:
            raise ValueError("a server must be the only source, without tiles and parts; add others in another call")
        from osler.sources.dicomweb import open_server

        return open_server(str(named[0]), keep=keep, metadata=metadata, items=items, decoder=decoder)
    paths = _paths(named)
    keys: list[str | None] = []
    rows: list[dict[str, Any]] = []
    if len(paths) == 1 and paths[0].is_file() and is_table(paths[0]):
        root = paths[0].parent
        entries, keys, rows = table_entries(paths[0], keep)
        roots = [Path("/")]
    else:
        root, entries = _list(paths)
        roots = [path if path.is_dir() else path.parent for path in paths]
    wanted = Tiles.of(tiles)
    join = Join(metadata, entries, keys, keep) if metadata is not None else None
    columns = {name for row in rows[:1] for name in row} | (join.columns if join else set())
    tags: Sequence[str] = ()
    if keep:
        from osler.sources.dicom import check_keep

        tags = check_keep(keep, sorted(columns))
    if items == "series":
        from osler.sources.series import group_series

        entries = group_series(entries, decoder or Here())
    entries = Slides(decoder or Here(), wanted).arranged(entries)
    return Source(
        root,
        entries,
        roots=roots,
        items=items,
        keep=tags,
        keys=keys,
        rows=rows,
        join=join,
        decoder=decoder,
        tiles=wanted,
        parts=parting,
    )


def _paths(named: Sequence[Path_]) -> list[Path]:
    if not named:
        raise ValueError("no source is named; give a file, a folder or a table")
    paths = [Path(os.path.abspath(path)) for path in named]
    for path in paths:
        if not path.exists():
            raise FileNotFoundError(f"the source {path.name!r} is not there; check its path")
        if is_collection(path):
            raise ValueError(f"the source {path.name!r} is a collection; name the pictures that it was made of")
    if len(paths) > 1 and any(path.is_file() and is_table(path) for path in paths):
        raise ValueError("a table that names pictures must be the only source; add the others in another call")
    return paths


def _list(paths: Sequence[Path]) -> tuple[Path, list[Entry]]:
    root = Path(os.path.commonpath([path if path.is_dir() else path.parent for path in paths]))
    found = dict.fromkeys(file for path in paths for file in list_files(path))
    entries = [Entry(relative(file, root), file, size_of(file), number) for number, file in enumerate(found)]
    return root, entries
