"""Conditions against a three-valued evaluator written here, row by row in Python."""

from __future__ import annotations

import datetime
import re
import sys
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from osler.collection.where import Condition

TYPES = {"age": "int", "dose": "float", "name": "text", "ok": "bool", "Odd name": "text", "when": "date", "and": "int"}
DTYPES = {
    "age": pl.Int64,
    "dose": pl.Float64,
    "name": pl.String,
    "ok": pl.Boolean,
    "Odd name": pl.String,
    "when": pl.Date,
    "and": pl.Int64,
}
COLUMNS = {"int": ["age"], "float": ["dose"], "text": ["name", '"Odd name"']}
VALUES = {
    "int": st.one_of(st.none(), st.integers(-2, 3)),
    "float": st.one_of(st.none(), st.sampled_from([-1.5, 0.0, 0.5, 2.0])),
    "text": st.one_of(st.none(), st.sampled_from(["", "a", "A", "ab", "a%b", "a.b", "x'y", "a\nb", "é"])),
}
PATTERNS = ["%", "_", "a%", "%b", "a_b", "a.b", "", "A", "a!%b", "%x''y", "é", "a%b"]


def literal(value: Any) -> str:
    if value is None:
        return "NULL"
    return "'" + value.replace("'", "''") + "'" if isinstance(value, str) else repr(value)


def like(text: str, pattern: str, ignore_case: bool) -> bool:
    found, at = "", 0
    while at < len(pattern):
        letter = pattern[at]
        if letter == "!":
            at += 1
            found += re.escape(pattern[at])
        else:
            found += {"%": ".*", "_": "."}.get(letter, re.escape(letter))
        at += 1
    flags = re.DOTALL | (re.IGNORECASE if ignore_case else 0)
    return re.fullmatch(found, text, flags) is not None


def both(function: Any, *values: Any) -> Any:
    return None if any(value is None for value in values) else function(*values)


def land(a: Any, b: Any) -> Any:
    if a is False or b is False:
        return False
    return None if a is None or b is None else True


def lor(a: Any, b: Any) -> Any:
    if a is True or b is True:
        return True
    return None if a is None or b is None else False


def lnot(a: Any) -> Any:
    return None if a is None else not a


COMPARE = {
    "=": lambda a, b: both(lambda x, y: x == y, a, b),
    "<>": lambda a, b: both(lambda x, y: x != y, a, b),
    "!=": lambda a, b: both(lambda x, y: x != y, a, b),
    "<": lambda a, b: both(lambda x, y: x < y, a, b),
    "<=": lambda a, b: both(lambda x, y: x <= y, a, b),
    ">": lambda a, b: both(lambda x, y: x > y, a, b),
    ">=": lambda a, b: both(lambda x, y: x >= y, a, b),
    "IS DISTINCT FROM": lambda a, b: a != b,
    "IS NOT DISTINCT FROM": lambda a, b: a == b,
}


def value_of(column: str) -> Any:
    return lambda row: row[column.strip('"')]


