"""A contact sheet: hits with their pictures as one HTML page that loads nothing.

Decodes the files behind the hits, in other processes, and writes one file; everything that is shown is escaped. What
people are shown is self-contained: storage.md, "Privacy".
"""

from __future__ import annotations

import base64
import html
import io
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from secrets import token_hex
from typing import TYPE_CHECKING, Any

import numpy as np

from osler.collection.privacy import IDENTIFIERS
from osler.collection.rows import Array
from osler.collection.segment import Place
from osler.decode import read_bytes
from osler.decode.volumes import Slices
from osler.errors import SourceError
from osler.items import WHOLE, Hit, Locator, Volume
from osler.sources.address import is_address
from osler.sources.decoder import Decoder
from osler.sources.slide_kind import slide_kind
from osler.sources.workers import contained

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

__all__ = ["Sheet", "write_sheet"]

_SIDE = 320
_PSEUDONYM_SHOWN = 12
# What a reader of pictures seldom asks for is folded away.
_FOLDED = {
    "photometric",
    "rows",
    "columns",
    "frames",
    "spacing",
    "slice_thickness",
    "slice_spacing",
    "volume_findings",
    "encoding",
    "format",
    "mpp",
    "tile_size",
    "tile_mpp",
    "tiles",
    "tiles_found",
    "tiles_unreadable",
    "tissue",
    "study_id",
    "series_id",
    "instance_id",
}
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
_STYLE = """
:root { color-scheme: light dark; --ink: #14202b; --soft: #5b6b7a; --line: #d9e0e6; --page: #f4f6f8; --card: #fff;
  --mark: #0b7285; --mat: #0d1216 }
@media (prefers-color-scheme: dark) { :root { --ink: #e6ecf1; --soft: #93a3b1; --line: #2b3640; --page: #11171c;
  --card: #19212a; --mark: #66d9e8; --mat: #06090b } }
* { box-sizing: border-box }
body { margin: 0; padding: 2rem clamp(1rem, 4vw, 3.5rem) 3rem; background: var(--page); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif }
header { display: flex; gap: 1.5rem; align-items: center; margin-bottom: 2rem }
header img { width: 160px; height: 160px; object-fit: contain; background: var(--mat); border-radius: 10px;
  outline: 3px solid var(--mark); outline-offset: 2px }
h1 { font-size: 1.5rem; line-height: 1.25; margin: 0 0 .3rem; letter-spacing: -.01em; overflow-wrap: anywhere }
header p { margin: 0; color: var(--soft) }
blockquote { margin: 0 0 .3rem; font-size: 1.5rem; line-height: 1.25; overflow-wrap: anywhere }
ol { list-style: none; margin: 0; padding: 0; display: grid; gap: 1.25rem;
  grid-template-columns: repeat(auto-fill, minmax(230px, 1fr)) }
li { background: var(--card); border: 1px solid var(--line); border-radius: 12px; overflow: hidden;
  display: flex; flex-direction: column }
figure { margin: 0; aspect-ratio: 1; background: var(--mat); display: grid; place-items: center; position: relative }
figure img { width: 100%; height: 100%; object-fit: contain }
.rank { position: absolute; left: .6rem; top: .6rem; min-width: 1.7rem; padding: .05rem .45rem; text-align: center;
  font-weight: 650; border-radius: 99px; background: rgb(255 255 255 / .92); color: #14202b }
.none { color: #8b99a5; padding: 1.5rem; text-align: center; font-size: .87rem }
.text { padding: .8rem 1rem 1rem }
.score { display: flex; align-items: baseline; justify-content: space-between; gap: .5rem }
.score b { font-size: 1.2rem; font-variant-numeric: tabular-nums }
.bar { height: 4px; margin: .3rem 0 .65rem; border-radius: 2px; background: var(--line) }
.bar i { display: block; height: 100%; border-radius: 2px; background: var(--mark) }
.key { color: var(--soft); font: 12px/1.4 ui-monospace, SFMono-Regular, Menlo, monospace; overflow-wrap: anywhere }
dl { display: grid; grid-template-columns: auto 1fr; gap: .1rem .75rem; margin: .6rem 0 0; font-size: .87rem }
dt { color: var(--soft) } dd { margin: 0; overflow-wrap: anywhere }
.id { color: var(--soft); font: 12px/1.75 ui-monospace, SFMono-Regular, Menlo, monospace }
summary { margin-top: .5rem; color: var(--soft); font-size: .87rem; cursor: pointer }
footer { margin-top: 2rem; color: var(--soft); font-size: .87rem }
@media print { body { background: none; padding: 0 } li { break-inside: avoid } }
"""


