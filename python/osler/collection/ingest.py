"""Files to rows: decoded in other processes, encoded and committed in batches, one outcome a file.

Touches the source through `osler.sources`, the encoder, and the collection through its handle. Memory is bounded by the
reads in flight, the groups that wait and are encoded, and one batch. Failures name a file below the root that was
given, never a value read from one.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from osler.collection.batch import Batch
from osler.collection.handle import Handle
from osler.collection.outcome import AddReport, Failure
from osler.collection.privacy import Secret, content_digest, policy, stored_columns
from osler.collection.rows import Array, Columns, check_table, is_unicode, unit_rows
from osler.collection.segment import Place
from osler.collection.sequences import Joined, Picked, Until, unreadable
from osler.decode import format_of
from osler.decode.stack import GAPS
from osler.errors import EncoderError, Error, ServerError, SourceError
from osler.items import Item, Part, Volume
from osler.progress import Callback, track
from osler.sources import Entry, Regions, Source, open_source
from osler.sources.address import is_address
from osler.sources.decoder import Decoder
from osler.sources.slide_kind import slide_kind
from osler.sources.workers import contained

__all__ = ["Plan", "add", "plan"]

_AHEAD = 8
# Volumes are read ahead and held in smaller numbers: one takes some hundred megabytes.
_AHEAD_VOLUMES = 2
_HELD_BYTES = 256 << 20
# Groups that are encoded while the next one is read; a device runs one while another is prepared for it.
_UNDER_WAY, _UNDER_WAY_ON_DEVICE = 1, 2
# Frames that are encoded together, and items that are committed together: a commit costs some milliseconds of syncs.
_ENCODE_FRAMES = 64
_COMMIT_ITEMS = 1_024
_COMMIT_BYTES = 64 << 20
_SNIFFED = 4_096
_KEY_TAKEN = (
    "an item with other content has this key already; use on_duplicate='replace', or add the file under another name "
    "or folder"
)


@dataclass(frozen=True, slots=True)
class Plan:
    """What adding a source would read.

    Attributes
    ----------
    files : int
    bytes : int
        0 where the files are on a server, which does not say.
    kinds : dict of str to int
        Files by format, as their first bytes say; ``slide`` for those that are tiled, ``other`` for what no reader
        takes.
    unmatched : int
        Rows of the metadata table that name no file; those joined on SOPInstanceUID are not known before reading.
    """

    files: int
    bytes: int
    kinds: dict[str, int]
    unmatched: int

    def to_dict(self) -> dict[str, Any]:
        """Return the fields."""
        return {"files": self.files, "bytes": self.bytes, "kinds": self.kinds, "unmatched": self.unmatched}


class _Read(NamedTuple):
    """What reading one entry gave: the key of an item that is there already, an item, or a reason why there is none."""

    entry: Entry
    known: str | None = None
    item: Item | None = None
    failure: Failure | None = None
    error: BaseException | None = None


@dataclass
class _Waiting:
    """An item that is accepted and not encoded yet."""

    entry: Entry
    key: str
    row: dict[str, Any]
    item: Item
    content: str
    place: Place


@dataclass
class _Run:
    """One call of `add`: what is known, what waits, what became of each file."""

    handle: Handle
    source: Source
    on_error: str
    on_duplicate: str
    columns: Columns
    changes: dict[str, Any]
    secret: Secret | None = None
    # Where items of a server lie, by which they are known without being fetched.
    places: dict[bytes, str] = field(default_factory=dict)
    # What this call has accepted, by key.
    accepted: dict[str, str] = field(default_factory=dict)
    replaced: set[str] = field(default_factory=set)
    moved: dict[str, Place] = field(default_factory=dict)
    waiting: list[_Waiting] = field(default_factory=list)
    waiting_parts: int = 0
    # Of what is in memory; frames that are read when they are encoded are not.
    waiting_bytes: int = 0
    # Groups that are being encoded, in the order in which they were read.
    under_way: deque[tuple[list[_Waiting], Future[list[Array | SourceError]]]] = field(default_factory=deque)
    stopped: bool = False
    batch: Batch = field(init=False)
    added: int = 0
    duplicates: int = 0
    failures: list[Failure] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.batch = Batch(self.handle.snapshot.dim)
        self.pool = ThreadPoolExecutor(_UNDER_WAY_ON_DEVICE, thread_name_prefix="osler-encode")

    def known(self, key: str) -> tuple[bool, str | None]:
        """Return whether there is an item of this key, stored or accepted, and the digest of its content."""
        accepted = self.accepted.get(key)
        if accepted is not None:
            return True, accepted
        snapshot = self.handle.snapshot
        row = snapshot.row(key)
        return (False, None) if row is None else (True, snapshot.content(row))

    def fail(self, entry: Entry, code: str, message: str, error: BaseException | None) -> None:
        if self.on_error == "raise":
            raise error if isinstance(error, SourceError) else SourceError(message, code=code)
        self.failures.append(Failure(entry.locator, code, message))

    def take(self, read: _Read) -> None:
        """Decide on one entry: a failure, a duplicate, or an item that waits to be encoded."""
        if read.failure is not None:
            self.fail(read.entry, read.failure.code, read.failure.message, read.error)
            return
        item = read.item
        if item is None:
            self.repeat(read.entry, read.known)
            return
        if item.key is None or item.identifiers:
            self._need_secret()
        content = content_digest(item.content)
        key = item.key
        if key is None:
            key = content = _dicom_key(self.secret, item.content)
        there, stored = self.known(key)
        if there:
            if stored == content:
                self.repeat(read.entry, key)
                return
            if self.on_duplicate == "skip":
                self.failures.append(Failure(read.entry.locator, "key_taken", _KEY_TAKEN))
                return
        kinds = {part.kind for part in item.parts}
        for kind in sorted(kinds):
            self.handle.encoder_for(kind)
        try:
            own = stored_columns(item.metadata, item.identifiers, self.secret)
            row = self.columns.accept(key, own, self.handle.snapshot)
        except ValueError as error:
            self.fail(read.entry, "metadata", str(error), None)
            return
        if there:
            self.replaced.add(key)
        self.accepted[key] = content
        place = self.source.place(read.entry)
        if len(item.parts) >= _ENCODE_FRAMES:
            # Another's fault must not have all of its parts encoded twice.
            self.encode()
        self.waiting.append(_Waiting(read.entry, key, row, item, content, place))
        self.waiting_parts += len(item.parts)
        self.waiting_bytes += _bytes_of(item.values)
        if self.waiting_parts >= _ENCODE_FRAMES or self.waiting_bytes >= _HELD_BYTES:
            self.encode()

    def repeat(self, entry: Entry, key: str | None) -> None:
        """Count a duplicate, and note where it lies if what the item was made of is not known to be there."""
        self.duplicates += 1
        snapshot = self.handle.snapshot
        row = snapshot.row(key)
        if row is None or key is None:
            return
        former = snapshot.locator(row)
        place = self.source.place(entry)
        if former is not None and former != place and not _is_there(former):
            self.moved[key] = place

    def encode(self) -> None:
        """Begin to encode what waits, once few enough groups are under way."""
        waiting, self.waiting, self.waiting_parts, self.waiting_bytes = self.waiting, [], 0, 0
        if not waiting:
            return
        kinds = {part.kind for one in waiting for part in one.item.parts}
        places = [(self.handle.encoder_for(kind), kind) for kind in kinds]
        # One of the user's own may belong to the thread that it was made in.
        own = not all(_is_ours(encoder) for encoder, _ in places)
        on_cpu = own or all(encoder.device_of(kind) == "cpu" for encoder, kind in places)
        while len(self.under_way) >= (_UNDER_WAY if on_cpu else _UNDER_WAY_ON_DEVICE):
            self.settle()
        if own:
            self.take_vectors(waiting, self._found(waiting))
        else:
            self.under_way.append((waiting, self.pool.submit(self._found, waiting)))

    def finish(self) -> None:
        """Encode what waits, and wait for all that is under way."""
        self.encode()
        while self.under_way:
            self.settle()

    def keep_done(self) -> None:
        """Take the vectors of what was encoded when the call was stopped; wait for nothing."""
        while self.under_way and self.under_way[0][1].done() and self.under_way[0][1].exception() is None:
            self.settle()

    def stop(self) -> None:
        """Give up what is under way."""
        self.stopped = True
        self.under_way.clear()
        self.pool.shutdown(wait=True, cancel_futures=True)

    def _found(self, waiting: list[_Waiting]) -> list[Array | SourceError]:
        """Return the vectors of each item; where that fails, of each alone, so that one costs no other its place."""
        if len(waiting) > 1:
            try:
                return list(self._encoded(waiting))
            except (SourceError, ValueError, TypeError):
                pass
        return [self._alone(one) for one in waiting]

    def settle(self) -> None:
        """Wait for the first group that is under way, and take its vectors."""
        waiting, future = self.under_way.popleft()
        self.take_vectors(waiting, future.result())

    def take_vectors(self, waiting: list[_Waiting], found: list[Array | SourceError]) -> None:
        """Take the vectors of a group, or the outcome of each of its items that has none."""
        for one, vectors in zip(waiting, found, strict=True):
            if isinstance(vectors, SourceError):
                self.accepted.pop(one.key, None)
                self.replaced.discard(one.key)
                self.fail(one.entry, vectors.code, str(vectors), vectors)
                continue
            parts, vectors = _readable(one, vectors)
            self.batch.append(one.key, one.row, parts, vectors, one.content, one.place)
        if len(self.batch) >= _COMMIT_ITEMS or self.batch.vector_bytes >= _COMMIT_BYTES:
            self.commit()

    def commit(self) -> None:
        """Make what is encoded durable."""
        snapshot = self.handle.snapshot
        # Taken first, so that a commit that is interrupted is not tried twice.
        batch, self.batch = self.batch, Batch(snapshot.dim)
        if not len(batch):
            return
        dead = snapshot.find(key for key in batch.keys if key in self.replaced)
        self.handle.publish(batch, dead[dead >= 0], self.columns, self.changes)
        self.added += len(batch)
        self.handle.tidy()

    def report(self) -> AddReport:
        return AddReport(
            self.added, len(self.failures), self.duplicates, tuple(self.failures), self.source.unmatched_rows
        )

    def _encoded(self, waiting: Sequence[_Waiting]) -> Iterator[Array]:
        """Yield the vectors of each item's parts, all pictures in one call and all texts in another."""
        snapshot = self.handle.snapshot
        values = Until(Joined([one.item.values for one in waiting]), lambda: self.stopped)
        kinds = [part.kind for one in waiting for part in one.item.parts]
        vectors = np.empty((len(kinds), snapshot.dim), np.float32)
        for kind in ("image", "text"):
            rows = [row for row, found in enumerate(kinds) if found == kind]
            if rows:
                encoder = self.handle.encoder_for(kind)
                encode = encoder.encode_images if kind == "image" else encoder.encode_texts
                picked = values if len(rows) == len(kinds) else Picked(values, rows)
                # Within a volume of many slices, too, a stop is heard.
                heard = partial(encode, progress=lambda done, total: not self.stopped) if _is_ours(encoder) else encode
                encoded = heard(picked)
                vectors[rows] = unit_rows(encoded, snapshot.dim, snapshot.metric, "the encoding")
        ends = np.cumsum([len(one.item.parts) for one in waiting])
        yield from np.split(vectors, ends[:-1])

    def _alone(self, one: _Waiting) -> Array | SourceError:
        try:
            return next(self._encoded([one]))
        except SourceError as error:
            return error
        except EncoderError:
            raise
        except (ValueError, TypeError) as error:
            if getattr(one.item.values, "masked", False) and isinstance(error, ValueError):
                return SourceError(f"a region cannot be encoded: {error}", code="bad_region")
            return SourceError(
                "the encoder cannot take this picture; check that it opens elsewhere", code="not_encoded"
            )

    def _need_secret(self) -> None:
        if self.secret is None:
            self.secret = self.handle.secret(make=True)
            self.changes["secret_check"] = self.secret.check()


