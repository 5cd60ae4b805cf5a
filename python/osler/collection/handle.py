"""What an open collection holds: its directory, the state in force, the graphs, the encoder and the secret.

The one place that turns rows into a commit. Thread-safe for reading; one writer at a time by its lock.
"""

from __future__ import annotations

import copy
import os
import threading
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from osler.collection import compaction, privacy
from osler.collection.batch import Batch, locator_sections
from osler.collection.graph import Graphs, affected_graphs, graph_without
from osler.collection.rows import Array, Columns
from osler.collection.segment import Place
from osler.collection.snapshot import Snapshot
from osler.collection.store import Sections, Store, closed
from osler.errors import CorruptIndexError, EncoderError, Error, ForkedHandleError, FormatVersionError

if TYPE_CHECKING:
    from osler.encoders import Encoder

__all__ = ["Handle", "initial_state"]

_METRICS = ("cosine", "dot", "l2")
# Below this many parts a graph is made faster than it is read: api.md, "Calibration".
_WORTH_SAVING = 2_000


class Handle:
    """An open collection without its public face; closes the store where it cannot be made."""

    def __init__(self, store: Store, encoder: Encoder | None = None) -> None:
        self.path = store.path
        self.store = store
        self.write_lock = threading.RLock()
        self._encoder: Encoder | None = None
        self._pid = os.getpid()
        self._open = True
        try:
            self.snapshot = Snapshot(self.store)
            self.graphs = Graphs(self.store)
            if encoder is not None:
                self._encoder = self._same(encoder)
        except BaseException:
            # Whoever holds the error holds this too, and with it the lock.
            self.store.close()
            raise

    @property
    def closed(self) -> bool:
        """Whether it was closed."""
        return not self._open

    def check(self) -> None:
        """Raise where the handle cannot be used."""
        if not self._open:
            raise closed(self.path)
        if os.getpid() != self._pid:
            raise ForkedHandleError(
                f"{self.path.name} was opened before a fork; open it again in this process: it can be pickled for that"
            )

    def read(self) -> Snapshot:
        """Return the state in force, or raise where the handle cannot be used."""
        own = self._open and os.getpid() == self._pid
        if own and self.store.writable and self.write_lock.acquire(blocking=False):
            try:
                if self._open:
                    self._take_up()
            finally:
                self.write_lock.release()
        # Taken first: what is closed after it was taken can be read all the same.
        snapshot = self.snapshot
        self.check()
        return snapshot

    @contextmanager
    def writing(self) -> Iterator[Snapshot]:
        """Hold the writer's place for one change, and give the state in force; raise where nothing can be written."""
        with self.write_lock:
            self.check()
            self.store.check_writable()
            self._take_up()
            yield self.snapshot

    def _take_up(self) -> None:
        # An interrupt may have come between a commit and this handle's notice of it.
        self.store.follow()
        if self.snapshot.state is not self.store.state:
            self.snapshot = Snapshot(self.store, self.snapshot)
            self.graphs.follow(self.snapshot)

    def close(self) -> None:
        """Save graphs that are worth it, release the lock, and let go of the files; answers keep what they need.

        Waits for a change that another thread is making.
        """
        if os.getpid() != self._pid:
            # The lock may be held by a thread that this process does not have.
            self._open = False
            return
        with self.write_lock:
            if not self._open:
                return
            try:
                if self.store.writable:
                    self._save_worthwhile()
            finally:
                self._open = False
                self.store.close()
                self.snapshot = self.snapshot.emptied()
                self.graphs = Graphs(self.store)

    def _save_worthwhile(self) -> None:
        try:
            self._take_up()
            if self.graphs.outside(self.snapshot) >= _WORTH_SAVING:
                self.save_graphs()
        except (OSError, Error):
            warnings.warn(
                f"the graph of {self.path.name} could not be saved; its rows are safe, and opening it takes longer",
                stacklevel=5,
            )

    def frozen(self) -> Handle:
        """Return a handle of the state in force, which later changes do not reach."""
        other = copy.copy(self)
        other.store = self.store.frozen()
        other.graphs = Graphs(other.store)
        other.write_lock = threading.RLock()
        return other

    def repair(self) -> None:
        """Make damaged graphs again from the rows; `CorruptIndexError` if anything else is damaged."""
        rest = self.store.repair()
        self.snapshot = self.snapshot.under(self.store)
        self.graphs.follow(self.snapshot)
        if rest:
            raise self.store.damage(rest)
        if self.graphs.outside(self.snapshot) >= _WORTH_SAVING:
            self.save_graphs()

    @property
    def keep(self) -> tuple[str, ...]:
        """Tags and columns that are kept as they are."""
        return tuple(self.snapshot.manifest["policy"]["keep"])

    @property
    def encoder(self) -> Encoder:
        """The collection's encoder, loaded on first use."""
        if self._encoder is None:
            named = self.snapshot.manifest["encoder"]
            if named is None:
                raise Error(
                    f"{self.path.name} has no encoder, only vectors; ask with vector= or like=, and add with "
                    "add_vectors",
                    code="no_encoder",
                )
            from osler.encoders import load_encoder

            try:
                self._encoder = self._same(load_encoder(named["source"]))
            except FileNotFoundError:
                raise EncoderError(
                    f"the encoder {named['name']} of {self.path.name} is not where it was; "
                    "open the collection with encoder= and the folder it is in now"
                ) from None
        return self._encoder

    @property
    def takes_volumes(self) -> bool:
        """Whether the collection's encoder takes whole volumes; one of the user's own need not say that it does not."""
        return getattr(self.encoder, "takes", "picture") == "volume"

    def encoder_for(self, kind: str) -> Encoder:
        """Return the encoder if it takes images or texts, as `kind` says."""
        encoder = self.encoder
        if kind not in encoder.modalities:
            other = "image=" if kind == "text" else "text="
            raise Error(
                f"the encoder {encoder.name} takes no {kind}; ask with {other}, like= or vector=", code="modality"
            )
        return encoder

    def secret(self, make: bool = False) -> privacy.Secret:
        """Read the secret beside the directory, or make it where none was ever needed."""
        known = self.snapshot.manifest["secret_check"]
        path = privacy.secret_path(self.path)
        try:
            make = make and known is None
            found = privacy.Secret.make(path, self.store.id) if make else privacy.Secret.read(path)
        except FileNotFoundError:
            raise Error(
                f"{path.name} is missing beside {self.path.name}; it is needed to add DICOM files and to find a "
                "patient's pseudonym, so put it back, and if the collection was renamed, rename its .secret too "
                "(opening and searching work without it)",
                code="secret",
            ) from None
        if known is None and found.owner != self.store.id:
            raise Error(
                f"a secret of another collection lies at {path.name}; move it away, or give {self.path.name} another "
                "name",
                code="secret",
            )
        if known is not None and found.check() != known:
            raise Error(
                f"{path.name} is the secret of another collection; put back the one made with this", code="secret"
            )
        return found

    def columns(self) -> Columns:
        """Return the columns as they are, to be grown by new rows."""
        return Columns(self.snapshot.types)

    def publish(
        self,
        batch: Batch | None = None,
        dead: Array | None = None,
        columns: Columns | None = None,
        changes: Mapping[str, Any] | None = None,
    ) -> None:
        """Commit new items and deletions together, and let every later call see them.

        Parameters
        ----------
        batch : Batch, optional
        dead : ndarray of item rows, optional
        columns : Columns, optional
            The columns after the new rows.
        changes : mapping, optional
            Other entries of the manifest.
        """
        manifest = self.snapshot.manifest
        state: dict[str, Any] = dict(changes or {})
        new: dict[str, Sections | Path] = {}
        if batch is not None and len(batch):
            types = columns.types if columns is not None else self.snapshot.types
            sections, images = batch.sections(types)
            next_item, next_part = manifest["next_item"] + len(batch), manifest["next_part"] + len(batch.parts)
            entry = {
                "items": len(batch),
                "parts": len(batch.parts),
                "images": images,
                "first_item": manifest["next_item"],
                "end_item": next_item,
                "first_part": manifest["next_part"],
            }
            places = batch.places()
            entry |= self._listed(new, sections, locator_sections(places) if places else None)
            state |= {
                "segments": [*manifest["segments"], entry],
                "next_item": next_item,
                "next_part": next_part,
                "schema": types,
            }
        state |= self._marked(new, dead)
        if not state:
            return
        self._commit(state, new)

    def publish_segments(
        self, made: Sequence[compaction.Merged], dead: Array | None, changes: Mapping[str, Any]
    ) -> None:
        """Commit whole segments of new items, after giving them their ids, and deletions."""
        manifest = self.snapshot.manifest
        item, part = manifest["next_item"], manifest["next_part"]
        new: dict[str, Sections | Path] = {}
        entries = list(manifest["segments"])
        for one in made:
            assert one.entry is not None
            ids = {"first_item": item, "end_item": item + one.entry["items"], "first_part": part}
            entries.append({**one.entry, **ids, **self._listed(new, one.sections, one.locators)})
            item, part = item + one.entry["items"], part + one.entry["parts"]
        state = {**changes, "segments": entries, "next_item": item, "next_part": part}
        state |= self._marked(new, dead)
        self._commit(state, new)

    def _commit(self, changes: Mapping[str, Any], new: Mapping[str, Sections | Path], forget: bool = False) -> None:
        try:
            self.store.commit(self.snapshot.state, changes, new, forget)
        finally:
            self._take_up()

    def _marked(self, new: dict[str, Sections | Path], dead: Array | None) -> dict[str, Any]:
        """Add the file that marks item rows as deleted to those of a commit, and return the entry that names it."""
        if dead is None or not len(dead):
            return {}
        name = self.store.new_name("tombstones", "tombstones")
        new[name] = [("tombstones", np.sort(self.snapshot.item_ids(dead)).astype(np.uint64))]
        return {"tombstones": [*self.snapshot.manifest["tombstones"], name]}

    def tidy(self) -> None:
        """Do what recent changes have made due: write small segments together, write graphs.

        What was committed before is safe, so a failure is a warning, and later calls say why they cannot write.
        """
        try:
            while (run := compaction.due(self.snapshot)) is not None:
                self.rewrite([run])
            if self.graphs.due(self.snapshot):
                self.save_graphs()
        except (OSError, Error):
            warnings.warn(
                f"{self.path.name} could not be tidied up; its rows are safe, and opening and searching take longer",
                stacklevel=4,
            )

    def rewrite(self, runs: Sequence[tuple[int, int]]) -> None:
        """Write each run of neighbouring segments as one without its deleted items, in one commit."""
        self._commit(*self._rewritten(runs, self.snapshot.live))

    def publish_without(self, gone: Array) -> None:
        """Commit a state without some item rows, a bool for each, in any file that is left; no older state is.

        Raises
        ------
        Error
            Code ``not_erased``: the state is in force, and a file that only older ones need could not be removed.
        """
        snapshot = self.snapshot
        ends = zip(snapshot.item_offsets, snapshot.item_offsets[1:], strict=False)
        runs = [(at, at + 1) for at, (first, stop) in enumerate(ends) if gone[first:stop].any()]
        state, new = self._rewritten(runs, snapshot.live & ~gone)
        state["schema"] = _columns_left(snapshot, gone)
        graphs = list(snapshot.manifest["graphs"])
        for entry in affected_graphs(self.store, snapshot, gone):
            graphs.remove(entry)
            path = self.store.draft_path()
            try:
                parts = graph_without(self.path / entry["file"], path, snapshot, gone)
            except (CorruptIndexError, FormatVersionError, FileNotFoundError):
                # It is derived, and is made again when it is due.
                continue
            if parts:
                name = self.store.new_name("graphs", "index")
                new[name] = path
                graphs.append({**entry, "file": name, "parts": parts})
        graphs.sort(key=lambda entry: int(entry["first_part"]))
        self._commit({**state, "graphs": graphs}, new, forget=True)

    def _rewritten(
        self, runs: Sequence[tuple[int, int]], wanted: Array
    ) -> tuple[dict[str, Any], dict[str, Sections | Path]]:
        """Return a commit that writes each run of segments as one with the items that are wanted."""
        snapshot = self.snapshot
        entries = list(snapshot.manifest["segments"])
        new: dict[str, Sections | Path] = {}
        ids = compaction.surviving_tombstones(snapshot, runs)
        for start, stop in sorted(runs, reverse=True):
            merged = compaction.merge(snapshot, start, stop, wanted)
            made = []
            if merged.entry is not None:
                made = [merged.entry | self._listed(new, merged.sections, merged.locators)]
            entries[start:stop] = made
        state: dict[str, Any] = {"segments": entries}
        if ids is not None:
            state["tombstones"] = []
            if len(ids):
                name = self.store.new_name("tombstones", "tombstones")
                new[name] = [("tombstones", ids.astype(np.uint64))]
                state["tombstones"] = [name]
        return state, new

    def relocate(self, moved: Mapping[str, Place]) -> None:
        """Commit where the files of some items, by key, lie now."""
        snapshot = self.snapshot
        places: dict[str, dict[int, Place]] = {}
        for row, place in zip(snapshot.find(moved).tolist(), moved.values(), strict=True):
            segment, item = snapshot.locate(row)
            places.setdefault(segment.id, dict(snapshot.locators(segment.id)))[item] = place
        if not places:
            return
        names = {segment: self.store.new_name("locators", "locators") for segment in places}
        entries = snapshot.manifest["segments"]
        changed = [entry | {"locators": names[entry["file"]]} if entry["file"] in names else entry for entry in entries]
        new = {names[segment]: locator_sections(places[segment]) for segment in places}
        self._commit({"segments": changed}, new)

    def save_graphs(self) -> None:
        """Write the graphs of what none of the saved ones has."""
        if self.graphs.save(self.snapshot):
            self.snapshot = self.snapshot.under(self.store)
            self.graphs.follow(self.snapshot)

    def _listed(
        self, new: dict[str, Sections | Path], sections: Sections, locators: Sections | None
    ) -> dict[str, str | None]:
        """Add the files of a segment to those of a commit, and return how its entry names them."""
        name = self.store.new_name("segments", "segment")
        new[name] = sections
        where = None
        if locators is not None:
            where = self.store.new_name("locators", "locators")
            new[where] = locators
        return {"file": name, "locators": where}

    def _same(self, encoder: Encoder) -> Encoder:
        named = self.snapshot.manifest["encoder"]
        if named is None:
            raise ValueError(f"{self.path.name} has vectors of your own and takes no encoder")
        if encoder.fingerprint != named["fingerprint"]:
            raise EncoderError(
                f"{self.path.name} was made by the encoder {named['name']} with fingerprint "
                f"{named['fingerprint'][:12]}, this is {encoder.name} with {encoder.fingerprint[:12]}; vectors of two "
                "encoders cannot be compared, so use the first or build a new collection"
            )
        return encoder


