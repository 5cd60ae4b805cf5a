"""A layered graph over vectors, as faiss and hnswlib keep it in their files.

Pure arithmetic over arrays; `osler.Index` finds the near rows. HNSW, Malkov and Yashunin: the layers, and Algorithm 4
for which near rows become neighbours. Each layer is made at once from the near rows of all its rows, not row by row, so
the graph is the same at any number of threads.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from osler.collection.rows import Array
from osler.index import Index

__all__ = ["MOST_LAYERS", "RATIO", "Layers", "build"]

# A layer has this many times the rows of the one above. Fewer than the usual number of neighbours, so that small
# clusters have rows above layer 0 too: a walk with few open rows finds them only from there.
RATIO = 4
# Near rows among which neighbours are chosen, and rows of vectors that are compared at once.
_NEAR = 64
_BLOCK = 128
# Numbers of a row that are multiplied at once: products this small OpenBLAS leaves to one thread, and sharing them
# among threads takes ten times as long on a busy machine.
_PIECE = 64
# The share of its places that a row gives to neighbours from the layers above: ways out of small clusters, which rows
# that are added one by one get while there are few others.
_FAR_SHARE = 2
# More layers than this would hold 4^14 rows.
MOST_LAYERS = 14


@dataclass(frozen=True)
class Layers:
    """A graph over n rows.

    Attributes
    ----------
    levels : ndarray of int32 (n,)
        The uppermost layer of each row.
    entry : int
        A row of the uppermost layer; -1 without rows.
    links : list of (rows, neighbours)
        For each layer its rows, ascending (r,), and their neighbours (r, room), int32, -1 after the last.
    """

    levels: Array
    entry: int
    links: list[tuple[Array, Array]]


def build(vectors: Array, m: int, metric: str, *, seed: int = 0) -> Layers:
    """Return a graph of at most 2 m neighbours in layer 0 and m above it.

    Cosine takes unit rows, and is then Euclidean distance. Under dot the nearest row is that of the greatest inner
    product, as for the libraries that walk the graph.
    """
    count = len(vectors)
    draws = np.random.default_rng(seed).random(count)
    levels = np.minimum(-np.log1p(-draws) / np.log(RATIO), MOST_LAYERS - 1).astype(np.int32)
    if not count:
        return Layers(levels, -1, [])
    links: list[tuple[Array, Array]] = []
    for level in range(int(levels.max()), -1, -1):
        rows = np.flatnonzero(levels >= level)
        room = m if level else 2 * m
        far = _far(rows, links, room // _FAR_SHARE)
        inside = _layer(vectors[rows], far, room, metric == "dot", seed)
        links.insert(0, (rows, np.where(inside < 0, -1, rows[inside]).astype(np.int32)))
    return Layers(levels, int(levels.argmax()), links)


def _far(rows: Array, above: list[tuple[Array, Array]], room: int) -> Array:
    """Return, for rows that are in layers above too, neighbours that they have there, the uppermost first, by place."""
    out = np.full((len(rows), room), -1, np.int32)
    for others, links in reversed(above):
        places = np.searchsorted(rows, others)
        out[places] = _filled(out[places], np.where(links < 0, -1, np.searchsorted(rows, links)), room)
    return out


def _layer(vectors: Array, far: Array, room: int, inner: bool, seed: int) -> Array:
    """Return the neighbours of each row (n, room)."""
    count = len(vectors)
    if count == 1:
        return np.full((1, room), -1, np.int32)
    found = Index.build(vectors, metric="dot" if inner else "l2", seed=seed).search(vectors, k=min(count, _NEAR + 1))
    near = found.keys.astype(np.int32)
    near[near == np.arange(count)[:, None]] = -1
    # One place is for the ring.
    room -= 1
    chosen = _chosen(vectors, near, room, inner, spare=False)
    kept = _chosen(vectors, _with_ways_back(vectors, chosen, 2 * room, inner), room, inner, spare=True)
    links = _filled(kept[:, : room - far.shape[1]], far, room)
    return _ringed(_filled(_filled(links, kept, room), near, room), seed)


def _packed(links: Array) -> Array:
    """Return links with -1 after the last, in their order."""
    return np.take_along_axis(links, np.argsort(links < 0, axis=1, kind="stable"), axis=1)


def _chosen(vectors: Array, near: Array, room: int, inner: bool, *, spare: bool) -> Array:
    """Keep near rows that no nearer one that was kept is nearer to than the row itself, then, if `spare`, the rest."""
    out = np.full((len(near), room), -1, np.int32)
    for start in range(0, len(near), _BLOCK):
        links = near[start : start + _BLOCK]
        rows = vectors[start : start + _BLOCK, None]
        around = vectors[links] if inner else vectors[links] - rows
        with np.errstate(over="ignore", invalid="ignore"):
            apart = -_products(around)
            away = -(around @ rows.transpose(0, 2, 1))[:, :, 0]
            if not inner:
                away = np.einsum("bcd,bcd->bc", around, around)
                apart = away[:, :, None] + away[:, None] + 2 * apart
        open_ = links >= 0
        kept = np.zeros_like(open_)
        for at in range(links.shape[1]):
            kept[:, at] = open_[:, at] & (kept.sum(1) < room)
            open_ &= ~(kept[:, at, None] & (apart[:, at] < away))
        order = np.argsort(np.where(kept, 0, np.where((links >= 0) & spare, 1, 2)), axis=1, kind="stable")[:, :room]
        usable = kept | ((links >= 0) & spare)
        taken = np.where(np.take_along_axis(usable, order, 1), np.take_along_axis(links, order, 1), -1)
        out[start : start + len(links), : taken.shape[1]] = taken
    return out


def _products(rows: Array) -> Array:
    """Return the inner products of all pairs in each block (blocks, n, n)."""
    blocks, count, dim = rows.shape
    out = np.zeros((blocks, count, count), np.float32)
    for start in range(0, dim, _PIECE):
        piece = rows[:, :, start : start + _PIECE]
        out += piece @ piece.transpose(0, 2, 1)
    return out


def _with_ways_back(vectors: Array, links: Array, room: int, inner: bool) -> Array:
    """Return the links of both directions, the nearest `room` of each row, nearest first."""
    count = len(links)
    ends = np.stack([np.repeat(np.arange(count), links.shape[1]), links.ravel()])[:, links.ravel() >= 0].astype(
        np.int64
    )
    pairs = np.unique(np.concatenate([ends[0] * count + ends[1], ends[1] * count + ends[0]]))
    rows, others = pairs // count, pairs % count
    away = np.empty(len(pairs), np.float32)
    for start in range(0, len(pairs), _BLOCK * _NEAR):
        part = slice(start, start + _BLOCK * _NEAR)
        first, second = vectors[rows[part]], vectors[others[part]]
        if inner:
            away[part] = -np.einsum("ij,ij->i", first, second)
        else:
            away[part] = np.square(first - second).sum(1)
    order = np.lexsort((away, rows))
    rows, others = rows[order], others[order]
    place = np.arange(len(rows)) - np.searchsorted(rows, rows)
    out = np.full((count, room), -1, np.int32)
    fits = place < room
    out[rows[fits], place[fits]] = others[fits]
    return out


def _filled(links: Array, more: Array, room: int) -> Array:
    """Return links (n, room), the free places taken by the first of `more` that are not among them."""
    out = np.full((len(links), room), -1, np.int32)
    for start in range(0, len(links), _BLOCK):
        part = slice(start, start + _BLOCK)
        both = np.concatenate([links[part], more[part]], axis=1)
        same = both[:, :, None] == both[:, None]
        both[np.tril(same, -1).any(2)] = -1
        found = _packed(both)[:, :room]
        out[part, : found.shape[1]] = found
    return out


def _ringed(links: Array, seed: int) -> Array:
    """Return links with one more a row, to the next of a random ring through all, so that no row is out of reach."""
    ring = np.random.default_rng(seed).permutation(len(links)).astype(np.int32)
    following = np.empty((len(links), 1), np.int32)
    following[ring, 0] = np.roll(ring, -1)
    return _filled(links, following, links.shape[1] + 1)
