"""R6. Fuzzing: files of an index, a manifest and a segment with anything changed, in more than half of them under
right checksums; every one is refused or read, without a panic, a hang or more memory than it is worth. And the parts
that are read in Python: segments with a changed section, conditions, manifests of encoders, headers of DICOM files."""

from __future__ import annotations

import json
import tempfile
import time
from collections import Counter
from contextlib import nullcontext, suppress
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import osler
import polars as pl
from forms import EVERY
from hostile_files import generate
from osler.collection.where import Condition
from osler.decode.prewalk import check_elements
from osler.encoders.manifest import read_manifest

from reliability import testing, workload

NAME, UNIT = "fuzzing", "files as index"
SIZES = {"quick": 100_000, "ci": 2_000_000, "full": 20_000_000}
# Of each sort in one piece.
FILES = {"index": 3_000, "manifest": 200, "segment": 200}
CONDITIONS, MANIFESTS, SEGMENTS, WALKS = 100, 20, 20, 40
# So few files at a time that one which takes much too long is seen among them.
SLICE, SLOWEST_SECONDS = 100, 2.0
# What was found once, far from the first seeds: a seed, a target and the first file of a slice.
FOUND = ((4_619, "index", 800),)
COLLECTION, INDEX = "/data/cases.osler", "/data/a.index"
MODELS = Path(__file__).parents[2] / "models"


def piece(seed: int) -> Counter[str]:
    counts = _files(seed, tuple(FILES), range(0, max(FILES.values()), SLICE))
    if seed == 0:
        for other, target, at in FOUND:
            counts += _files(other, (target,), range(at, at + SLICE, SLICE))
    rng = np.random.default_rng((seed, 1))
    return counts + _conditions(rng) + _manifests(rng) + _segments(seed, rng) + _walks(rng)


def _files(seed: int, targets: tuple[str, ...], starts: range) -> Counter[str]:
    counts: Counter[str] = Counter()
    # Of every other piece the indexes are so small that they have no graph, as in a build for use.
    with testing.small_indexes() if seed % 2 else nullcontext():
        for target, base in _bases(seed, np.random.default_rng(seed)):
            for at in (at for at in starts if target in targets and at < FILES[target]):
                began = time.process_time()
                files, read = testing.native.fuzz(target, base, seed * 10**6 + at, SLICE)
                spent = time.process_time() - began
                assert spent < SLOWEST_SECONDS, f"{target}, seed {seed}, from file {at}: one takes too long"
                counts += Counter({f"files as {target}": files, "that were sound": read})
    return counts


def _walks(rng: np.random.Generator) -> Counter[str]:
    """DICOM files with anything changed: the walk over their elements ends, or refuses them by its limits."""
    refused = 0
    for _ in range(WALKS):
        try:
            check_elements(generate(rng))
        except osler.SourceError as error:
            assert error.code == "too_large", str(error)
            refused += 1
    return Counter({"headers walked over": WALKS, "that were refused": refused})


TYPES = {"n": "int", "f": "float", "s": "text", "b": "bool", "d": "date", "l": "list of text"}
VOCABULARY = """
n f s b d l x key AND OR NOT IN BETWEEN LIKE IS NULL CAST TRY_CAST AS DISTINCT FROM TRUE FALSE ( ) , = <> < > <= >= + -
* / % || ; -- /* */ \\ INTEGER TEXT DATE 1 0 -1 1e308 9223372036854775808 .5 'a' '' 'it''s' '%_' é '2024-02-30' "n" \0
"""


def _conditions(rng: np.random.Generator) -> Counter[str]:
    """Conditions of any words, and sound ones with a word changed: what is no condition is a ValueError, and no other
    error."""
    table = pl.DataFrame(
        {"key": ["a", "b"], "n": [1, None], "f": [0.5, None], "s": ["x", None], "b": [True, None]}
        | {"d": [date(2024, 5, 1), None], "l": [["x"], None]}
    )
    sound, words = 0, VOCABULARY.split()
    for _ in range(CONDITIONS):
        some = rng.choice(words, int(rng.integers(1, 12))).tolist()
        if rng.random() < 0.7:
            some = _condition(rng, 3).split(" ")
            if rng.random() < 0.5:
                some[int(rng.integers(len(some)))] = str(rng.choice(words))
        text = " ".join(some)
        if rng.random() < 0.2:
            text = text[: int(rng.integers(0, len(text) + 1))] + "".join(map(chr, rng.integers(0, 0x250, 3).tolist()))
        try:
            Condition(text, {"key": "text", **TYPES}).mask(table)
            sound += 1
        except ValueError as error:
            assert str(error), repr(text)
    return Counter({"conditions": CONDITIONS, "conditions that were sound": sound})


