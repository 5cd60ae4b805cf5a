"""`Collection`: items, metadata and vectors in one durable directory.

The public face; each method checks the handle and calls the module that does the work. storage.md, "Promises".
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from osler.collection import changes, query, reading
from osler.collection.audit import Audit, audit
from osler.collection.erase import erase
from osler.collection.handle import Handle, initial_state
from osler.collection.hits import Hits
from osler.collection.merging import merge
from osler.collection.outcome import AddReport, EraseReport
from osler.collection.privacy import Secret, secret_path
from osler.collection.reading import Info, PartVectors, State
from osler.collection.snapshot import Snapshot
from osler.collection.store import Store
from osler.collection.where import unknown_column
from osler.decode.stack import Gaps
from osler.items import Hit
from osler.sources.crops import Parting
from osler.sources.tiles import Tiles

if TYPE_CHECKING:
    import polars as pl

    from osler.encoders import Encoder
    from osler.progress import Callback

__all__ = ["AddReport", "Audit", "Collection", "EraseReport", "Hits", "Info", "PartVectors", "State"]

Device = Literal["auto", "cpu", "cuda", "tensorrt"]
Score = Literal["max", "mean", "sum", "count", "maxsim", "median_min"]


class Collection:
    """Items, each with metadata and the vectors of its parts, in one directory; made by `create` or `open`.

    Any number of threads may read while one writes. Vectors are patient data, whatever they were made of: keep the
    directory as you keep the pictures.

    Examples
    --------
    >>> import tempfile, numpy as np, osler
    >>> cases = osler.Collection.create(tempfile.mkdtemp() + "/cases.osler", dim=2)
    >>> cases.add_vectors(["a", "b"], np.eye(2), metadata=[{"age": 61}, {"age": 40}])
    added 2 · skipped 0 · duplicates 0
    >>> [hit.key for hit in cases.search(vector=[1, 0.1], where="age >= 18")]
    ['a', 'b']
    >>> [hits[0].key for hits in cases.search_many(vectors=[[1, 0], [0, 1]], k=1)]
    ['a', 'b']
    >>> cases.keys(where="age > 50"), cases.count("age > 50"), cases.unique("age"), cases.minmax("age")
    (['a'], 1, [40, 61], (40, 61))
    >>> cases.update("a", metadata={"finding": "effusion"})
    >>> cases["a"].metadata, cases.get(["b", "c"], missing="skip")[0].key
    ({'age': 61, 'finding': 'effusion'}, 'b')
    >>> cases.vectors().shape, cases.part_vectors(["a"]).owner, cases.to_polars().columns
    ((2, 2), array([0]), ['key', 'age', 'finding'])
    >>> cases.delete(["b"])
    1
    >>> cases.compact()
    >>> cases.close()
    >>> with osler.Collection.open(cases.path) as cases:
    ...     cases.verify()
    ...     len(cases), cases.info().columns["age"]
    (1, 'int')

    With an encoder:

    >>> cases = osler.Collection.create(tempfile.mkdtemp() + "/cases.osler", encoder="efficientnet-lite0")
    >>> from pydicom.data import get_testdata_file
    >>> file = get_testdata_file("CT_small.dcm", download=False)
    >>> cases.add(file, progress=False)
    added 1 · skipped 0 · duplicates 0
    >>> cases.search(image=file)[0].metadata["modality"]
    'CT'
    """

    __slots__ = ("__weakref__", "_handle")

    def __init__(self, handle: Handle) -> None:
        self._handle = handle

    @classmethod
    def create(
        cls,
        path: str | os.PathLike[str],
        *,
        encoder: str | os.PathLike[str] | Encoder | None = None,
        dim: int | None = None,
        metric: Literal["cosine", "dot", "l2"] = "cosine",
        secret: str | os.PathLike[str] | None = None,
        device: Device = "auto",
    ) -> Collection:
        """Make an empty collection and open it for writing.

        Parameters
        ----------
        path : path
            The directory, which must not exist; its name usually ends in ``.osler``.
        encoder : str, path or Encoder, optional
            A registry name, or a folder with a ``manifest.json``.
        dim : int, optional
            Width of vectors that you bring yourself, where there is no encoder.
        metric : {"cosine", "dot", "l2"}
        secret : path, optional
            The secret of another collection, whose pseudonyms this one shall share, as shards do; by default one of
            its own is made when it is needed.
        device : str
            Where an encoder given by name runs.

        Raises
        ------
        FileExistsError
            There is something at `path`.
        """
        source: str | None = None
        found: Encoder | None = None
        if encoder is not None:
            found, source = _encoder(encoder, device)
        state = initial_state(found, source, dim, metric)
        where = Path(os.path.realpath(path))
        if secret is not None:
            state["secret_check"] = Secret.shared(Path(secret)).check()
        store = Store.create(where, state)
        if secret is not None:
            try:
                Secret.adopt(secret_path(where), Path(secret), store.id)
            except BaseException:
                # Nobody else has it: its lock is held.
                Store.remove(where)
                store.close()
                raise
        return cls(Handle(store, found))

    @classmethod
    def open(
        cls,
        path: str | os.PathLike[str],
        mode: Literal["r", "a"] = "r",
        *,
        encoder: str | os.PathLike[str] | Encoder | None = None,
        device: Device = "auto",
    ) -> Collection:
        """Open a collection: ``"r"`` to read, ``"a"`` to read and write.

        Parameters
        ----------
        path : path
        mode : {"r", "a"}
        encoder : str, path or Encoder, optional
            Where the collection's encoder is now, if it is not where it was; another one is refused.
        device : str

        Raises
        ------
        FileNotFoundError
            There is no collection at `path`.
        CorruptIndexError
            A file is damaged; the message names it.
        FormatVersionError, LockedError
            It needs another version of Osler; another process writes to it.
        """
        if mode not in ("r", "a"):
            raise ValueError(f"mode is {mode!r}; choose 'r' to read, or 'a' to read and write")
        found = None if encoder is None else _encoder(encoder, device)[0]
        return cls(Handle(Store.open(Path(os.path.realpath(path)), writable=mode == "a"), found))

    def add(
        self,
        source: Any,
        *,
        metadata: Any = None,
        keep: Iterable[str] = (),
        items: Literal["file", "series"] = "file",
        tiles: Tiles | str | None = None,
        parts: Parting | Literal["whole", "multiscale"] | None = None,
        gaps: Gaps = "refuse",
        shard: tuple[int, int] | None = None,
        on_error: Literal["skip", "raise"] = "skip",
        on_duplicate: Literal["skip", "replace"] = "skip",
        progress: bool | Callback = True,
    ) -> AddReport:
        """Read, encode and add files; each has exactly one outcome.

        Work is committed in batches, so an interruption loses only the batch in hand, and adding the same source again
        continues: files that are there already are recognised by their bytes, without decoding them.

        Parameters
        ----------
        source : path, or list of paths
            A file, a folder, or a table that names pictures; or, alone, the address of a DICOMweb server, such as
            ``https://host/dicom-web?Modality=CT``: see `osler.sources.dicomweb.open_server`. What was added from a
            place on a server is not fetched again, unless `on_duplicate` is ``"replace"``.
        metadata : path, optional
            A CSV or Parquet file joined on ``key``, ``path``, ``file``/``filename`` or ``SOPInstanceUID``: the first
            of these that it has. Its cells take the place of what the file says of itself, such as ``age`` or
            ``modality``, unless they are empty.
        keep : iterable of str
            DICOM tags or columns of `metadata` to keep as they are, though they may identify a patient. In a
            collection that has items already, this holds for new ones only.
        items : {"file", "series"}
            One item a file, or one a DICOM series; for an encoder of volumes it is always the series.
        tiles : Tiles or str, optional
            How whole slides are cut into the parts of their items, as `osler.sources.Tiles` or a text such as
            ``224@0.5``: 224 pixels at 0.5 micrometres per pixel, which is 20x. See `osler.sources.open_source`.
        parts : {"whole", "multiscale"}, Multiscale or Regions, optional
            What of each picture are the parts of its item: the whole of it, crops at several scales, or regions; see
            `osler.sources.Multiscale` and `osler.sources.Regions`.
        gaps : {"refuse", "fill"}
            For an encoder of volumes: what becomes of a DICOM series with missing or unevenly spaced slices, a failure
            with the code ``missing_slices`` or ``irregular_spacing``, or a volume with values between neighbours. For
            an encoder of pictures, whose parts are slices, the column ``volume_findings`` tells of them.
        shard : (int, int), optional
            Of ``(i, n)``, only every n-th file, from the i-th on, 1 to n: the same ones wherever the source lies.
        on_error : {"skip", "raise"}
            What to do with a file that cannot be read.
        on_duplicate : {"skip", "replace"}
            What to do with a file whose name is there already with other content: leave it out, as a failure with the
            code ``key_taken``, or let it take the place of the former.
        progress : bool or callable
            A callable gets (done, total) and stops the work by returning False.

        Returns
        -------
        AddReport

        Raises
        ------
        FileNotFoundError
            The source or the metadata is not there.
        ValueError
            A table cannot be used, or the type of one of its columns is not that of the collection's or the files'
            column of this name; nothing was added.
        ServerError
            A server cannot be reached, refuses or fails; what was read before is added, and adding again goes on.
        """
        from osler.collection.ingest import add

        self._handle.check()
        return add(
            self._handle,
            source,
            metadata=metadata,
            keep=tuple(keep),
            items=items,
            tiles=tiles,
            parts=parts,
            gaps=gaps,
            shard=shard,
            on_error=on_error,
            on_duplicate=on_duplicate,
            progress=progress,
        )

    def add_vectors(
        self,
        keys: Iterable[str],
        vectors: Any,
        *,
        metadata: Any = None,
        parts: Any = None,
        locators: Any = None,
        kind: Literal["image", "text"] | Sequence[str] = "image",
        on_duplicate: Literal["error", "skip", "replace"] = "error",
    ) -> AddReport:
        """Add items with vectors of your own, all of them or none.

        Parameters
        ----------
        keys : list of str
        vectors : array (p, dim) or None
            None stores items that can be filtered and not searched. Under cosine, unit rows are stored.
        metadata : list of dict, or table with the Arrow PyCapsule interface, optional
            One row a key. A dict sets only the columns that it has.
        parts : int array (p,), optional
            Each vector's position in `keys`, where items have several; by default one vector a key.
        locators : sequence of Locator, dict or None, optional
            Where in its item each vector lies.
        kind : {"image", "text"} or sequence of them
        on_duplicate : {"error", "skip", "replace"}

        Returns
        -------
        AddReport
        """
        return changes.add_vectors(
            self._handle,
            keys,
            vectors,
            metadata=metadata,
            parts=parts,
            locators=locators,
            kind=kind,
            on_duplicate=on_duplicate,
        )

    def merge(
        self, other: str | os.PathLike[str], *, on_duplicate: Literal["error", "skip", "replace"] = "error"
    ) -> AddReport:
        """Add the items of another collection, all of them or none: shards that were built apart become one.

        Parameters
        ----------
        other : path
            A collection of the same encoder (or width) and metric, and of the same secret where both have one. It
            stays as it is.
        on_duplicate : {"error", "skip", "replace"}
            What to do with a key that both have.

        Returns
        -------
        AddReport

        Examples
        --------
        >>> import tempfile, numpy as np, osler
        >>> folder = tempfile.mkdtemp()
        >>> one, two = (osler.Collection.create(f"{folder}/{name}.osler", dim=2) for name in ("one", "two"))
        >>> _ = one.add_vectors(["a"], np.eye(2)[:1]), two.add_vectors(["b"], np.eye(2)[1:])
        >>> one.merge(two.path), one.keys()
        (added 1 · skipped 0 · duplicates 0, ['a', 'b'])
        """
        return merge(self._handle, Path(os.path.realpath(other)), on_duplicate)

    def search(
        self,
        *,
        image: Any = None,
        text: str | None = None,
        vector: Any = None,
        like: str | None = None,
        k: int = 10,
        where: Any = None,
        group_by: str | None = None,
        exclude: str | Mapping[str, Any] | None = None,
        kind: Literal["image", "text", "any"] | None = None,
        score: Score = "max",
        recall: float = 0.95,
    ) -> Hits:
        """Find the items nearest to one query; fewer than `k` is a normal answer.

        Parameters
        ----------
        image, text, vector, like
            Exactly one: a path, array or PIL image; a text; an array (dim,) or, for a query of several frames,
            (q, dim); the key of an item, which never finds itself.
        k : int
            Items wanted.
        where : str or Polars expression, optional
            A condition over the columns, as in ``"modality = 'CT' AND age >= 60"``.
        group_by : str, optional
            At most one item for each value of this column.
        exclude : str or mapping, optional
            A column whose value for the query itself is left out, or the values to leave out.
        kind : {"image", "text", "any"}, optional
            Parts to search; by default images if there are any.
        score : {"max", "mean", "sum", "count", "maxsim", "median_min"}
            How an item's parts make its score: the best, their mean or sum, how many are among the 20 nearest, or, for
            queries of several frames, the sum or the median over frames of each frame's best.
        recall : float
            Share of the exact answer wanted, under each `score`; 1 is exact. ``mean`` and ``sum`` are always exact.

        Returns
        -------
        Hits

        Raises
        ------
        ValueError
            For options that cannot be, before anything is encoded.
        """
        given = {"image": image, "text": text, "vector": vector, "like": like}
        name = query.only_one(given)
        if name == "vector":
            shape = np.shape(vector)
            if len(shape) not in (1, 2) or 0 in shape:
                raise ValueError(f"vector has shape {shape}; give one of shape (dim,), or (q, dim) for several frames")
        plural: Any = {"image": [image], "text": [text], "vector": None, "like": None}[name]
        options = {"k": k, "where": where, "group_by": group_by, "exclude": exclude}
        return self._ask(
            lambda snapshot: query.questions(self._handle, snapshot, name, plural, vector, like, kind),
            options | {"kind": kind, "score": score, "recall": recall},
        )[0]

    def search_many(
        self,
        *,
        images: Sequence[Any] | None = None,
        texts: Sequence[str] | None = None,
        vectors: Any = None,
        k: int = 10,
        where: Any = None,
        group_by: str | None = None,
        exclude: str | Mapping[str, Any] | None = None,
        kind: Literal["image", "text", "any"] | None = None,
        score: Score = "max",
        recall: float = 0.95,
    ) -> list[Hits]:
        """Search for several queries at once: like `search` for each, and faster.

        Parameters
        ----------
        images, texts, vectors
            Exactly one: pictures, texts, or an array (m, dim).

        Returns
        -------
        list of Hits
        """
        name = query.only_one({"images": images, "texts": texts, "vectors": vectors})
        plural: Any = {"images": images, "texts": texts, "vectors": None}[name]
        options = {"k": k, "where": where, "group_by": group_by, "exclude": exclude}
        return self._ask(
            lambda snapshot: query.questions(self._handle, snapshot, name, plural, vectors, None, kind),
            options | {"kind": kind, "score": score, "recall": recall},
        )

    def get(self, keys: str | Iterable[str], missing: Literal["raise", "skip"] = "raise") -> list[Hit]:
        """Return items by key, in the order asked; their score is NaN, as nothing was asked of them."""
        return reading.get(self._read(), keys, missing)

    def delete(self, keys: str | Iterable[str] | None = None, where: Any = None) -> int:
        """Delete items by key or by condition, and return how many were there; a missing key is no error."""
        return changes.delete(self._handle, keys, where)

    def erase(self, keys: str | Iterable[str] | None = None, where: Any = None) -> EraseReport:
        """Remove items for good: when this returns, no file of the collection has a byte of them.

        Their keys, metadata, places and vectors leave the segments, the graphs and every earlier state, also those of
        items that were deleted or updated before. A reader that is open keeps what it has read, and is told that the
        rest is gone.

        Solid-state disks, file systems with snapshots and backups may keep copies of removed files: this cannot reach
        them.

        Parameters
        ----------
        keys : str or iterable of str, optional
        where : str or Polars expression, optional
            As in ``"patient_id = '...'"``. Deleted items, and former versions of an item, for which it holds are erased
            too. A Polars expression, which may depend on all rows together, is asked of the live items only, as for
            `delete`; those that it selects go with all their versions.

        Returns
        -------
        EraseReport

        Raises
        ------
        Error
            Code ``not_erased``: the items are gone from the state in force, and a file that holds them could not be
            removed.

        Examples
        --------
        >>> import tempfile, numpy as np, osler
        >>> cases = osler.Collection.create(tempfile.mkdtemp() + "/cases.osler", dim=2)
        >>> _ = cases.add_vectors(["a", "b"], np.eye(2))
        >>> cases.erase("a").items, cases.keys()
        (1, ['b'])
        """
        return erase(self._handle, keys, where)

    def update(self, key: str, *, metadata: Mapping[str, Any]) -> None:
        """Set columns of one item; the others, and its vectors, stay."""
        changes.update(self._handle, key, metadata)

    def compact(self) -> None:
        """Write small pieces together, and those of which much was deleted without it.

        What it costs is bounded by what was added and deleted since the last time, not by the size of the collection.
        """
        changes.compact(self._handle)

    def keys(self, where: Any = None) -> list[str]:
        """Return the keys of the items for which `where` holds, in order of insertion."""
        return reading.keys(self._read(), where)

    def vectors(self, keys: Iterable[str] | None = None, where: Any = None) -> np.ndarray[Any, np.dtype[np.float32]]:
        """Return one vector an item, float32 (n, dim), in the order of `keys` or of ``keys(where)``.

        An item of several parts gives their mean, of unit length under cosine, over image parts where the collection
        has any; an item without vectors gives NaN. `part_vectors` gives them one by one.
        """
        return reading.item_vectors(self._read(), keys, where)

    def part_vectors(
        self,
        keys: Iterable[str] | None = None,
        where: Any = None,
        kind: Literal["image", "text", "any"] | None = None,
    ) -> PartVectors:
        """Return the vectors of the items' parts, by default of image parts where the collection has any."""
        return reading.part_vectors(self._read(), keys, where, kind)

    def to_polars(self, where: Any = None) -> pl.DataFrame:
        """Return ``key`` and the metadata columns as a frame, one row an item."""
        import polars as pl

        snapshot = self._read()
        if where is None:
            return snapshot.table.clone()
        return snapshot.table.filter(pl.Series(snapshot.condition(where).mask(snapshot.table)))

    def count(self, where: Any = None) -> int:
        """Return the number of items for which `where` holds."""
        snapshot = self._read()
        return int(snapshot.select(snapshot.condition(where)).sum())

    def unique(self, column: str) -> list[Any]:
        """Return the different values of a column, sorted; None is not one."""
        values = self._column(column).drop_nulls().unique()
        return sorted(values.to_list())

    def minmax(self, column: str) -> tuple[Any, Any]:
        """Return the smallest and the largest value of a column; None where it has no value."""
        if self.schema.get(column, "").startswith("list"):
            raise ValueError(f"column {column!r} holds lists, which have no order")
        values = self._column(column).drop_nulls()
        return values.min(), values.max()

    @property
    def schema(self) -> dict[str, str]:
        """The metadata columns and the type of each."""
        return dict(self._read().types)

    @property
    def encoder(self) -> Encoder:
        """The collection's encoder, loaded when first needed; `Error` where it has none."""
        self._handle.check()
        return self._handle.encoder

    @property
    def fingerprint(self) -> str | None:
        """The fingerprint of the encoder that made the vectors; None where they are your own."""
        named = self._read().manifest["encoder"]
        return None if named is None else str(named["fingerprint"])

    @property
    def path(self) -> Path:
        """The directory."""
        return self._handle.path

    @property
    def dim(self) -> int:
        """Width of the vectors."""
        return self._handle.snapshot.dim

    @property
    def metric(self) -> str:
        """What a score is: ``cosine``, ``dot`` or ``l2``."""
        return self._handle.snapshot.metric

    def info(self) -> Info:
        """Return what the collection holds and how it was made."""
        return reading.info(self._read(), self._handle.graphs.stats(self._handle.snapshot))

    def verify(self) -> None:
        """Read every byte of every file again; `CorruptIndexError` names the first damage, `findings` all of them."""
        self._handle.check()
        self._handle.store.verify()

    def repair(self) -> None:
        """Read every byte again, and make graphs that are damaged or missing again from the rows.

        Rows are never touched: other damage is raised as by `verify`, and `recover` may have an earlier state without
        it.

        Examples
        --------
        >>> import tempfile, numpy as np, osler
        >>> cases = osler.Collection.create(tempfile.mkdtemp() + "/cases.osler", dim=2)
        >>> _ = cases.add_vectors(["a", "b"], np.eye(2))
        >>> cases.repair()
        """
        with self._handle.writing():
            self._handle.repair()

    def snapshot(self) -> Collection:
        """Return the collection as it is now, for reading: later changes do not reach it.

        Examples
        --------
        >>> import tempfile, numpy as np, osler
        >>> cases = osler.Collection.create(tempfile.mkdtemp() + "/cases.osler", dim=2)
        >>> _ = cases.add_vectors(["a", "b"], np.eye(2))
        >>> before = cases.snapshot()
        >>> _ = cases.delete("a")
        >>> before.keys(), cases.keys()
        (['a', 'b'], ['b'])
        """
        self._handle.check()
        return Collection(self._handle.frozen())

    @staticmethod
    def states(path: str | os.PathLike[str]) -> list[State]:
        """Return the states that a directory still has, the newest first, after reading every byte of each.

        There are a few, and more while readers hold them. None but the newest is used unless `recover` puts it in
        force.
        """
        return reading.states(Store.states(Path(os.path.realpath(path))))

    @staticmethod
    def recover(path: str | os.PathLike[str], to: int) -> int:
        """Put the state of an earlier commit in force again, without what was committed after it.

        For a collection whose newest state is damaged and has no copy. Nothing does this by itself. It is a commit
        of its own, so that the states between are there as long as `states` lists them. What was erased does not come
        back.

        Parameters
        ----------
        path : path
        to : int
            The commit, of those that `states` lists without damage.

        Returns
        -------
        int
            The number of the commit in force now.

        Raises
        ------
        ValueError
            There is no such state, or it is damaged.
        LockedError
            Somebody writes to the collection.
        CommitUnknownError
            The disk failed at the end; `states` shows which state is in force.

        Examples
        --------
        >>> import tempfile, numpy as np, osler
        >>> cases = osler.Collection.create(tempfile.mkdtemp() + "/cases.osler", dim=2)
        >>> _ = cases.add_vectors(["a", "b"], np.eye(2))
        >>> _ = cases.delete("a")
        >>> cases.close()
        >>> [(state.commit, len(state.findings)) for state in osler.Collection.states(cases.path)]
        [(2, 0), (1, 0), (0, 0)]
        >>> osler.Collection.recover(cases.path, to=1)
        3
        >>> osler.Collection.open(cases.path).keys()
        ['a', 'b']
        """
        if isinstance(to, bool) or not isinstance(to, int) or to < 0:
            raise ValueError("to is the number of a commit, of those that states() lists")
        return Store.recover(Path(os.path.realpath(path)), to)

    def audit(self) -> Audit:
        """Look through everything that is stored for what may name a person; see `osler.collection.Audit`.

        Examples
        --------
        >>> import tempfile, osler
        >>> cases = osler.Collection.create(tempfile.mkdtemp() + "/cases.osler", dim=2)
        >>> _ = cases.add_vectors(["a"], None, metadata=[{"note": "call jane@example.org"}])
        >>> cases.audit().findings
        ({'column': 'note', 'pattern': 'email', 'items': 1},)
        """
        return audit(self._read())

    def close(self) -> None:
        """Release the collection; closing twice is no error."""
        self._handle.close()

    def _ask(self, make: Any, options: dict[str, Any]) -> list[Hits]:
        snapshot = self._read()
        where = options.pop("where")
        query.check_options(snapshot, **{n: options[n] for n in ("k", "group_by", "exclude", "score", "recall")})
        condition = snapshot.condition(where)
        snapshot.wanted_kind(options["kind"])
        asked = make(snapshot)
        answers, searched = query.ask(snapshot, self._handle.graphs, asked, condition=condition, **options)
        return [Hits(snapshot, question, found, searched) for question, found in zip(asked, answers, strict=True)]

    def _read(self) -> Snapshot:
        return self._handle.read()

    def _column(self, column: str) -> Any:
        snapshot = self._read()
        if column not in snapshot.table.columns:
            raise unknown_column(column, snapshot.table.columns)
        return snapshot.table[column]

    def __len__(self) -> int:
        return len(self._read())

    def __contains__(self, key: object) -> bool:
        return self._read().row(key) is not None

    def __iter__(self) -> Iterator[str]:
        return iter(self.keys())

    def __getitem__(self, key: str) -> Hit:
        if not isinstance(key, str):
            raise TypeError(f"the key of an item is a str, not a {type(key).__name__}; get() takes several")
        return self.get(key)[0]

    def __enter__(self) -> Collection:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __reduce__(self) -> Any:
        if self._handle.store.is_snapshot:
            raise TypeError("a snapshot is not pickled or copied, as it lasts only here; pickle the collection")
        return (Collection.open, (str(self.path.absolute()),))

    def __repr__(self) -> str:
        if self._handle.closed:
            return f"<osler.Collection {self.path.name!r}, closed>"
        manifest = self._handle.snapshot.manifest
        name = "own vectors" if manifest["encoder"] is None else manifest["encoder"]["name"]
        return f"<osler.Collection {self.path.name!r} {len(self._handle.snapshot):,} items, {name} {self.dim}-d>"


def _encoder(encoder: Any, device: Device) -> tuple[Encoder, str]:
    """Return an encoder, and by what it is found again."""
    from osler.encoders import load_encoder

    if isinstance(encoder, str | os.PathLike):
        found = load_encoder(os.fspath(encoder), device=device)
        folder = Path(encoder)
        return found, str(folder.absolute()) if folder.is_dir() else os.fspath(encoder)
    # One of the user's own has no address, and is given again when the collection is opened.
    return encoder, str(getattr(encoder, "address", encoder.name))
