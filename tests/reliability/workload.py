"""Random changes to a collection, and a dictionary that says what it must hold after each.

A change is plain data, made from a seed and the model alone: a process that comes later can work out what another
did.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import osler
from osler.collection.batch import Batch
from osler.items import Locator, Part

DIM = 4
# Keys that come again and again, so that changes meet each other.
KEYS = [f"case-{number:03}" for number in range(40)]
SITES = ["north", "south", "east"]
PATIENTS = ["one", "two"]


class Item(NamedTuple):
    """What is stored under a key."""

    columns: dict[str, Any]
    vectors: tuple[bytes, ...]
    kinds: tuple[str, ...]


Model = dict[str, Item]
Change = tuple[str, Any]


def create(path: Any) -> osler.Collection:
    """An empty collection, which stores vectors to the bit."""
    return osler.Collection.create(path, dim=DIM, metric="dot")


def unit(rng: np.random.Generator, count: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    rows = rng.normal(size=(count, DIM))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def plan(rng: np.random.Generator, model: Model, erasing: bool = True) -> Change:
    """The next change."""
    kind = rng.choice(
        ["add", "file", "replace", "delete", "update", "erase", "compact", "reopen"],
        p=[0.3, 0.1, 0.15, 0.15, 0.1, 0.06, 0.06, 0.08],
    )
    kind = "delete" if kind == "erase" and not erasing else kind
    there = list(model)
    free = [key for key in KEYS if key not in model]
    if (kind == "add" and free) or not there:
        keys = rng.choice(free, min(len(free), int(rng.integers(1, 9))), replace=False).tolist()
        return "add", _items(rng, keys)
    if kind == "file":
        return kind, (str(rng.choice(KEYS)), str(rng.choice(PATIENTS)), unit(rng, 1))
    if kind in ("add", "replace"):
        return "replace", _items(rng, rng.choice(KEYS, int(rng.integers(1, 5)), replace=False).tolist())
    if kind == "update":
        return "update", (str(rng.choice(there)), _columns(rng))
    if kind in ("delete", "erase"):
        # A condition may only name a column that was set.
        if rng.random() < 0.2 and any("site" in item.columns for item in model.values()):
            return kind, ("where", str(rng.choice(SITES)))
        return kind, ("keys", rng.choice(KEYS, int(rng.integers(1, 4)), replace=False).tolist())
    return str(kind), None


def apply(cases: osler.Collection, change: Change) -> osler.Collection:
    """Make a change, and return the collection to go on with."""
    kind, what = change
    if kind in ("add", "replace"):
        keys, columns, vectors, owner, kinds, places = what
        cases.add_vectors(
            keys,
            vectors,
            metadata=columns,
            parts=owner,
            kind=kinds,
            locators=places,
            on_duplicate="error" if kind == "add" else "replace",
        )
    elif kind == "file":
        _add_as_from_a_file(cases, *what)
    elif kind == "update":
        cases.update(what[0], metadata=what[1])
    elif kind in ("delete", "erase"):
        how, which = what
        call = cases.delete if kind == "delete" else cases.erase
        call(which) if how == "keys" else call(where=f"site = '{which}'")
    elif kind == "compact":
        cases.compact()
    else:
        path = cases.path
        cases.close()
        return osler.Collection.open(path, mode="a")
    return cases


def expect(model: Model, change: Change) -> Model:
    """What the collection must hold after a change."""
    kind, what = change
    after = dict(model)
    if kind in ("add", "replace"):
        keys, columns, vectors, owner, kinds, _ = what
        for at, key in enumerate(keys):
            after.pop(key, None)
            own = np.flatnonzero(owner == at).tolist()
            after[key] = Item(
                columns[at], tuple(vectors[row].tobytes() for row in own), tuple(kinds[row] for row in own)
            )
    elif kind == "file":
        key, patient, vector = what
        after.pop(key, None)
        after[key] = Item({"patient_id": patient}, (vector.tobytes(),), ("image",))
    elif kind == "update":
        former = after.pop(what[0])
        after[what[0]] = former._replace(columns={**former.columns, **what[1]})
    elif kind in ("delete", "erase"):
        how, which = what
        gone = which if how == "keys" else [key for key, item in after.items() if item.columns.get("site") == which]
        for key in gone:
            after.pop(key, None)
    return after


def history(seed: int, length: int, erasing: bool = True) -> Iterator[tuple[Change, Model]]:
    """Changes, each with what must be there after it."""
    rng = np.random.default_rng(seed)
    model: Model = {}
    for _ in range(length):
        change = plan(rng, model, erasing)
        model = expect(model, change)
        yield change, model


def held(cases: osler.Collection) -> Model:
    """What a collection holds, read in every way that there is."""
    keys = cases.keys()
    if not keys:
        return {}
    found = cases.part_vectors(kind="any")
    rows: dict[str, list[int]] = {key: [] for key in keys}
    for row, owner in enumerate(found.owner.tolist()):
        rows[found.keys[owner]].append(row)
    names = _patients(cases)
    return {
        hit.key: Item(
            {name: names.get(value, value) for name, value in hit.metadata.items()},
            tuple(found.vectors[row].tobytes() for row in rows[hit.key]),
            tuple(found.parts[row].kind for row in rows[hit.key]),
        )
        for hit in cases.get(keys)
    }


def difference(cases: osler.Collection, model: Model, queries: int = 1_000) -> str | None:
    """What is wrong with a collection; None if it holds what it must, in order, and a search finds the first of it."""
    found = held(cases)
    if list(found) != list(model):
        return f"it has the keys {sorted(found)} where {sorted(model)} were stored, or in another order"
    for key, item in model.items():
        if found[key] != item:
            return f"{key} is {found[key]} where {item} was stored"
    for key, item in itertools.islice(model.items(), queries):
        for vector, kind in zip(item.vectors, item.kinds, strict=True):
            query = np.frombuffer(vector, np.float32)
            hits = cases.search(vector=query, k=len(model), kind=kind, recall=1)
            wanted = {other for other, stored in model.items() if kind in stored.kinds}
            if {hit.key for hit in hits} != wanted:
                return f"a search finds {sorted(hit.key for hit in hits)} where {sorted(wanted)} are"
            best = hits[0]
            if best.key != key and vector not in model[best.key].vectors:
                return f"{key} does not find itself"
    return None


def _add_as_from_a_file(cases: osler.Collection, key: str, patient: str, vector: Any) -> None:
    """Put an item as if a file of a patient had been decoded: no file can be decoded on a disk in memory."""
    handle = cases._handle
    with handle.writing() as snapshot:
        secret = handle.secret(make=True)
        columns, batch = handle.columns(), Batch(snapshot.dim)
        row = columns.accept(key, {"patient_id": secret.identifier("patient_id", patient)}, snapshot)
        batch.append(key, row, [Part()], vector, "0" * 32, ("/pictures", [f"{key}.dcm"]))
        dead = snapshot.find([key])
        handle.publish(batch, dead[dead >= 0], columns, {"secret_check": secret.check()})
        handle.tidy()


def _patients(cases: osler.Collection) -> dict[Any, str]:
    """Whose each pseudonym is, by the secret beside the collection, which must be there once it was needed."""
    if cases._handle.snapshot.manifest["secret_check"] is None:
        return {}
    secret = cases._handle.secret()
    return {secret.identifier("patient_id", patient): patient for patient in PATIENTS}


def _columns(rng: np.random.Generator) -> dict[str, Any]:
    row: dict[str, Any] = {"n": int(rng.integers(100))}
    if rng.random() < 0.7:
        row["site"] = str(rng.choice(SITES))
    if rng.random() < 0.2:
        row["note"] = None
    return row


def _items(rng: np.random.Generator, keys: list[str]) -> Any:
    counts = rng.integers(0, 3, len(keys)) if rng.random() < 0.3 else np.ones(len(keys), np.int64)
    owner = np.repeat(np.arange(len(keys)), counts)
    kinds = [str(kind) for kind in rng.choice(["image", "text"], len(owner), p=[0.8, 0.2])]
    places = [Locator(frame=int(rng.integers(9))) if rng.random() < 0.3 else None for _ in owner]
    return keys, [_columns(rng) for _ in keys], unit(rng, len(owner)), owner, kinds, places