@st.composite
def predicate(draw: Any) -> tuple[str, Any]:
    """A predicate, and the function that gives its value for a row."""
    kind = draw(st.sampled_from(["int", "float", "text"]))
    column = draw(st.sampled_from(COLUMNS[kind]))
    get = value_of(column)
    form = draw(st.sampled_from(["compare", "null", "in", "between", "like", "cast", "bool", "columns"]))
    negated = draw(st.booleans())
    no = "NOT " if negated else ""
    turn = lnot if negated else lambda x: x
    if form == "columns":
        other = draw(st.sampled_from(COLUMNS["text" if kind == "text" else "float"]))
        sign = draw(st.sampled_from(sorted(COMPARE)))
        return f"{column} {sign} {other}", lambda row: COMPARE[sign](get(row), value_of(other)(row))
    if form == "compare":
        sign, right = draw(st.sampled_from(sorted(COMPARE))), draw(VALUES[kind])
        if draw(st.booleans()):
            return f"{literal(right)} {sign} {column}", lambda row: COMPARE[sign](right, get(row))
        return f"{column} {sign} {literal(right)}", lambda row: COMPARE[sign](get(row), right)
    if form == "null":
        return f"{column} IS {no}NULL", lambda row: (get(row) is None) != negated
    if form == "in":
        members = draw(st.lists(VALUES[kind], min_size=1, max_size=3))

        def inside(row: Any) -> Any:
            found: Any = False
            for member in members:
                found = lor(found, COMPARE["="](get(row), member))
            return turn(found)

        return f"{column} {no}IN ({', '.join(map(literal, members))})", inside
    if form == "between":
        low, high = draw(VALUES[kind]), draw(VALUES[kind])
        return (
            f"{column} {no}BETWEEN {literal(low)} AND {literal(high)}",
            lambda row: turn(land(COMPARE[">="](get(row), low), COMPARE["<="](get(row), high))),
        )
    if form == "like":
        pattern, word = draw(st.sampled_from(PATTERNS)), draw(st.sampled_from(["LIKE", "ILIKE", "like"]))
        text = pattern.replace("''", "'")
        return (
            f"name {no}{word} '{pattern}' ESCAPE '!'",
            lambda row: turn(both(lambda value: like(value, text, word == "ILIKE"), row["name"])),
        )
    if form == "cast":
        number = draw(st.integers(-2, 3))
        return f"CAST(age AS TEXT) = '{number}'", lambda row: both(lambda a: str(a) == str(number), row["age"])
    word = draw(st.sampled_from(["TRUE", "FALSE"]))
    return f"ok IS {no}{word}", lambda row: (row["ok"] is (word == "TRUE")) != negated


@st.composite
def condition(draw: Any, depth: int = 3) -> tuple[str, Any]:
    """Predicates under AND, OR and NOT, with as few parentheses as SQL's precedence allows."""
    level = draw(st.sampled_from(["predicate", "not", "and", "or"])) if depth else "predicate"
    if level == "predicate":
        return draw(predicate())
    text, left = draw(condition(depth=depth - 1))
    if level == "not":
        return f"NOT ({text})", lambda row: lnot(left(row))
    other, right = draw(condition(depth=depth - 1))
    if level == "and":
        wrapped = [f"({one})" if " OR " in one else one for one in (text, other)]
        return " AND ".join(wrapped), lambda row: land(left(row), right(row))
    return f"{text} OR {other}", lambda row: lor(left(row), right(row))


ROW = st.fixed_dictionaries(
    {
        "age": VALUES["int"],
        "dose": VALUES["float"],
        "name": VALUES["text"],
        "ok": st.one_of(st.none(), st.booleans()),
        "Odd name": VALUES["text"],
        "when": st.none(),
        "and": st.none(),
    }
)


@settings(max_examples=300)
@given(condition(), st.lists(ROW, min_size=1, max_size=8))
def test_any_condition_equals_a_plain_evaluator(drawn: tuple[str, Any], rows: list[dict[str, Any]]) -> None:
    text, expected = drawn
    found = Condition(text, TYPES).mask(pl.DataFrame(rows, schema=DTYPES)).tolist()
    assert found == [expected(row) is True for row in rows], text