def _is_ours(encoder: Any) -> bool:
    return hasattr(encoder, "device_of")


def _bytes_of(values: Sequence[Any]) -> int:
    if isinstance(values, tuple):
        return sum(value.array.nbytes if isinstance(value, Volume) else getattr(value, "nbytes", 0) for value in values)
    return int(getattr(values, "nbytes", 0))


def _readable(one: _Waiting, vectors: Array) -> tuple[Sequence[Part], Array]:
    """Return the parts that could be read, and their vectors; the item's columns say how many could not."""
    lost = unreadable(one.item.values)
    if not lost:
        return one.item.parts, vectors
    kept = [at for at in range(len(vectors)) if at not in lost]
    one.row.update(tiles=len(kept), tiles_unreadable=len(lost))
    parts = [replace(one.item.parts[at], position=position) for position, at in enumerate(kept)]
    return parts, vectors[kept]


def add(
    handle: Handle,
    source: Any,
    *,
    metadata: Any,
    keep: tuple[str, ...],
    items: Any,
    tiles: Any,
    parts: Any,
    gaps: Any,
    shard: tuple[int, int] | None,
    on_error: str,
    on_duplicate: str,
    progress: bool | Callback,
) -> AddReport:
    """Add the files of a source; see `osler.Collection.add`."""
    for name, value, allowed in (
        ("on_error", on_error, ("skip", "raise")),
        ("on_duplicate", on_duplicate, ("skip", "replace")),
        ("gaps", gaps, GAPS),
    ):
        if value not in allowed:
            raise ValueError(f"{name} is {value!r}; choose {' or '.join(map(repr, allowed))}")
    handle.store.check_writable()
    whole = handle.takes_volumes
    with contained() as decoder:
        # Slices alone are nothing to an encoder of volumes.
        items = "series" if whole and items == "file" else items
        opened = open_source(
            source, keep=keep, metadata=metadata, items=items, decoder=decoder, tiles=tiles, parts=parts
        )
        if whole:
            opened.as_volumes(gaps)
        if not is_unicode(str(opened.root)):
            raise ValueError(
                "the path of the source is not UTF-8, so it cannot be stored; give its folder another name"
            )
        entries = opened.entries if shard is None else _shard(opened.entries, *shard)
        if isinstance(parts, Regions) and parts.vectors == "tokens":
            encoder = handle.encoder_for("image")
            if not getattr(encoder, "gives_tokens", True):
                raise ValueError(
                    f"the encoder {encoder.name} gives no patch tokens; use vectors='crop', or another encoder"
                )
        with handle.writing() as snapshot:
            check_table(opened.table_cells(), snapshot.types, "the table")
            kept = tuple(dict.fromkeys([*handle.keep, *keep]))
            changes = {"policy": policy(kept)} if kept != handle.keep else {}
            run = _Run(handle, opened, on_error, on_duplicate, handle.columns(), changes)
            if handle.snapshot.manifest["secret_check"] is not None and entries:
                run.secret = _known_secret(handle)
            if isinstance(opened.root, str) and on_duplicate == "skip":
                run.places = _known_places(handle, opened.root)
            try:
                _add(run, entries, decoder, progress)
            finally:
                run.stop()
                opened.close()
            return run.report()


