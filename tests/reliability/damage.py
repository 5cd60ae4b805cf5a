"""R4, R5. Damage: every bit of every file of a small collection and of an index of each form, graph and codes and
all, flipped, and larger damage, cuts, growth, sectors lost, doubled, swapped and taken from another file. Each is
refused and named, and no answer is wrong."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import osler
from forms import EVERY

from reliability import testing, workload

NAME, UNIT = "damage", "damaged files"
SIZES = {"quick": 1_500_000, "ci": 1_500_000, "full": 20_000_000}
# Bits that one piece flips: a file's bits are spread over many pieces, and come again after them.
FLIPS = 50_000
OTHERS = 400
SECTOR = 512
COLLECTION, INDEX = "/data/cases.osler", "/data/a.index"
DIM = 20
# Rows of an index that has a graph and codes, as `testing.small_indexes` lets it.
SMALL = 24


def piece(seed: int) -> Counter[str]:
    if seed % 2:
        return _of_collection(seed, seed // 2 % 13 + 3)
    return _of_index(seed, seed // 2 % len(EVERY))


# What `every` can be asked for.
WHOLE = len(EVERY) + 2


def every(part: int) -> Counter[str]:
    """Every bit of one small index of a form, or of a small collection, or every length of an index."""
    if part < len(EVERY):
        disk, _ = _index(1, part, SMALL)
        return Counter({f"bits of an index, {EVERY[part]}": disk.check_flips(INDEX, None, 0, 2**40)})
    if part == len(EVERY):
        disk, files = _collection_of_all_kinds()
        return Counter({"bits of a collection": sum(disk.check_flips(COLLECTION, f, 0, 2**40) for f in files)})
    return _every_length()


def _collection_of_all_kinds() -> tuple[Any, list[str]]:
    """A collection that has files of every kind."""
    for seed in range(1, 100):
        disk = _collection(seed)
        files = _files(disk)
        if {file.rpartition("/")[0] for file in files} >= {"graphs", "locators", "segments", "tombstones"}:
            return disk, files
    raise AssertionError("no collection of the first hundred has files of every kind")


def _every_length() -> Counter[str]:
    """An index file cut at every length, and every sector of it dropped, doubled and taken from the next."""
    disk, _ = _index(1, 0, SMALL)
    original = _bytes(disk, INDEX)
    counts: Counter[str] = Counter()
    for length in range(len(original)):
        disk.check_refused(INDEX, None, original[:length], f"cut at {length}")
    for at in range(0, len(original) - SECTOR, SECTOR):
        here, following = original[at : at + SECTOR], original[at + SECTOR : at + 2 * SECTOR]
        for what, data in (
            ("dropped", original[:at] + original[at + SECTOR :]),
            ("doubled", original[:at] + here + original[at:]),
            ("taken", original[:at] + following + original[at + len(following) :]),
        ):
            if data != original:
                disk.check_refused(INDEX, None, data, f"sector at {at} {what}")
                counts["sectors"] += 1
    return counts + Counter({"lengths": len(original)})


def _collection(seed: int, changes: int = 9) -> Any:
    disk = testing.disk(seed)
    with testing.small_graphs(), testing.small_indexes(8), testing.mounted(disk):
        cases = workload.create(COLLECTION)
        for change, _ in workload.history(seed, changes):
            cases = workload.apply(cases, change)
        # So that there are locators.
        last = ("file", ("last", workload.PATIENTS[0], workload.unit(np.random.default_rng(0), 1)))
        workload.apply(cases, last).close()
    return disk


def _files(disk: Any) -> list[str]:
    """Files that the state in force needs."""
    with testing.mounted(disk), osler.Collection.open(COLLECTION) as cases:
        state = cases._handle.store.state
        return ["FORMAT", f"manifests/{state.number:020}.manifest", *state.files]


def _index(seed: int, form: int, rows: int) -> tuple[Any, np.ndarray[Any, Any]]:
    disk = testing.disk(seed)
    vectors = np.random.default_rng(form).standard_normal((rows, DIM)).astype(np.float32)
    with testing.mounted(disk), testing.small_indexes():
        osler.Index.build(vectors, metric="l2", **EVERY[form].options).save(INDEX)
    return disk, vectors


def _of_index(seed: int, form: int) -> Counter[str]:
    rng = np.random.default_rng(seed)
    disk, vectors = _index(seed, form, int(rng.choice([SMALL, 2_100], p=[0.9, 0.1])))
    original = _bytes(disk, INDEX)
    with testing.mounted(disk), testing.small_indexes():
        queries = vectors[:4] + 0.1
        index = osler.Index.open(INDEX)
        right = [index.search(queries, 5, exact=exact) for exact in (False, True)]
        counts = _flip(disk, INDEX, None, original, rng)
        counts += _others(disk, INDEX, None, original, rng)
        for _ in range(20):
            disk.overwrite(INDEX, _damage(original, rng)[0])
            counts["answers of a damaged index"] += 1
            try:
                index = osler.Index.open(INDEX)
                found = [index.search(queries, 5, exact=exact) for exact in (False, True)]
            except osler.CorruptIndexError:
                counts["refused when they were asked for"] += 1
                continue
            for one, other in zip(found, right, strict=True):
                assert (one.keys == other.keys).all() and (one.scores == other.scores).all(), f"seed {seed}: wrong"
    return counts


def _of_collection(seed: int, changes: int) -> Counter[str]:
    rng = np.random.default_rng(seed)
    disk = _collection(seed, changes)
    files = _files(disk)
    # The manifest in force more often than any other: of the others it says whether they are there.
    file = files[1] if seed % 8 == 1 else str(rng.choice(files))
    path = f"{COLLECTION}/{file}"
    original = _bytes(disk, path)
    counts = _flip(disk, COLLECTION, file, original, rng)
    counts += _others(disk, COLLECTION, file, original, rng)
    with testing.small_graphs(), testing.small_indexes(8), testing.mounted(disk):
        with osler.Collection.open(COLLECTION) as cases:
            right = workload.held(cases)
        for _ in range(10):
            disk.overwrite(path, _damage(original, rng)[0])
            counts["answers of a damaged collection"] += 1
            try:
                with osler.Collection.open(COLLECTION) as cases:
                    problem = workload.difference(cases, right, queries=3)
            except osler.CorruptIndexError as error:
                assert error.findings[0]["file"] == file, f"seed {seed}: {error} of {file}"
                counts["refused when they were asked for"] += 1
                continue
            assert problem is None, f"seed {seed}, {file}: {problem}"
    return counts


def _bytes(disk: Any, path: str) -> bytes:
    return {str(name): data for name, data in disk.files().items()}[path]


def _flip(disk: Any, path: str, file: str | None, original: bytes, rng: np.random.Generator) -> Counter[str]:
    bits = 8 * len(original)
    # The more there are the longer each takes, as everything is read each time.
    share = max(200, min(FLIPS, FLIPS * 50_000 // len(original)))
    start = int(rng.integers(0, max(bits - share, 1)))
    done = disk.check_flips(path, file, start, start + share)
    return Counter({UNIT: done, "flipped bits": done})


def _damage(original: bytes, rng: np.random.Generator) -> tuple[bytes, str]:
    """Some bytes with other ones in their place, of which at least one differs, and what was done."""
    data = bytearray(original)
    if rng.random() < 0.5:
        for bit in rng.choice(8 * len(data), int(rng.integers(2, 17)), replace=False).tolist():
            data[bit // 8] ^= 1 << (bit % 8)
        return bytes(data), "some bits"
    size = int(rng.integers(1, min(4_097, len(data))))
    at = int(rng.integers(0, len(data) - size))
    data[at : at + size] = rng.bytes(size)
    return (bytes(data), f"{size} bytes at {at}") if data != original else _damage(original, rng)


def _others(disk: Any, path: str, file: str | None, original: bytes, rng: np.random.Generator) -> Counter[str]:
    """Cuts, growth, sectors lost, doubled, swapped and taken from elsewhere, and scattered damage."""
    counts: Counter[str] = Counter()
    sectors = len(original) // SECTOR
    elsewhere = [data for name, data in disk.files().items() if not str(name).endswith(file or path)] or [bytes(SECTOR)]

    def variant() -> tuple[str, bytes]:
        kind = str(rng.choice(["cut", "grown", "dropped", "doubled", "swapped", "taken", "damaged", "zeroed"]))
        at = SECTOR * int(rng.integers(0, sectors))
        other = SECTOR * int(rng.integers(0, sectors))
        if kind == "cut":
            return kind, original[: int(rng.integers(0, len(original)))]
        if kind == "grown":
            return kind, original + rng.bytes(int(rng.integers(1, 5_000)))
        if kind == "dropped":
            return kind, original[:at] + original[at + SECTOR :]
        if kind == "doubled":
            return kind, original[: at + SECTOR] + original[at:]
        if kind == "damaged":
            return kind, _damage(original, rng)[0]
        data = bytearray(original)
        if kind == "swapped":
            data[at : at + SECTOR], data[other : other + SECTOR] = (
                original[other : other + SECTOR],
                original[at : at + SECTOR],
            )
        elif kind == "zeroed":
            data[at : at + SECTOR] = bytes(SECTOR)
        else:
            source = elsewhere[int(rng.integers(len(elsewhere)))]
            start = SECTOR * int(rng.integers(0, max(len(source) // SECTOR, 1)))
            piece = source[start : start + SECTOR]
            data[at : at + len(piece)] = piece
        return kind, bytes(data)

    for _ in range(OTHERS):
        kind, data = variant()
        if data == original:
            continue
        disk.check_refused(path, file, data, kind)
        counts[UNIT] += 1
        counts[kind] += 1
    disk.overwrite(path if file is None else f"{path}/{file}", original)
    return counts