TABLE = pl.DataFrame(
    {
        "age": [1, 2, None],
        "dose": [0.5, None, 2.0],
        "name": ["a", "B", None],
        "ok": [True, None, False],
        "Odd name": ["x", "y", "z"],
        "when": [datetime.date(2020, 1, 1), None, datetime.date(2024, 5, 31)],
        "and": [1, 2, 3],
    },
    schema=DTYPES,
)


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ("age IS DISTINCT FROM 1 AND name = 'B'", [1]),
        ("age IS DISTINCT FROM 1", [1, 2]),
        ("age IS NOT DISTINCT FROM NULL", [2]),
        ("NOT age IS DISTINCT FROM 1", [0]),
        ("NOT age = 1", [1]),
        ("age = 1 OR name IS NULL AND ok", [0]),
        ("ok", [0]),
        ("NOT ok", [2]),
        ("ok IS NOT TRUE", [1, 2]),
        ("ok = TRUE OR ok = FALSE", [0, 2]),
        ("TRUE", [0, 1, 2]),
        ("NULL", []),
        ("age = NULL", []),
        ("age NOT IN (1, NULL)", []),
        ("when > '2020-01-01'", [2]),
        ("when = DATE '2020-01-01'", [0]),
        ("when IN ('2020-01-01', '1999-01-01')", [0]),
        ("CAST('2024-05-31' AS DATE) = when", [2]),
        ("age::TEXT = '2'", [1]),
        ("TRY_CAST(name AS INT) IS NULL", [0, 1, 2]),
        ("lower(name) = 'b'", [1]),
        ("LENGTH(name) = 1 AND abs(-age) = 2", [1]),
        ("age * 2 + 1 = 5", [1]),
        ("age IN (1, 0.5, 1e300)", [0]),
        ("age IN (0.5, 1.5)", []),
        ("NOT age IN (0.5, 1.5)", [0, 1]),
        ("dose IN (1, 0.5)", [0]),
        ("age % 2 = 1", [0]),
        ("(-age) % 2 = -1", [0]),
        ("age % 0 IS NULL", [0, 1, 2]),
        ("LENGTH(name) - 10 < 0 AND -LENGTH(name) < 0", [0, 1]),
        ("-age < -1", [1]),
        ("age - 1 - 1 = 0", [1]),
        ("\"Odd name\" = 'y'", [1]),
        ('"and" = 3', [2]),
        ("age IN (dose + 0.5, 2)", [0, 1]),
        ("dose > 1e0", [2]),
        ("(((age = 1)))", [0]),
    ],
)
def test_a_condition_selects_these_rows(text: str, rows: list[int]) -> None:
    assert [row for row, found in enumerate(Condition(text, TYPES).mask(TABLE)) if found] == rows


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("agee = 1", "did you mean 'age'"),
        ("veiw = 'PA'", "there is no column 'veiw'"),
        ("age = 'x'", "where compares int with text"),
        ("name > 3", "where compares int with text"),
        ("age", "needs something true or false"),
        ("age = 1 AND name", "AND needs something true or false"),
        ("age =", "ends too early"),
        ("age = 1)", "not understood at character 8"),
        ("age = 1 age = 2", "not understood at character 9"),
        ("age = 1; DROP TABLE x", "not understood at character 8"),
        ("age IN (SELECT age FROM x)", "not understood at character 9"),
        ("EXISTS (SELECT 1)", "does not know the function"),
        ("name = read_csv('secret.csv')", "does not know the function 'read_csv'"),
        ("name IN read_parquet('x')", "not understood"),
        ("age > (SELECT 1)", "not understood at character 8"),
        ("age = 1 -- comment", "not understood at character 9"),
        ("name LIKE name", "needs its pattern in quotes"),
        ("age LIKE 'x'", "LIKE in where compares text"),
        ("when = 'yesterday'", "a date that is not of the form"),
        ("CAST(age AS BLOB) = 1", "cannot cast to 'BLOB'"),
        ("age = 99999999999999999999", "beyond 64 bits"),
        ("name = 'open", "put text in single quotes"),
        ("", "ends too early"),
        ("name.age = 1", "not understood"),
        ("COUNT(age) > 1", "does not know the function"),
        ("SUM(age) OVER () > 1", "does not know the function"),
        ("a\x00 = 1", "not understood"),
    ],
)
def test_what_cannot_be_understood_is_refused_before_any_row_is_read(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        Condition(text, TYPES)


def test_a_cast_that_fails_names_no_value() -> None:
    with pytest.raises(ValueError, match="use TRY_CAST") as caught:
        Condition("CAST(name AS INT) = 1", TYPES).mask(TABLE)
    assert "'a'" not in str(caught.value)
    assert '"B"' not in str(caught.value)


def test_a_polars_expression_selects_rows() -> None:
    expression = (pl.col("age") > 1) | pl.col("name").is_null()
    assert Condition(expression, TYPES).mask(TABLE).tolist() == [False, True, True]
    assert Condition(pl.lit(True), TYPES).mask(TABLE).tolist() == [True] * 3
    assert Condition(pl.col("age") == pl.col("age").max(), TYPES).mask(TABLE).tolist() == [False, True, False]


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        (pl.col("agee") > 1, "did you mean 'age'"),
        (pl.col("age"), "true or false for each row"),
        (pl.all() > 1, "several columns at once"),
        (pl.col("name") + pl.col("ok"), "true or false|does not fit"),
    ],
)
def test_a_polars_expression_that_is_no_condition_is_refused(expression: pl.Expr, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Condition(expression, TYPES)


def test_a_column_whose_name_looks_like_a_pattern_is_that_column() -> None:
    types = {"^a.*$": "int", "ab": "int"}
    table = pl.DataFrame({"^a.*$": [1, 2], "ab": [2, 1]})
    assert Condition('"^a.*$" = 1', types).mask(table).tolist() == [True, False]


@pytest.mark.parametrize(
    "where",
    [
        "(" * 65 + "a = 1" + ")" * 65,
        "(" * 50_000 + "a = 1" + ")" * 50_000,
        "a = " + "- " * 50_000 + "1",
        "UPPER(" * 2_000 + "t" + ")" * 2_000 + " = 'X'",
        "CAST(" * 2_000 + "t" + " AS TEXT)" * 2_000 + " = 'X'",
        "(NOT " * 2_000 + "a = 1" + ")" * 2_000,
    ],
)
def test_what_is_nested_too_deep_is_refused(where: str) -> None:
    with pytest.raises(ValueError, match="where is nested more than 64 deep"):
        Condition(where, {"a": "int", "t": "text"})


@pytest.mark.parametrize(
    "where",
    [
        " OR ".join(f"a = {n}" for n in range(1_001)),
        "+".join(["a"] * 20_000) + " > 5",
        "a = 1" + " IS TRUE" * 2_000,
        "t" + "::TEXT" * 2_000 + " = 'x'",
        "a IN (" + ", ".join(["a"] * 2_000) + ")",
    ],
)
def test_too_many_terms_are_refused(where: str) -> None:
    with pytest.raises(ValueError, match="where has more than 1,000 terms; use IN"):
        Condition(where, {"a": "int", "t": "text"})


def test_a_caller_deep_in_the_stack_gets_the_same_error() -> None:
    def descend(left: int) -> Condition:
        return descend(left - 1) if left else Condition("(" * 64 + "a = 1" + ")" * 64, {"a": "int"})

    frame, depth = sys._getframe(), 0
    while frame is not None:
        frame, depth = frame.f_back, depth + 1
    with pytest.raises(ValueError, match="where is nested more than 64 deep"):
        descend(sys.getrecursionlimit() - depth - 300)


def test_what_is_just_within_the_limits_is_computed() -> None:
    table = pl.DataFrame({"a": [1, 999, 2_000, None]})
    many = " OR ".join(f"a = {n}" for n in range(1_000))
    listed = f"a IN ({', '.join(map(str, range(20_000)))})"
    for where, expected in (
        (many, [True, True, False, False]),
        (f"NOT ({many.replace(' OR a = 999', '')})", [False, True, True, False]),
        ("(" * 64 + "a = 1" + ")" * 64, [True, False, False, False]),
        (listed, [True, True, True, False]),
        ("NOT " * 50_001 + "a = 1", [False, True, True, False]),
    ):
        assert Condition(where, {"a": "int"}).mask(table).tolist() == expected


def test_operands_that_come_again_are_computed_once() -> None:
    once = Condition("a = 1 OR a > 5", {"a": "int"}).expression
    again = Condition("a = 1 OR a > 5 OR a  =  1 OR a > 5", {"a": "int"}).expression
    assert again.meta.eq(once)
    assert Condition("a = 1 AND a = 1 AND a = 1", {"a": "int"}).mask(pl.DataFrame({"a": [1, 2]})).tolist() == [1, 0]
    with pytest.raises(ValueError, match="OR needs something true or false"):
        Condition("a OR a", {"a": "int"})