def _add(run: _Run, entries: Sequence[Entry], decoder: Decoder, progress: bool | Callback) -> None:
    with track(progress, "encode", len(entries)) as step:
        try:
            for done, read in enumerate(_reads(run.source, entries, run, decoder), 1):
                run.take(read)
                step(done, len(entries))
            run.finish()
        except (KeyboardInterrupt, ServerError) as error:
            # What is encoded already was the costly part, and is whole items.
            if isinstance(error, ServerError):
                with suppress(Error):
                    run.finish()
            run.stopped = True
            try:
                run.keep_done()
            finally:
                run.commit()
            raise
        run.commit()
        run.handle.relocate({key: place for key, place in run.moved.items() if key not in run.replaced})


def plan(
    source: Any, *, metadata: Any = None, keep: Sequence[str] = (), items: Any = "file", tiles: Any = None
) -> Plan:
    """Return what adding a source would read, from the first bytes of each file.

    Examples
    --------
    >>> from pydicom.data import get_testdata_file
    >>> from osler.collection.ingest import plan
    >>> plan(get_testdata_file("CT_small.dcm", download=False)).kinds
    {'dicom': 1}
    """
    with contained() as decoder:
        opened = open_source(source, metadata=metadata, keep=keep, items=items, decoder=decoder, tiles=tiles)
    check_table(opened.table_cells(), {}, "the table")
    if isinstance(opened.root, str):
        # Of a server's instances nothing is fetched.
        opened.close()
        files = sum(len(entry.members) or 1 for entry in opened.entries)
        return Plan(files, 0, {"dicom": files} if files else {}, opened.unmatched_rows)
    kinds: Counter[str] = Counter()
    files = 0
    for entry in opened.entries:
        for path in entry.members or (entry.path,):
            files += 1
            kinds["slide" if slide_kind(path, wanted=tiles is not None) else _kind(path)] += 1
    size = sum(entry.size for entry in opened.entries)
    return Plan(files, size, dict(sorted(kinds.items())), opened.unmatched_rows)