@dataclass(frozen=True, slots=True, repr=False)
class Sheet:
    """Hits and where their files lie; a notebook draws it.

    Attributes
    ----------
    hits : sequence of Hit
    places : sequence of Place or None
        Where each hit's file lies.
    sizes : sequence of int
        Parts of each hit's item.
    query : object
        What was asked: a text, a path, an array or picture, or key, place and size of an item.
    searched : int
    """

    hits: Sequence[Hit]
    places: Sequence[Place | None]
    sizes: Sequence[int]
    query: Any
    searched: int

    def html(self) -> str:
        """Return the page."""
        with contained() as decoder:
            heading = _heading(self.query, decoder)
            cards = "\n".join(
                _card(rank, hit, _bar(hit, self.hits), _thumbnail(place, size, hit.part.locator, decoder))
                for rank, (hit, place, size) in enumerate(zip(self.hits, self.places, self.sizes, strict=True), 1)
            )
        count = f"{len(self.hits):,} {'case' if len(self.hits) == 1 else 'cases'} of {self.searched:,} searched"
        return (
            '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
            f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
            '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
            '<meta name="referrer" content="no-referrer">\n'
            f"<title>Osler: {len(self.hits)} cases</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n"
            f"<header>{heading}<p>{count}, nearest first</p></div></header>\n"
            f"<main><ol>\n{cards}\n</ol></main>\n"
            "<footer>Made with Osler. It holds pictures of patients: keep it where the pictures are kept. Similarity "
            "is not a diagnosis.</footer>\n</body>\n</html>\n"
        )

    def _repr_html_(self) -> str:
        page = html.escape(self.html(), quote=True)
        return f'<iframe sandbox srcdoc="{page}" style="width:100%;height:640px;border:0" title="hits"></iframe>'

    def __repr__(self) -> str:
        return f"<osler Sheet of {len(self.hits)} hits; a notebook draws it, to_html writes it>"


def write_sheet(path: str | os.PathLike[str], sheet: Sheet) -> None:
    """Write the page with mode 0600, all of it or nothing."""
    target = Path(path)
    if target.is_dir():
        raise IsADirectoryError(f"{target.name} is a folder; give the name of a file")
    if not target.parent.is_dir():
        raise FileNotFoundError(f"the folder for {target.name} does not exist; make it first")
    draft = target.with_name(f".{target.name}.{token_hex(8)}")
    try:
        handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        os.fchmod(handle, 0o600)
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            stream.write(sheet.html())
        os.replace(draft, target)
    finally:
        draft.unlink(missing_ok=True)


def _heading(query: Any, decoder: Decoder) -> str:
    """Return the opening of the header: the query's picture or text, and a title; its block is closed by the page."""
    if isinstance(query, tuple):
        key, place, size = query
        return f"{_query_picture(_thumbnail(place, size, WHOLE, decoder))}<div><h1>Cases like {html.escape(key)}</h1>"
    if isinstance(query, str) and not os.path.exists(query):
        return f"<div><blockquote>“{html.escape(query)}”</blockquote>"
    if query is None:
        return "<div><h1>Cases near the vector</h1>"
    return f"{_query_picture(_picture_of(query, decoder))}<div><h1>Cases like this picture</h1>"


def _query_picture(uri: str | None) -> str:
    return "" if uri is None else f'<img src="{uri}" alt="the query">'


def _card(rank: int, hit: Hit, bar: float, uri: str | None) -> str:
    where = f", frame {hit.part.locator.frame + 1}" if hit.part.locator.frame is not None else ""
    if uri is not None:
        picture = f'<img src="{uri}" alt="case {rank}{where}" loading="lazy">'
    else:
        what = (
            "a text"
            if hit.part.kind == "text"
            else "no picture: its file is not where it was added from, or on a server"
        )
        picture = f'<div class="none">{what}</div>'
    shown = {name: value for name, value in hit.metadata.items() if value is not None}
    ordered = sorted(shown, key=lambda name: name in IDENTIFIERS)
    open_, folded = (
        _table({name: shown[name] for name in ordered if (name in _FOLDED) is fold}) for fold in (False, True)
    )
    more = f"<details><summary>more</summary>{folded}</details>" if folded else ""
    return (
        f'<li><figure>{picture}<span class="rank">{rank}</span></figure><div class="text">'
        f'<div class="score"><b>{hit.score:.3f}</b><span>{html.escape(hit.part.kind)}{where}</span></div>'
        f'<div class="bar"><i style="width:{100 * bar:.0f}%"></i></div>'
        f'<div class="key">{html.escape(hit.key)}</div>{open_}{more}</div></li>'
    )


