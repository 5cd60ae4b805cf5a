"""A SQL condition cut into words, names, numbers, texts and signs.

Pure text; knows no column.
"""

from __future__ import annotations

import re
from typing import NamedTuple

__all__ = ["Token", "tokens"]

_TOKEN = re.compile(
    r"""\s*(?:
        (?P<number>(?:\d+\.\d*|\.\d+|\d+)(?:[eE][+-]?\d+)?)
      | '(?P<text>(?:[^']|'')*)'
      | "(?P<quoted>(?:[^"]|"")*)"
      | (?P<word>[^\W\d]\w*)
      | (?P<sign>--|/\*|<=>|<>|!=|<=|>=|==|::|[=<>+\-*/%(),])
    )""",
    re.VERBOSE,
)


class Token(NamedTuple):
    """A word, number, text, quoted name or sign, and where it begins; the last one is of kind ``end``."""

    kind: str
    text: str
    at: int


def tokens(text: str) -> list[Token]:
    """Return the tokens of a condition; ValueError at what is none."""
    cut: list[Token] = []
    at = 0
    while at < len(text.rstrip()):
        match = _TOKEN.match(text, at)
        if match is None:
            raise ValueError(f"where is not understood at character {at + 1}; put text in single quotes")
        kind = match.lastgroup or ""
        found = match.group(kind)
        if kind in ("text", "quoted"):
            mark = "'" if kind == "text" else '"'
            found = found.replace(mark * 2, mark)
        cut.append(Token(kind, found, match.start(kind)))
        at = match.end()
    cut.append(Token("end", "", len(text)))
    return cut