def _columns_left(snapshot: Snapshot, gone: Array) -> dict[str, str]:
    """Return the columns that anything has but the item rows that go, whose columns' names may say whose they were."""
    pairs = [
        (segment, offset, gone[offset : offset + segment.items])
        for segment, offset in zip(snapshot.segments, snapshot.item_offsets, strict=False)
    ]
    alone = {name for segment, _, own in pairs if own.any() for name in segment.columns_of(own)}
    for segment, offset, own in pairs:
        if not alone:
            break
        # A segment that is written again loses its deleted items too.
        stay = ~own & snapshot.live[offset : offset + segment.items] if own.any() else ~own
        alone -= segment.columns_of(stay)
    return {name: kind for name, kind in snapshot.types.items() if name not in alone}


def initial_state(
    encoder: Encoder | None, source: str | None, dim: int | None, metric: str, keep: tuple[str, ...] = ()
) -> dict[str, Any]:
    """Return the manifest entries of an empty collection."""
    if metric not in _METRICS:
        raise ValueError(f"metric is {metric!r}; choose cosine, dot or l2")
    if encoder is not None:
        if dim is not None and dim != encoder.dim:
            raise ValueError(f"dim is {dim}, and the encoder {encoder.name} has {encoder.dim}; leave dim out")
        dim = encoder.dim
    if dim is None:
        raise ValueError("give encoder= to search pictures and texts, or dim= for vectors of your own")
    if isinstance(dim, bool) or not isinstance(dim, int | np.integer) or not 1 <= dim <= 65_536:
        raise ValueError("dim must be a whole number from 1 to 65536")
    named = None
    if encoder is not None:
        named = {
            "name": encoder.name,
            "source": source,
            "fingerprint": encoder.fingerprint,
            "dim": encoder.dim,
            "modalities": list(encoder.modalities),
        }
    return {
        "dim": int(dim),
        "encoder": named,
        "graphs": [],
        "metric": metric,
        "next_item": 0,
        "next_part": 0,
        "policy": privacy.policy(keep),
        "schema": {},
        "secret_check": None,
        "segments": [],
        "tombstones": [],
    }