def _table(columns: Mapping[str, Any]) -> str:
    rows = "".join(f"<dt>{html.escape(name)}</dt>{_cell(name, value)}" for name, value in columns.items())
    return f"<dl>{rows}</dl>" if rows else ""


def _bar(hit: Hit, hits: Sequence[Hit]) -> float:
    """Return the length of a score's bar: its share of the best where scores are positive."""
    best = max(other.score for other in hits)
    return min(max(hit.score / best, 0.0), 1.0) if best > 0 else 0.0


def _cell(name: str, value: Any) -> str:
    """Return a value; of a pseudonym its beginning, which tells two apart, and the whole under the pointer."""
    text = _shown(value)
    if name in IDENTIFIERS and len(text) > _PSEUDONYM_SHOWN:
        return f'<dd class="id" title="{html.escape(text)}">{html.escape(text[:_PSEUDONYM_SHOWN])}…</dd>'
    return f"<dd>{html.escape(text)}</dd>"


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{name}: {_shown(entry)}" for name, entry in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(_shown(entry) for entry in value)
    return str(value)


def _thumbnail(place: Place | None, size: int, part: Locator, decoder: Decoder) -> str | None:
    """Return one frame of the file at a place as a data URI; None where it cannot be shown."""
    # A page asks no server: a collection that somebody else made could name any.
    if place is None or is_address(place[0]):
        return None
    root, files = place
    kind = slide_kind(Path(root, files[0]), wanted=part.box is not None)
    if kind is not None:
        return _of_slide([Path(root, file) for file in files], kind, part.box, decoder)
    at = part.frame
    if len(files) > 1 and size == 1:
        # A whole volume: one in the middle stands for it.
        files = [files[len(files) // 2]]
    elif len(files) > 1:
        # A series: only where each file is one part is it known which file holds the frame.
        if len(files) != size or (at or 0) >= len(files):
            return None
        files, at = [files[at or 0]], 0
    return _decoded(Path(root, files[0]), at, part.box, decoder)


def _decoded(path: Path, frame: int | None, box: Any, decoder: Decoder) -> str | None:
    """Return a frame of a file, of a whole volume the one in the middle, as a data URI."""
    try:
        frames = decoder.decode(read_bytes(path)).frames
        at = len(frames) // 2 if frame is None else frame
        return _uri(frames[at], box) if at < len(frames) else None
    except (SourceError, OSError):
        return None


def _of_slide(paths: Sequence[Path], kind: str, box: Any, decoder: Decoder) -> str | None:
    """Return a box of a slide, or the whole of it, as a data URI."""
    try:
        slide = decoder.slide(paths, kind)
        try:
            left, top, right, bottom = box or (0, 0, slide.info.width, slide.info.height)
            scale = _SIDE / max(right - left, bottom - top, _SIDE)
            sides = (max(1, round(side * scale)) for side in (right - left, bottom - top))
            return _uri(slide.region((left, top, right, bottom), *sides), None)
        finally:
            slide.close()
    except (SourceError, OSError):
        return None


def _picture_of(query: Any, decoder: Decoder) -> str | None:
    if isinstance(query, str | os.PathLike):
        kind = slide_kind(Path(query))
        if kind is not None:
            return _of_slide([Path(query)], kind, None, decoder)
        return _decoded(Path(query), None, None, decoder)
    if isinstance(query, Volume):
        slices = Slices(query)
        return _uri(slices[len(slices) // 2], None)
    pixels = np.asarray(query)
    if pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[2] in (3, 4)):
        return _uri(pixels[..., :3] if pixels.ndim == 3 else pixels, None)
    return None


def _uri(pixels: Array, box: Any) -> str:
    """Return a picture, made small, as a data URI."""
    from PIL import Image, ImageDraw

    picture: Picture = Image.fromarray(np.ascontiguousarray(_eight_bits(pixels)))
    scale = min(1.0, _SIDE / max(picture.size))
    picture = picture.resize(
        (max(1, round(picture.width * scale)), max(1, round(picture.height * scale))), Image.Resampling.LANCZOS
    )
    if box is not None:
        picture = picture.convert("RGB")
        ImageDraw.Draw(picture).rectangle([round(edge * scale) for edge in box], outline=(255, 196, 0), width=2)
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=88)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def _eight_bits(pixels: Array) -> Array:
    """Return display values as bytes, stretched over the range that they use unless they are bytes already."""
    if pixels.dtype == np.uint8:
        return pixels
    wide = pixels.astype(np.float64)
    low, high = float(np.nanmin(wide)), float(np.nanmax(wide))
    scaled = (wide - low) / (high - low) if high > low else np.zeros_like(wide)
    return np.asarray(np.rint(255 * np.nan_to_num(scaled)), np.uint8)
