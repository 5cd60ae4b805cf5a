"""Conditions of any shape select the rows that DuckDB selects, whose SQL they are a part of."""

from __future__ import annotations

import datetime
from typing import Any

import duckdb
import numpy as np
import polars as pl
import pytest
from osler.collection.where import Condition

TYPES = {"n": "int", "m": "int", "f": "float", "s": "text", "t": "text", "b": "bool", "d": "date"}
CONDITIONS, ROWS = 1_500, 60
WORDS = ["", "a", "A", "ab", "aB", "a%b", "a_b", "é", "x'y", "a\nb", "Zz", "10", "-3"]
DAYS = [datetime.date(2024, 2, 29), datetime.date(1999, 12, 31), datetime.date(2024, 5, 1)]


def table(rng: np.random.Generator) -> pl.DataFrame:
    def some(values: list[Any]) -> list[Any]:
        return [None if rng.random() < 0.2 else values[int(rng.integers(len(values)))] for _ in range(ROWS)]

    return pl.DataFrame(
        {
            "key": [f"k{row:03}" for row in range(ROWS)],
            "n": some([-7, -3, -1, 0, 1, 2, 5, 9]),
            "m": some([-2, 0, 3, 4]),
            "f": some([-1.5, -0.0, 0.25, 2.0, 1e6]),
            "s": some(WORDS),
            "t": some(WORDS),
            "b": some([True, False]),
            "d": some(DAYS),
        },
        schema_overrides={"n": pl.Int64, "m": pl.Int64, "f": pl.Float64, "d": pl.Date},
    )


class Writer:
    """Writes conditions at random."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng

    def one(self, of: list[str]) -> str:
        return of[int(self.rng.integers(len(of)))]

    def number(self, depth: int) -> str:
        if depth and self.rng.random() < 0.5:
            left, right = self.number(depth - 1), self.number(depth - 1)
            sums = [f"({left} + {right})", f"({left} - {right})", f"({left} * 2)", f"({left} / {right})"]
            return self.one(
                [*sums, f"-({left})", f"ABS({left})", f"LENGTH({self.text(depth - 1)})", "(n % 3)", "(m % -2)"]
            )
        return self.one(["n", "m", "f", "n", "2", "-3", "0", "0.25", "1e3", "CAST(f AS INT)", "TRY_CAST(s AS INT)"])

    def text(self, depth: int) -> str:
        if depth and self.rng.random() < 0.4:
            left = self.text(depth - 1)
            return self.one([f"LOWER({left})", f"UPPER({left})", "CAST(n AS TEXT)"])
        return self.one(["s", "t", "key", *("'" + word.replace("'", "''") + "'" for word in WORDS)])

    def predicate(self) -> str:
        make = self.one(["number", "number", "text", "text", "date", "bool"])
        no = self.one(["", "NOT "])
        if make == "bool":
            return self.one(["b", "NOT b", f"b IS {no}TRUE", f"b IS {no}FALSE", f"b IS {no}NULL", "b = FALSE"])
        values: Any = {
            "number": lambda: self.number(2),
            "text": lambda: self.text(2),
            "date": lambda: self.one(["d", "DATE '2024-02-29'", "DATE '2000-01-01'"]),
        }[make]
        left = values()
        sign = self.one(["=", "<>", "!=", "<", "<=", ">", ">=", "IS DISTINCT FROM", "IS NOT DISTINCT FROM"])
        forms = [f"{left} {sign} {values()}", f"{left} IS {no}NULL", f"{left} {no}BETWEEN {values()} AND {values()}"]
        forms.append(f"{left} {no}IN ({values()}, {values()}, {self.one(['NULL', values()])})")
        if make == "text":
            pattern = self.one(["%", "_", "a%", "%b", "a!%b", "a!_b", "", "é", "_b%", "%''%"])
            forms += 2 * [f"{left} {no}{self.one(['LIKE', 'ILIKE'])} '{pattern}' ESCAPE '!'"]
        return self.one(forms)

    def condition(self, depth: int) -> str:
        if not depth or self.rng.random() < 0.3:
            return self.predicate()
        left, right = self.condition(depth - 1), self.condition(depth - 1)
        return self.one([f"({left}) AND ({right})", f"({left}) OR ({right})", f"NOT ({left})", f"{left} AND {right}"])


@pytest.mark.parametrize("seed", range(4))
def test_the_same_rows(seed: int) -> None:
    rng = np.random.default_rng(seed)
    rows = table(rng)
    writer = Writer(rng)
    database = duckdb.connect()
    database.register("rows", rows.to_arrow())
    compared = 0
    for _ in range(CONDITIONS // 4):
        text = writer.condition(3)
        try:
            wanted = {key for (key,) in database.execute(f"SELECT key FROM rows WHERE {text}").fetchall()}
        except duckdb.Error:
            # Some casts and sums are too much for it; then there is nothing to compare with.
            continue
        found = rows["key"].filter(pl.Series(Condition(text, {"key": "text", **TYPES}).mask(rows)))
        assert set(found) == wanted, text
        compared += 1
    assert compared > CONDITIONS // 5
