"""Splits a text that is too long for an encoder into passages: by sections, then sentences, then windows of words.

Works on str and a count of tokens; knows no model. Every passage fits, and every character that is no white space lies
in one.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from osler.encoders.tokenize import Tokenizer, check_text

__all__ = ["Passage", "sections", "sentences", "split_text"]

Span = tuple[int, int]


class _Encoder(Protocol):
    """What a text is split by: anything with a tokenizer, as an encoder of texts."""

    @property
    def tokenizer(self) -> Tokenizer: ...


Size = Callable[[int, int], int]

_OVERLAP = 8  # windows share one part in so many of what fits

_KNOWN_HEADINGS = "|".join(
    (
        "(?:pertinent |additional |other )?findings?",
        "(?:final )?impressions?",
        "(?:in )?conclusions?",
        "summary",
        "(?:clinical )?(?:history|indications?|information|details|background|statement|question)",
        "reason for (?:the )?(?:exam(?:ination)?|study|referral)",
        "(?:prior )?comparisons?(?: stud(?:y|ies))?",
        "techniques?",
        "exam(?:ination)?(?: type| date)?",
        "procedures?",
        "recommendations?",
        "(?:final |pathologic(?:al)? |clinical )?diagnos[ei]s",
        "(?:gross|microscopic)(?: description| examination)?",
        "specimens?(?: submitted| received)?",
        "comments?",
        "addendum",
        "notifications?",
        "wet read",
        "final report",
    )
)
_HEADING = re.compile(
    # words in capitals and a colon, anywhere
    r"(?:(?<=\s)|\A)[A-Z][A-Z/&'()-]{3,40}(?:[ \t][A-Z/&'()-]{1,40}){0,5}[ \t]?:"
    # a known one and a colon, where a line or a sentence begins
    rf"|(?:(?<=\n)|(?<=[.!?:;]\s)|\A)[ \t]{{0,8}}(?i:{_KNOWN_HEADINGS})[ \t]?:"
    # a known one in capitals, alone on its line
    rf"|(?:(?<=\n)|\A)[ \t]{{0,8}}(?:{_KNOWN_HEADINGS.upper()})[ \t]{{0,8}}(?=\r?\n|\Z)"
)

_END = re.compile(
    r"[.!?]+[\"')\]\u2019\u201d]{0,3}(?=\s|\Z)|[\u3002\uff01\uff1f]+"
    r"|\n[ \t\r]*\n|\n(?=[ \t]{0,8}(?:[-*\u2022]|\d{1,2}[.)])\s)"
)
_LAST_WORD = re.compile(r"[\w.\u00b5\u03bc-]{1,24}\Z")
_NUMBER_OF_AN_ITEM = re.compile(r"[\s\W]{0,16}(?:\d{1,2}|[A-Za-z])\.")
# before a name or a number, so no sentence ends with them
_TITLE = re.compile(
    r"drs?|mrs?|ms|prof|st|vs|e\.g|i\.e|eg|ie|cf|ca|approx|resp|incl|figs?|nr|nos|vol|ed", re.IGNORECASE
)
# a sentence may end with them: then a capital or nothing follows
_SHORTENED = re.compile(
    r"no|[cm]?m|[mc]?l|cc|m?c?g|kg|min|sec|hrs?|h|wks?|mos?|yrs?|y|lat|ant|post|sup|inf|med|dist|prox|bilat|lt|rt|etc|"
    r"dept|max|pts?|[hdtr]x|segm|art|vv|aa|\w+\.[\w.]*",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Passage:
    """A part of a text.

    Attributes
    ----------
    text : str
        ``whole[span[0] : span[1]]``, as it was written.
    span : tuple of int
        Characters of the whole text: start, end; end is outside it. As in `osler.items.Locator`.
    tokens : int
        Special ones included.
    """

    text: str
    span: Span
    tokens: int


def split_text(text: str, by: _Encoder | Tokenizer, max_length: int | None = None) -> list[Passage]:
    """Return the passages of a text; one, if it fits.

    A text that does not fit is cut before its headings (``FINDINGS:``, ``Impression:``, words in capitals and a colon);
    neighbouring sections that fit together stay together. A section that does not fit is cut after its sentences
    likewise, and a sentence that does not fit into windows of words that share an eighth of their tokens. Words are
    cut only where a single one does not fit.

    Parameters
    ----------
    text : str
    by : Encoder or Tokenizer
        Whose tokens count, after its cleaning rule.
    max_length : int, optional
        Tokens of a passage at most, special ones included; that of the encoder where it is not given or larger.

    Returns
    -------
    list of Passage
        In the order of the text. What lies between their spans is white space; only windows overlap.

    Raises
    ------
    ValueError
        The encoder takes no texts, the text is empty or too large, or a single character does not fit.
    TypeError
        The text is no str.

    Examples
    --------
    >>> import osler
    >>> from osler.encoders import split_text
    >>> report = "FINDINGS: The lungs are clear. No effusion. IMPRESSION: Normal chest."
    >>> for passage in split_text(report, osler.load_encoder("minilm"), max_length=12):
    ...     print(passage.span, passage.tokens, passage.text)
    (0, 30) 9 FINDINGS: The lungs are clear.
    (31, 43) 7 No effusion.
    (44, 69) 7 IMPRESSION: Normal chest.
    """
    check_text(text, "text")
    tokenizer = by if isinstance(by, Tokenizer) else by.tokenizer
    limit = min(max_length or tokenizer.max_length, tokenizer.max_length)
    return _Split(text, tokenizer, limit).passages()


def sections(text: str) -> list[Span]:
    """Return the spans of the sections of a report, each with its heading; they cover the text.

    Examples
    --------
    >>> from osler.encoders.passages import sections
    >>> sections("FINDINGS: Clear. IMPRESSION: Normal.")
    [(0, 17), (17, 36)]
    """
    starts = sorted({0, *(match.start() for match in _HEADING.finditer(text))})
    return list(zip(starts, [*starts[1:], len(text)], strict=True))


def sentences(text: str, span: Span | None = None) -> list[Span]:
    """Return the spans of the sentences of a text, or of a part of it; they cover it.

    Abbreviations and decimals end none, and the number of an item of a list belongs to what follows it.

    Examples
    --------
    >>> from osler.encoders.passages import sentences
    >>> text = "1. Seen by Dr. Who. 2. Size 3.5 cm."
    >>> [text[start:end] for start, end in sentences(text)]
    ['1. Seen by Dr. Who.', ' 2. Size 3.5 cm.']
    """
    found: list[Span] = []
    start, stop = span or (0, len(text))
    for match in _END.finditer(text, start, stop):
        if match.group()[0] not in ".!?" or _ends_sentence(text, start, match.start(), match.end()):
            found.append((start, match.end()))
            start = match.end()
    return [*found, (start, stop)] if start < stop else found


class _Split:
    """One text being split: what it is, what counts, what fits."""

    def __init__(self, text: str, tokenizer: Tokenizer, limit: int) -> None:
        self.text = text
        self.tokenizer = tokenizer
        self.limit = limit
        self.overlap = max(limit - tokenizer.special, 0) // _OVERLAP

    def size(self, start: int, end: int) -> int:
        return self.tokenizer.count(self.text[start:end])

    def fits(self, start: int, end: int) -> bool:
        return self.size(start, end) <= self.limit

    def passages(self) -> list[Passage]:
        whole = _trimmed(self.text, (0, len(self.text)))
        spans = [whole] if self.fits(*whole) else self.packed(sections(self.text), self.by_sentences)
        return [Passage(self.text[start:end], (start, end), self.size(start, end)) for start, end in spans]

    def packed(self, spans: Sequence[Span], finer: Callable[[Span], list[Span]]) -> list[Span]:
        """Join neighbours while they fit together; cut finer what does not fit alone."""
        found: list[Span] = []
        growing = False  # the last one found may be joined with its successor
        for span in (_trimmed(self.text, span) for span in spans):
            if span[0] == span[1]:
                continue
            if growing and self.fits(found[-1][0], span[1]):
                found[-1] = (found[-1][0], span[1])
                continue
            growing = self.fits(*span)
            found += [span] if growing else finer(span)
        return found

    def by_sentences(self, span: Span) -> list[Span]:
        return self.packed(sentences(self.text, span), self.by_windows)

    def by_windows(self, span: Span) -> list[Span]:
        """Cut into windows of as many words as fit, each beginning with the last words of the one before."""
        words: list[Span] = []
        for match in re.finditer(r"\S+", self.text[span[0] : span[1]]):
            words += self.pieces((span[0] + match.start(), span[0] + match.end()))
        ends = [end for _, end in words]
        found: list[Span] = []
        first, guess = 0, self.limit
        while True:
            last = self.farthest(words[first][0], ends, first, guess)
            found.append((words[first][0], ends[last]))
            if last + 1 == len(words):
                return found
            guess, first = last - first + 1, self.next_window(words, first, last)

    def next_window(self, words: Sequence[Span], first: int, last: int) -> int:
        """Return the word that the next window begins with: behind `first`, and such that it reaches beyond `last`."""
        following = last + 1
        while following > first + 1:
            start = words[following - 1][0]
            shared = self.size(start, words[last][1]) - self.tokenizer.special
            if shared > self.overlap or not self.fits(start, words[last + 1][1]):
                break
            following -= 1
        return following

    def pieces(self, word: Span) -> list[Span]:
        """Return a word, or what it must be cut into; a letter keeps its marks where both fit."""
        start, end = word
        found: list[Span] = []
        while not self.fits(start, end):
            if not self.fits(start, start + 1):
                raise ValueError(
                    f"{self.limit} tokens are too few for the character at {start}; give a larger max_length"
                )
            ends = range(start + 1, end + 1)
            last = self.farthest(start, ends, 0, self.limit)
            kept = last
            while kept > 0 and unicodedata.category(self.text[ends[kept]]).startswith("M"):
                kept -= 1
            cut = ends[kept] if kept > 0 and self.fits(start, ends[kept]) else ends[last]
            found.append((start, cut))
            start = cut
        return [*found, (start, end)]

    def farthest(self, start: int, ends: Sequence[int], first: int, guess: int) -> int:
        """Return an i from `first` on so that the text from `start` to ``ends[i]`` fits, and that to the next does not.

        That to ``ends[first]`` is known to fit. `guess` says how many may be expected.
        """
        low, step = first, max(guess, 1)
        high = min(first + step, len(ends))
        while high < len(ends) and self.fits(start, ends[high]):
            low, step = high, step * 2
            high = min(low + step, len(ends))
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if self.fits(start, ends[middle]) else (low, middle)
        return low


def _trimmed(text: str, span: Span) -> Span:
    start, end = span
    while start < end and text[start].isspace():
        start += 1
    while end > start and text[end - 1].isspace():
        end -= 1
    return start, end


def _ends_sentence(text: str, start: int, point: int, end: int) -> bool:
    """Whether the mark at `point` ends the sentence that began at `start`; `end` is behind the mark and its quotes."""
    if text[point:end] != ".":
        return True
    if point - start < 20 and _NUMBER_OF_AN_ITEM.fullmatch(text, start, point + 1):
        return False
    found = _LAST_WORD.search(text, max(start, point - 24), point)
    word = found.group() if found else ""
    following = text[end : end + 24].lstrip()[:1]
    if _TITLE.fullmatch(word) or (len(word) == 1 and word.isupper() and following.isupper()):
        return not following
    if _SHORTENED.fullmatch(word):
        return not following or following.isupper() or text[end : end + 2].count("\n") > 0
    return True
