"""A ``where`` to a row mask: a SQL condition, parsed here, or a Polars expression, over the collection's columns only.

Reads no file and calls no function that could. The parser is ours because a condition must bind as SQL says (``IS
DISTINCT FROM`` above ``AND``) and fail with a sentence that quotes no value. SQL:2016, search condition.
"""

from __future__ import annotations

import difflib
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import date, datetime
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from osler.collection.tokens import Token, tokens

if TYPE_CHECKING:
    import polars as pl

__all__ = ["Condition", "nearest"]

_COMPARISONS = {"=", "==", "<>", "!=", "<", "<=", ">", ">="}
_TYPES = {
    "boolean": "bool", "bool": "bool", "int": "int", "integer": "int", "bigint": "int", "smallint": "int",
    "float": "float", "double": "float", "real": "float", "text": "text", "varchar": "text", "string": "text",
    "date": "date", "timestamp": "datetime", "datetime": "datetime",
}  # fmt: skip
_ARITHMETIC: dict[str, Callable[[Any, Any], Any]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": operator.truediv,
    "%": lambda one, other: one.sign() * (one.abs() % other.abs()),
}
_SUMS, _PRODUCTS = ("+", "-"), ("*", "/", "%")
_NUMBERS = ("int", "float")
# Both keep the recursion here and in Polars far from the end of the stack.
_DEEPEST = 64
_MOST_TERMS = 1_000
_TOO_DEEP = f"where is nested more than {_DEEPEST} deep; use fewer brackets"
_RESERVED = {
    "and", "or", "not", "is", "null", "in", "between", "like", "ilike", "true", "false", "distinct", "from",
    "cast", "try_cast", "as", "escape", "select", "exists", "case", "when", "over",
}  # fmt: skip


class Condition:
    """A checked condition over the columns of one collection.

    Parameters
    ----------
    where : str, polars.Expr or None
    types : mapping of str to str
        The columns and their types, as in `osler.collection.rows.Columns`.

    Raises
    ------
    ValueError
        The condition cannot be parsed, names an unknown column, or compares what cannot be compared.

    Examples
    --------
    >>> from osler.collection.where import Condition
    >>> import polars as pl
    >>> condition = Condition("age >= 60 AND modality = 'CT'", {"age": "int", "modality": "text"})
    >>> condition.mask(pl.DataFrame({"age": [70, 70, None], "modality": ["CT", "MR", "CT"]})).tolist()
    [True, False, False]
    """

    def __init__(self, where: Any, types: Mapping[str, str]) -> None:
        self.expression: pl.Expr | None = None
        if where is None:
            return
        import polars as pl

        if isinstance(where, str):
            try:
                self.expression = _Parser(where, types).condition()
            except RecursionError:
                # The caller has used up most of the stack.
                raise ValueError(_TOO_DEEP) from None
        elif isinstance(where, pl.Expr):
            self.expression = _checked(where, types)
        else:
            raise TypeError(
                f"where is a {type(where).__name__}; give a SQL-style condition as str, or a Polars expression"
            )

    def mask(self, table: pl.DataFrame) -> np.ndarray[Any, np.dtype[np.bool_]]:
        """Return, for each row of the table, whether the condition is true; where it is NULL, it is not."""
        import polars as pl

        if self.expression is None:
            return np.ones(len(table), bool)
        if not len(table):
            return np.zeros(0, bool)
        try:
            found = table.lazy().with_columns(self.expression.alias("__where")).select("__where").collect()["__where"]
        except pl.exceptions.PolarsError:
            raise ValueError(
                "where cannot be computed for some rows; if it casts text, use TRY_CAST, which gives NULL instead"
            ) from None
        return found.cast(pl.Boolean).fill_null(False).to_numpy().astype(bool)


def nearest(name: str, known: Any) -> str:
    """Return a hint that names the nearest of the known names."""
    names = [str(entry) for entry in known]
    close = difflib.get_close_matches(name, names, 1, 0.5)
    if close:
        return f"did you mean {close[0]!r}?"
    return f"there are: {', '.join(sorted(names))}" if names else "there are none yet"


