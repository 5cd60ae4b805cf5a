"""R14. After an erasure no file has a byte of what was erased: key, metadata, text, vector or codes, of every
version it had, live, updated or deleted; and what was not erased is there."""

from __future__ import annotations

from collections import Counter
from typing import Any

import format_reader
import numpy as np
import osler

from reliability import testing

NAME, UNIT = "erasures", "cases"
SIZES = {"quick": 100, "ci": 100, "full": 2_000}
DIM = 48
PATH = "/data/cases.osler"


def piece(seed: int) -> Counter[str]:
    rng = np.random.default_rng(seed)
    disk = testing.disk(seed)
    size = int(rng.choice([3, 40, 300, 2_300]))
    with testing.small_graphs(outside=int(rng.choice([0, 10_000]))), testing.mounted(disk):
        cases = osler.Collection.create(PATH, dim=DIM)
        keys = [f"item-{seed}-{number:05}" for number in range(size)]
        secrets: dict[str, set[bytes]] = {key: {key.encode()} for key in keys}

        def row(key: str) -> dict[str, Any]:
            secret = rng.bytes(9).hex()
            secrets[key].add(secret.encode())
            return {"note": secret, "group": int(key[-5:]) // 3}

        for part in np.array_split(keys, int(rng.integers(1, 4))):
            cases.add_vectors(part.tolist(), rng.normal(size=(len(part), DIM)), metadata=[row(key) for key in part])
        _remember(cases, disk, secrets)
        if rng.random() < 0.7:
            cases.close()
            cases = osler.Collection.open(PATH, mode="a")
        for key in rng.choice(keys, min(3, size), replace=False).tolist():
            cases.update(key, metadata=row(key))
        if rng.random() < 0.5:
            some = rng.choice(keys, min(2, size), replace=False).tolist()
            cases.add_vectors(
                some, rng.normal(size=(len(some), DIM)), metadata=[row(k) for k in some], on_duplicate="replace"
            )
        _remember(cases, disk, secrets)
        deleted = rng.choice(keys, min(2, size), replace=False).tolist()
        cases.delete(deleted)
        if rng.random() < 0.3:
            cases.compact()
        _remember(cases, disk, secrets)
        if rng.random() < 0.3:
            group = int(rng.integers(-(-size // 3)))
            victims = {key for key in keys if int(key[-5:]) // 3 == group}
            cases.erase(where=f"group = {group}")
        else:
            victims = set(rng.choice(keys, min(int(rng.integers(1, 6)), size), replace=False).tolist())
            cases.erase(list(victims))
        _look(cases, disk, keys, victims, set(deleted), secrets, f"seed {seed}")
    return Counter(
        {UNIT: 1, "items erased": len(victims), "strings looked for": sum(len(secrets[key]) for key in victims)}
    )


def _remember(cases: osler.Collection, disk: Any, secrets: dict[str, set[bytes]]) -> None:
    """Note the bytes of vectors, and of their codes in graphs, before they are changed."""
    found = cases.part_vectors(kind="any")
    ids = {int(number): found.keys[owner] for number, owner in zip(_ids(cases), found.owner.tolist(), strict=True)}
    for vector, owner in zip(found.vectors, found.owner.tolist(), strict=True):
        secrets[found.keys[owner]] |= {vector.tobytes(), vector.astype(np.float16).tobytes()}
    for path, data in disk.files().items():
        if "/graphs/" not in str(path):
            continue
        sections = format_reader.read(data, check=False)
        names = sections[3, 0][:, 0]
        for number in (0, 1):
            if (4, number) not in sections:
                continue
            nodes, rows = sections[4, number], sections[5, number][:, 0]
            for node, own in zip(nodes, rows.tolist(), strict=True):
                key = ids.get(int(names[own]))
                if key is not None:
                    secrets[key].add(np.ascontiguousarray(node[: DIM // 4]).tobytes())


def _ids(cases: osler.Collection) -> np.ndarray[Any, Any]:
    snapshot = cases._handle.snapshot
    return snapshot.part_ids[snapshot.live_parts]


def _look(
    cases: osler.Collection,
    disk: Any,
    keys: list[str],
    victims: set[str],
    deleted: set[str],
    secrets: dict[str, set[bytes]],
    where: str,
) -> None:
    left = [key for key in cases if key in victims]
    assert not left, f"{where}: {left} are still there"
    assert set(cases) == set(keys) - victims - deleted, where
    cases.verify()
    wanted = sorted(set().union(*(secrets[key] for key in victims)))
    for path, data in disk.files().items():
        text = data + format_reader.texts(data)
        for secret in wanted:
            assert secret not in text, f"{where}: {len(secret)} bytes of an erased item are in {path}"
    others = sorted(set(cases))[:3]
    everything = b"".join(data + format_reader.texts(data) for data in disk.files().values())
    for key in others:
        assert key.encode() in everything, f"{where}: the scan finds nothing, not even {key}"
