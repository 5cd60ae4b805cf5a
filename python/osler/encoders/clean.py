"""What an encoder's authors did to a text before its tokenizer, as named rules that a manifest chooses from.

Pure functions on str. The rules follow open_clip's ``tokenizer.py``, transformers' ``SiglipTokenizer``, hi-ml's
``TextInput``, and the data sets of Merlin, MGCA and MedCLIP.
"""

from __future__ import annotations

import functools
import html
import re
import string
import unicodedata
from collections.abc import Callable, Mapping
from html.entities import html5
from types import MappingProxyType
from typing import Literal

__all__ = ["RULES", "Clean", "clean"]

Clean = Literal[
    "none",
    "open_clip_whitespace",
    "open_clip_lower",
    "open_clip_canonicalize",
    "siglip",
    "biovil",
    "merlin",
    "mgca",
    "medclip",
]

_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)
_WORDS = re.compile(r"\w+")
_WORDS_AND_MARKS = re.compile(r"\w+|[^\w\s]+")
_ENTITY = re.compile(r"&#?[0-9A-Za-z]{1,24};")
_TERMINAL_ESCAPE = re.compile(r"\x1b\[[\d;]*[A-Za-z]")
_LINE_BREAK = re.compile("\r\n|[\r\u2028\u2029]")
_CONTROLS = dict.fromkeys(
    (*range(0x09), 0x0B, *range(0x0E, 0x20), 0x7F, *range(0x206A, 0x2070), *range(0xFFF9, 0xFFFD), 0xFEFF)
)
_LATIN_LIGATURES = (
    *range(0x0132, 0x0134),
    0x0149,
    *range(0x01C4, 0x01CD),
    *range(0x01F1, 0x01F4),
    *range(0xFB00, 0xFB07),
)


def clean(text: str, rule: Clean) -> str:
    """Return a text as the tokenizer of an encoder expects it.

    Parameters
    ----------
    text : str
    rule : str
        ``none``
            As it is.
        ``open_clip_whitespace``, ``open_clip_lower``, ``open_clip_canonicalize``
            What open_clip's tokenizers do: characters repaired, HTML references resolved twice, white space collapsed;
            then nothing more, lower case, or lower case without ASCII punctuation. Of ftfy, which repairs the
            characters there, all is done but the guess at text that was decoded by the wrong table ("â€™" for an
            apostrophe stays as it is).
        ``siglip``
            Lower case, no ASCII punctuation, white space collapsed (SigLIP and MedSigLIP in transformers).
        ``biovil``
            No ``!``, ``?`` or ``.`` at the end (BioViL, BioViL-T).
        ``merlin``
            Lower case, words and runs of punctuation joined by single spaces.
        ``mgca``
            Sentences without punctuation, lower case, ASCII only; sentences of one word are left out.
        ``medclip``
            Sentences in lower case, words and runs of punctuation joined by single spaces, ASCII only; sentences of
            less than five are left out.

    Returns
    -------
    str
        May be empty where nothing is left. ``mgca`` and ``medclip`` leave no sentence out where all are short: their
        authors drop such reports from training, but a query of one word must be possible.

    Raises
    ------
    KeyError
        The rule is none of these.

    Examples
    --------
    >>> from osler.encoders.clean import clean
    >>> clean("Small LEFT effusion &amp; atelectasis.", "open_clip_lower")
    'small left effusion & atelectasis.'
    >>> clean("FINDINGS: 3.5 cm mass.", "merlin")
    'findings : 3 . 5 cm mass .'
    """
    return RULES[rule](text)


def _basic(text: str) -> str:
    lines: list[str] = []
    references = True
    for line in re.split("(?<=\n)", text):
        references = references and "<" not in line  # from the first tag on, the text counts as HTML itself
        plain = line.isascii() and line.rstrip("\n").isprintable() and "&" not in line
        lines.append(line if plain else _repaired(line, references))
    return html.unescape(html.unescape("".join(lines)))