def _shard(entries: Sequence[Entry], number: int, count: int) -> Sequence[Entry]:
    """Return the entries of one shard, chosen by where each lies below the root, so that all shards agree."""
    if not 1 <= number <= count:
        raise ValueError(f"shard is ({number}, {count}); give a number from 1 to how many there are")
    return [entry for entry in entries if int(content_digest(entry.locator.encode()), 16) % count == number - 1]


def _reads(source: Source, wanted: Sequence[Entry], run: _Run, decoder: Decoder) -> Iterator[_Read]:
    """Yield each entry read, in order, from a few threads that keep a few entries ahead."""
    pool = ThreadPoolExecutor(decoder.threads, thread_name_prefix="osler-read")
    whole = False
    try:
        ahead: deque[Future[_Read]] = deque()
        entries = iter(wanted)
        for entry in entries:
            ahead.append(pool.submit(_read, source, entry, run))
            if len(ahead) >= (_AHEAD_VOLUMES if source.whole else _AHEAD):
                break
        while ahead:
            yield ahead.popleft().result()
            following = next(entries, None)
            if following is not None:
                ahead.append(pool.submit(_read, source, following, run))
        whole = True
    finally:
        if not whole:
            # What is being decoded or fetched is of no use any more, and may take long.
            decoder.close()
            source.close()
        pool.shutdown(wait=True, cancel_futures=True)