def unknown_column(name: str, known: Any) -> ValueError:
    """Return the error for a column that is not there."""
    return ValueError(f"there is no column {name!r}; {nearest(name, known)}")


def _checked(expression: pl.Expr, types: Mapping[str, str]) -> pl.Expr:
    """Return a Polars expression of the user's, if it names known columns and gives one boolean."""
    import polars as pl

    from osler.collection.rows import dtype

    if expression.meta.has_multiple_outputs():
        raise ValueError("where names several columns at once; give a Polars expression of one boolean")
    for name in expression.meta.root_names():
        if name not in types:
            raise unknown_column(name, types)
    schema = {name: dtype(kind) for name, kind in types.items()}
    try:
        found = pl.LazyFrame(schema=schema).select(expression.alias("__where")).collect_schema()["__where"]
    except pl.exceptions.PolarsError:
        raise ValueError("where does not fit the types of the columns it names") from None
    if found not in (pl.Boolean, pl.Null):
        raise ValueError("where must be true or false for each row; compare the column with something")
    return expression


class _Typed(NamedTuple):
    """An expression, the type of its values, and its value if it is a literal."""

    expression: Any
    kind: str
    literal: Any = None
    is_literal: bool = False


class _Parser:
    """Recursive descent, one method a level of precedence, loosest first."""

    def __init__(self, text: str, types: Mapping[str, str]) -> None:
        self.types = types
        self.tokens = tokens(text)
        self.position = 0
        self.depth = 0
        self.terms = 0

    def condition(self) -> pl.Expr:
        found: pl.Expr = self._truth(self._or(), "where")
        if self._peek().kind != "end":
            raise self._unexpected()
        return found

    def _or(self, word: str = "or") -> _Typed:
        """Return operands joined by OR, or one level down by AND; each that comes again in the same words counts once.

        Two levels in one method, as in `_sum`: brackets in brackets shall not use up the stack.
        """
        found: dict[Any, _Typed] = {}
        several = False
        while True:
            start = self.position
            operand = self._or("and") if word == "or" else self._not()
            found.setdefault(tuple(token[:2] for token in self.tokens[start : self.position]), operand)
            if not self._word(word):
                break
            several = True
        if not several:
            return operand
        join = operator.or_ if word == "or" else operator.and_
        return _Typed(_balanced([self._truth(one, word.upper()) for one in found.values()], join), "bool")

    def _not(self) -> _Typed:
        count = 0
        while self._word("not"):
            count += 1
        found = self._predicate()
        if not count:
            return found
        truth = self._truth(found, "NOT")
        return _Typed(~truth if count % 2 else truth, "bool")

    def _nested(self, inner: Callable[[], _Typed]) -> _Typed:
        """Return what lies one level deeper, such as in brackets."""
        self.depth += 1
        if self.depth > _DEEPEST:
            raise ValueError(_TOO_DEEP)
        found = inner()
        self.depth -= 1
        return found

    def _count(self) -> None:
        self.terms += 1
        if self.terms > _MOST_TERMS:
            raise ValueError(f"where has more than {_MOST_TERMS:,} terms; use IN for many values of one column")

    def _predicate(self) -> _Typed:
        self._count()
        left = self._sum()
        found = self._comparison(left)
        while found is not None:
            left = found
            found = self._comparison(left)
            if found is not None:
                self._count()
        return left

    def _comparison(self, left: _Typed) -> _Typed | None:
        """Return what follows `left` compared with it, or None where no comparison follows."""
        token = self._peek()
        if token.kind == "sign" and token.text in _COMPARISONS | {"<=>"}:
            self.position += 1
            return self._compare(left, token.text, self._sum())
        if self._word("is"):
            return self._is(left)
        negated = self._word("not")
        if self._word("in"):
            found = self._in(left)
        elif self._word("between"):
            low = self._sum()
            self._require("and")
            high = self._sum()
            lower, upper = self._compare(left, ">=", low), self._compare(left, "<=", high)
            found = _Typed(lower.expression & upper.expression, "bool")
        elif self._word("like"):
            found = self._like(left, ignore_case=False)
        elif self._word("ilike"):
            found = self._like(left, ignore_case=True)
        elif negated:
            raise self._unexpected()
        else:
            return None
        return _Typed(~found.expression, "bool") if negated else found

    def _is(self, left: _Typed) -> _Typed:
        negated = self._word("not")
        if self._word("null"):
            return _Typed(left.expression.is_not_null() if negated else left.expression.is_null(), "bool")
        for word, value in (("true", True), ("false", False)):
            if self._word(word):
                found = self._truth(left, f"IS {word.upper()}").eq_missing(value)
                return _Typed(~found if negated else found, "bool")
        self._require("distinct")
        self._require("from")
        return self._compare(left, "<=>" if negated else "distinct", self._sum())

    def _in(self, left: _Typed) -> _Typed:
        import polars as pl

        self._sign("(")
        entries = [self._sum()]
        while self._optional_sign(","):
            entries.append(self._sum())
        self._sign(")")
        if not all(entry.is_literal for entry in entries):
            for _ in entries:
                self._count()
            equal = [self._compare(left, "=", entry).expression for entry in entries]
            return _Typed(_balanced(equal, operator.or_), "bool")
        left, *coerced = self._common(left, *entries)
        values = [entry.literal for entry in coerced if entry.literal is not None]
        known = len(values)
        if left.kind == "int":
            # A fraction equals no whole number.
            values = [int(value) for value in values if -(2**63) <= value < 2**63 and value == value // 1]
        elif left.kind == "float":
            values = [float(value) for value in values]
        if not known:
            found = pl.lit(None, pl.Boolean)
        else:
            members = left.expression.is_in(values) if values else pl.lit(False)
            found = pl.when(left.expression.is_null()).then(pl.lit(None, pl.Boolean)).otherwise(members)
        if known < len(entries):
            found = found | pl.lit(None, pl.Boolean)
        return _Typed(found, "bool")

    def _like(self, left: _Typed, *, ignore_case: bool) -> _Typed:
        import polars as pl

        pattern = self._sum()
        escape = self._sum().literal if self._word("escape") else None
        if left.kind not in ("text", "null") or pattern.kind not in ("text", "null"):
            raise ValueError("LIKE in where compares text; cast other columns with CAST(... AS TEXT)")
        if not pattern.is_literal:
            raise ValueError("LIKE in where needs its pattern in quotes")
        if escape is not None and (not isinstance(escape, str) or len(escape) != 1):
            raise ValueError("ESCAPE in where needs one character in quotes")
        if pattern.literal is None or left.kind == "null":
            return _Typed(pl.lit(None, pl.Boolean), "bool")
        return _Typed(left.expression.str.contains(_regex(pattern.literal, escape, ignore_case)), "bool")

    def _sum(self, signs: tuple[str, ...] = _SUMS) -> _Typed:
        """Return numbers that are added or subtracted, or one level down multiplied or divided."""
        left = self._sum(_PRODUCTS) if signs is _SUMS else self._signed()
        while self._peek().kind == "sign" and self._peek().text in signs:
            self._count()
            sign = self._next().text
            right = self._sum(_PRODUCTS) if signs is _SUMS else self._signed()
            if not {left.kind, right.kind} <= {*_NUMBERS, "null"}:
                raise ValueError(f"{sign!r} in where needs numbers on both sides")
            a, b = left.expression, right.expression
            whole = sign != "/" and left.kind == right.kind == "int"
            left = _Typed(_ARITHMETIC[sign](a, b), "int" if whole else "float")
        return left

    def _signed(self) -> _Typed:
        if self._optional_sign("-"):
            found = self._nested(self._signed)
            if found.kind not in (*_NUMBERS, "null"):
                raise ValueError("'-' in where needs a number")
            if found.is_literal and found.literal is not None:
                return _literal(-found.literal)
            return _Typed(-found.expression, found.kind)
        if self._optional_sign("+"):
            return self._nested(self._signed)
        found = self._primary()
        while self._optional_sign("::"):
            self._count()
            found = self._cast(found, strict=True)
        return found

    def _primary(self) -> _Typed:
        token = self._next()
        if token.kind == "number":
            return _literal(int(token.text) if token.text.isdigit() else float(token.text))
        if token.kind == "text":
            return _literal(token.text)
        if token.kind == "quoted":
            return self._column(token.text)
        if token.kind == "sign" and token.text == "(":
            found = self._nested(self._or)
            self._sign(")")
            return found
        if token.kind == "word":
            return self._named(token)
        self.position -= 1
        raise self._unexpected()

    def _named(self, token: Token) -> _Typed:
        word = token.text.lower()
        if token.text not in self.types:
            if word in ("true", "false"):
                return _literal(word == "true")
            if word == "null":
                return _literal(None)
            if word in ("cast", "try_cast"):
                self._sign("(")
                found = self._nested(self._or)
                self._require("as")
                found = self._cast(found, strict=word == "cast")
                self._sign(")")
                return found
            if word in ("date", "timestamp") and self._peek().kind == "text":
                return _literal(_moment(self._next().text, "date" if word == "date" else "datetime"))
        if self._peek().kind == "sign" and self._peek().text == "(":
            return self._function(token)
        if word in _RESERVED and token.text not in self.types:
            self.position -= 1
            raise self._unexpected()
        return self._column(token.text)

    def _function(self, token: Token) -> _Typed:
        name = token.text.lower()
        self._sign("(")
        if name not in ("lower", "upper", "length", "abs"):
            raise ValueError(
                f"where does not know the function {token.text!r}; it has LOWER, UPPER, LENGTH, ABS, CAST and TRY_CAST"
            )
        value = self._nested(self._or)
        self._sign(")")
        expected = _NUMBERS if name == "abs" else ("text",)
        if value.kind not in (*expected, "null"):
            raise ValueError(f"{token.text} in where needs {'a number' if name == 'abs' else 'text'}")
        if name == "abs":
            return _Typed(value.expression.abs(), value.kind)
        if name == "length":
            import polars as pl

            # Of its own it has no sign, and a difference would wrap around.
            return _Typed(value.expression.str.len_chars().cast(pl.Int64), "int")
        text = value.expression.str
        return _Typed(text.to_lowercase() if name == "lower" else text.to_uppercase(), "text")

    def _cast(self, value: _Typed, *, strict: bool) -> _Typed:
        from osler.collection.rows import dtype

        token = self._next()
        kind = _TYPES.get(token.text.lower()) if token.kind == "word" else None
        if kind is None:
            raise ValueError(f"where cannot cast to {token.text!r}; {nearest(token.text, _TYPES)}")
        if token.text.lower() == "double":
            self._word("precision")
        if value.kind.startswith("list"):
            raise ValueError("where cannot cast a list")
        if value.kind == "text" and kind in ("date", "datetime"):
            return _Typed(value.expression.str.strptime(dtype(kind), strict=strict), kind)
        found = _rounded(value.expression) if (value.kind, kind) == ("float", "int") else value.expression
        return _Typed(found.cast(dtype(kind), strict=strict), kind)

    def _column(self, name: str) -> _Typed:
        import polars as pl

        if name not in self.types:
            raise unknown_column(name, self.types)
        # A name between ^ and $ is read as a pattern, so it has to be one that fits itself alone.
        pattern = f"^{''.join(map(_quoted, name))}$"
        return _Typed(pl.col(pattern if name.startswith("^") else name), self.types[name])

    def _compare(self, left: _Typed, sign: str, right: _Typed) -> _Typed:
        left, right = self._common(left, right)
        a, b = left.expression, right.expression
        found = {
            "=": a.eq, "==": a.eq, "<>": a.ne, "!=": a.ne, "<": a.lt, "<=": a.le, ">": a.gt, ">=": a.ge,
            "<=>": a.eq_missing, "distinct": a.ne_missing,
        }[sign](b)  # fmt: skip
        return _Typed(found, "bool")

    def _common(self, left: _Typed, *others: _Typed) -> list[_Typed]:
        """Return operands that can be compared: a quoted date becomes one beside a column of dates."""
        operands = [left, *others]
        kinds = {operand.kind for operand in operands} - {"null"}
        moments = kinds & {"date", "datetime"}
        if len(moments) == 1 and kinds == {*moments, "text"}:
            kind = moments.pop()
            operands = [
                _literal(_moment(o.literal, kind)) if o.is_literal and isinstance(o.literal, str) else o
                for o in operands
            ]
            kinds = {operand.kind for operand in operands} - {"null"}
        if len(kinds) > 1 and not kinds <= set(_NUMBERS) and not kinds <= {"date", "datetime"}:
            first, second = sorted(kinds)[:2]
            raise ValueError(f"where compares {first} with {second}; put text in single quotes, or cast the column")
        if any(kind.startswith("list") for kind in kinds):
            raise ValueError("where cannot compare a column of lists; use a Polars expression")
        return operands

    def _truth(self, value: _Typed, what: str) -> Any:
        import polars as pl

        if value.kind == "null":
            return pl.lit(None, pl.Boolean)
        if value.kind != "bool":
            raise ValueError(f"{what} needs something true or false, not {value.kind}; compare it with a value")
        return value.expression

    def _peek(self) -> Token:
        return self.tokens[self.position]

    def _next(self) -> Token:
        token = self.tokens[self.position]
        if token.kind == "end":
            raise self._unexpected()
        self.position += 1
        return token

    def _word(self, word: str) -> bool:
        token = self._peek()
        found = token.kind == "word" and token.text.lower() == word
        self.position += found
        return found

    def _require(self, word: str) -> None:
        if not self._word(word):
            raise self._unexpected()

    def _optional_sign(self, sign: str) -> bool:
        token = self._peek()
        found = token.kind == "sign" and token.text == sign
        self.position += found
        return found

    def _sign(self, sign: str) -> None:
        if not self._optional_sign(sign):
            raise self._unexpected()

    def _unexpected(self) -> ValueError:
        token = self._peek()
        if token.kind == "end":
            return ValueError("where ends too early; complete the condition, as in \"modality = 'CT' AND age >= 60\"")
        return ValueError(f'where is not understood at character {token.at + 1}; it is a condition, as in "age >= 60"')


def _balanced(expressions: Sequence[Any], join: Callable[[Any, Any], Any]) -> Any:
    """Return expressions joined in a tree of little depth, which Polars walks by recursion."""
    level = list(expressions)
    while len(level) > 1:
        odd = level[-1:] if len(level) % 2 else []
        level = [join(a, b) for a, b in zip(level[::2], level[1::2], strict=False)] + odd
    return level[0]


def _literal(value: Any) -> _Typed:
    import polars as pl

    if value is None:
        return _Typed(pl.lit(None), "null", None, True)
    kinds = {bool: "bool", int: "int", float: "float", str: "text", date: "date", datetime: "datetime"}
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        raise ValueError("where holds a whole number beyond 64 bits")
    return _Typed(pl.lit(value), kinds[type(value)], value, True)


def _moment(text: str, kind: str) -> date | datetime:
    try:
        return date.fromisoformat(text) if kind == "date" else datetime.fromisoformat(text)
    except ValueError:
        raise ValueError("where holds a date that is not of the form '2024-05-31'") from None


def _regex(pattern: str, escape: str | None, ignore_case: bool) -> str:
    found = []
    letters = iter(pattern)
    for letter in letters:
        if letter == escape:
            found.append(re.escape(next(letters, "")))
        else:
            found.append({"%": ".*", "_": "."}.get(letter) or _quoted(letter))
    return f"(?s{'i' if ignore_case else ''})^{''.join(found)}$"


def _rounded(number: pl.Expr) -> pl.Expr:
    """Return the nearest whole number, of two the even one, as DuckDB casts; every large one is whole already."""
    import polars as pl

    up = (number + 0.5).floor()
    nearest = up - ((number + 0.5 == up) & (up % 2 != 0)).cast(pl.Float64)
    return pl.when(number.abs() < 2.0**52).then(nearest).otherwise(number)


def _quoted(letter: str) -> str:
    """Return a letter as the regular expressions of Polars, which are Rust's, take it."""
    return f"\\x{{{ord(letter):x}}}"