def _condition(rng: np.random.Generator, depth: int) -> str:
    """A condition that means something, its words a space apart."""
    if depth and rng.random() < 0.6:
        one, other = _condition(rng, depth - 1), _condition(rng, depth - 1)
        return str(rng.choice([f"( {one} AND {other} )", f"( {one} OR {other} )", f"NOT ( {one} )"]))
    column, values = VALUES[int(rng.integers(len(VALUES)))]
    one, other = rng.choice(values, 2).tolist()
    sign = rng.choice(["=", "<>", "<", "<=", ">", ">="])
    forms = [f"{column} {sign} {one}", f"{column} IN ( {one} , {other} )", f"{column} BETWEEN {one} AND {other}"]
    forms += [f"{column} IS NOT NULL", f"{column} IS DISTINCT FROM {one}", f"NOT {column} {sign} {other}"]
    return str(rng.choice(forms))


VALUES = [
    ("n", ["1", "-1", "0", "n + 1", "n * 2 - 1", "9223372036854775807"]),
    ("f", [".5", "1e308", "n / 2", "f * f", "- f"]),
    ("s", ["'x'", "''", "'it''s'", "key"]),
    ("d", ["DATE '2024-05-01'", "'2024-05-01'", "d"]),
    ("key", ["'a'", "s", "'é'"]),
]


def _manifests(rng: np.random.Generator) -> Counter[str]:
    """Manifests of encoders with anything changed: a wrong one is an EncoderError."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source = json.loads(
            (MODELS / str(rng.choice(["reference", "efficientnet-lite0"])) / "manifest.json").read_text()
        )
        for _ in range(MANIFESTS):
            text = json.dumps(_changed(source, rng))
            if rng.random() < 0.3:
                at = int(rng.integers(0, len(text)))
                text = (
                    text[:at]
                    + str(rng.choice(["", "{", "null", '"', "1e999", "\\u0000", "[" * 3_000]))
                    + text[at + 1 :]
                )
            (folder / "manifest.json").write_text(text)
            with suppress(osler.EncoderError):
                read_manifest(folder)
    return Counter({"manifests of encoders": MANIFESTS})


def _changed(value: Any, rng: np.random.Generator) -> Any:
    """The same JSON with one thing in it replaced."""
    if isinstance(value, dict) and value and rng.random() < 0.9:
        key = str(rng.choice(list(value)))
        if rng.random() < 0.1:
            return {name: inner for name, inner in value.items() if name != key} | {"more": 1}
        return {**value, key: _changed(value[key], rng)}
    if isinstance(value, list) and value and rng.random() < 0.9:
        at = int(rng.integers(len(value)))
        return [*value[:at], _changed(value[at], rng), *value[at + 1 :]]
    others = [None, True, -1, 0, 2**63, 1e308, "", "../../etc/passwd", "/dev/zero", "a" * 10_000, [], {}, [[]], "\0"]
    return others[int(rng.integers(len(others)))]


def _segments(seed: int, rng: np.random.Generator) -> Counter[str]:
    """Segments whose sections say what they must not, under right checksums that the manifest lists."""
    disk = testing.disk(seed)
    counts: Counter[str] = Counter()
    with testing.small_graphs(), testing.mounted(disk):
        cases = workload.create(COLLECTION)
        for change, _ in workload.history(seed, 6):
            cases = workload.apply(cases, change)
        cases.close()
        with osler.Collection.open(COLLECTION) as cases:
            names = [name for name in cases._handle.store.state.files if not name.startswith("graphs/")]
        for _ in range(SEGMENTS if names else 0):
            copy = disk.fork()
            copy.change_listed(COLLECTION, str(rng.choice(names)), int(rng.integers(2**60)))
            copy.mount()
            counts["segments in a collection"] += 1
            try:
                with osler.Collection.open(COLLECTION) as cases:
                    cases.to_polars()
                    workload.held(cases)
                    cases.search(vector=np.ones(workload.DIM), k=3, kind="any")
                    cases.verify()
            except osler.CorruptIndexError as error:
                assert error.findings, "damage that is not named"
                continue
            counts["that were read"] += 1
    return counts


def _bases(seed: int, rng: np.random.Generator) -> list[tuple[str, bytes]]:
    form = EVERY[seed % len(EVERY)]
    # Enough rows for a graph now and then: such files are larger, and each use takes longer.
    rows = 2_050 if seed % 50 == 48 else int(rng.integers(1, 40))
    vectors = rng.standard_normal((rows, int(rng.integers(10, 20)))).astype(np.float32)
    disk = testing.disk(seed)
    with testing.small_graphs(), testing.mounted(disk):
        index = osler.Index.build(vectors, metric=("cosine", "dot", "l2")[seed % 3], **form.options)
        index.save(INDEX)
        cases = workload.create(COLLECTION)
        for change, _ in workload.history(seed, 4):
            cases = workload.apply(cases, change)
        cases.close()
    files = {str(name): data for name, data in disk.files().items()}
    segments = [data for name, data in files.items() if "/segments/" in name]
    manifests = [data for name, data in files.items() if "/manifests/" in name]
    found: list[tuple[str, Any]] = [("index", files[INDEX]), ("manifest", manifests[-1])]
    return found + [("segment", data) for data in segments[:1]]