def _read(source: Source, entry: Entry, run: _Run) -> _Read:
    try:
        there = run.places.get(_place_digest(source.place(entry))) if run.places else None
        if there is not None:
            return _Read(entry, there)
        content = source.content(entry)
        known = None if content is None else _known_key(entry, content, run)
        return _Read(entry, known, source.read(entry, content) if known is None else None)
    except SourceError as error:
        return _Read(entry, None, None, Failure(entry.locator, error.code, str(error)), error)
    except OSError as error:
        message = "the file cannot be opened; check that it is there and may be read"
        return _Read(entry, None, None, Failure(entry.locator, "unreadable", message), error)


def _known_places(handle: Handle, root: str) -> dict[bytes, str]:
    """Return the keys of what a server holds: an instance does not change under its UID, and is costly to fetch."""
    snapshot = handle.snapshot
    places = ((key, snapshot.locator(row)) for key, row in zip(snapshot.keys, snapshot.live_rows.tolist(), strict=True))
    return {_place_digest(place): key for key, place in places if place is not None and place[0].startswith(root)}


def _place_digest(place: Place) -> bytes:
    root, files = place
    return bytes.fromhex(content_digest("\n".join([root, *sorted(files)]).encode()))


def _is_there(place: Place) -> bool:
    """Tell whether files are where they were; of a server that is not known without asking."""
    root, files = place
    return not is_address(root) and all(Path(root, file).exists() for file in files)


def _known_key(entry: Entry, content: bytes, run: _Run) -> str | None:
    """Return the key that a file would get if its bytes are in the collection under it, without decoding them."""
    if not (run.accepted or len(run.handle.snapshot)):
        return None
    if run.secret is not None:
        key = _dicom_key(run.secret, content)
        if run.known(key)[0]:
            return key
    stored = run.known(entry.locator)[1]
    return entry.locator if stored is not None and stored == content_digest(content) else None


def _dicom_key(secret: Secret | None, content: bytes) -> str:
    assert secret is not None
    return secret.pseudonym("item", content)


def _known_secret(handle: Handle) -> Secret | None:
    """Return the secret if it is there: a source without DICOM does not need it."""
    try:
        return handle.secret()
    except Error:
        return None


def _kind(path: Path) -> str:
    try:
        if not path.is_file():
            return "unreadable"
        with open(path, "rb") as stream:
            return format_of(stream.read(_SNIFFED))
    except OSError:
        return "unreadable"
    except SourceError:
        return "other"