def _repaired(line: str, references: bool) -> str:
    """Return a line after which another repair would change nothing."""
    while True:
        before = line
        if references:
            line = _ENTITY.sub(_entity, line)
        line = _LINE_BREAK.sub("\n", line.translate(_c1_controls()).translate(_forms()))
        line = _TERMINAL_ESCAPE.sub("", line).translate(_CONTROLS)
        line = unicodedata.normalize("NFC", line)
        if line == before:
            return line


def _entity(match: re.Match[str]) -> str:
    """Resolve one reference that ends in a semicolon; an unknown name in capitals stands for capital letters."""
    written, name = match.group(), match.group()[1:]
    if name in html5:
        return html5[name]
    resolved = html.unescape(written)
    if name.startswith("#"):
        return written if ";" in resolved else resolved
    return html5[name.lower()].upper() if name.isupper() and name.lower() in html5 and resolved == written else written


@functools.cache
def _c1_controls() -> dict[int, str]:
    """Return the C1 controls as browsers read them: as Windows-1252, the five that it leaves open as they are."""
    return {byte: bytes([byte]).decode("cp1252", "ignore") or chr(byte) for byte in range(0x80, 0xA0)}


@functools.cache
def _forms() -> dict[int, str]:
    """Return what ligatures, full and half widths and curled quotes become."""
    table = {0x3000: " "}
    for point in range(0xFF01, 0xFFF0):
        normal = unicodedata.normalize("NFKC", chr(point))
        if normal != chr(point):
            table[point] = normal
    # one step of the decomposition only: the long s of U+FB05 stays, as do carons
    for point in _LATIN_LIGATURES:
        parts = unicodedata.decomposition(chr(point)).split()[1:]
        table[point] = "".join(chr(int(part, 16)) for part in parts)
    return table | dict.fromkeys((0x02BC, *range(0x2018, 0x201C)), "'") | dict.fromkeys(range(0x201C, 0x2020), '"')


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _whitespace(text: str) -> str:
    return _one_line(_basic(text))


def _lower(text: str) -> str:
    return _whitespace(text).lower()


def _canonical(text: str) -> str:
    return _one_line(_basic(text).replace("_", " ").translate(_NO_PUNCTUATION).lower())


def _siglip(text: str) -> str:
    return re.sub(r"\s+", " ", text.lower().translate(_NO_PUNCTUATION)).strip()


def _biovil(text: str) -> str:
    return text.rstrip("!?.")


def _merlin(text: str) -> str:
    return " ".join(_WORDS_AND_MARKS.findall(text.lower()))


def _sentences(pieces: list[str], words: re.Pattern[str], least: int) -> str:
    """Join the sentences of two words or more of which at least `least` are left in ASCII; all, if there are none."""
    kept: list[str] = []
    short: list[str] = []
    for piece in pieces:
        tokens = words.findall(piece.replace("\ufffd\ufffd", " ").lower())
        left = [word for word in (token.encode("ascii", "ignore").decode() for token in tokens) if word]
        (kept if len(tokens) > 1 and len(left) >= least else short).append(" ".join(left))
    return " ".join(filter(None, kept or short))


def _mgca(text: str) -> str:
    pieces = [piece for part in re.split(r"[0-9]+\.", text.replace("\n", " ")) for piece in part.split(".")]
    return _sentences(pieces, _WORDS, 1)


def _medclip(text: str) -> str:
    pieces = [p for part in re.split(r"[0-9]+\.+[^0-9]", text.replace("\n", " ")) for p in part.split(". ")]
    return _sentences(pieces, _WORDS_AND_MARKS, 5)


RULES: Mapping[str, Callable[[str], str]] = MappingProxyType(
    {
        "none": lambda text: text,
        "open_clip_whitespace": _whitespace,
        "open_clip_lower": _lower,
        "open_clip_canonicalize": _canonical,
        "siglip": _siglip,
        "biovil": _biovil,
        "merlin": _merlin,
        "mgca": _mgca,
        "medclip": _medclip,
    }
)
