"""`osler query`: one question, by picture, text, vector or key, and its hits.

One `Collection.search`; all options are checked before anything is encoded.
"""

from __future__ import annotations

import re
from time import perf_counter
from typing import TYPE_CHECKING, Any

import click

from osler.cli import output
from osler.cli.options import (
    Device,
    arguments,
    check_column,
    check_modality,
    check_output,
    check_where,
    device_option,
    existing,
    open_collection,
    style_options,
    where_option,
)
from osler.cli.output import UsageProblem

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np

    from osler.collection import Collection
    from osler.items import Hit

__all__ = ["command"]

# A table shows the columns that the question names, then the user's own, then these, up to this many in all.
_TABLE_COLUMNS = 6
# A metadata column of one of these names is shown as `Hits.to_polars` calls it.
_OWN = ("rank", "key", "score", "part", "kind", "frame")
_MADE_BY_READERS = ("format", "pixel_phi")
_FIRST_OF_DICOM = ("modality", "body_part", "view", "laterality", "age", "sex", "year", "manufacturer")


@click.command("query")
@click.argument("collection")
@click.option("--image", metavar="FILE", help="Cases like this picture or DICOM file.")
@click.option("--text", metavar="TEXT", help="Cases that this text describes.")
@click.option("--vector", metavar="FILE.npy", help="Cases near this vector.")
@click.option("--like", metavar="KEY", help="Cases like this one of the collection.")
@click.option("-k", "k", type=int, default=10, show_default=True, help="How many hits.")
@where_option
@click.option("--group-by", metavar="COL", help="One hit for each value of this column.")
@click.option("--exclude", metavar="COL", help="No hit that shares the query's value of this column.")
@click.option("--html", metavar="FILE", help="Also write a contact sheet with pictures.")
@device_option
@style_options
def command(
    collection: str,
    image: str | None,
    text: str | None,
    vector: str | None,
    like: str | None,
    k: int,
    where: str | None,
    group_by: str | None,
    exclude: str | None,
    html: str | None,
    device: Device,
    style: str,
) -> None:
    """Find the cases like this one.

    \b
    osler query cases.osler --image new.dcm -k 5
    osler query cases.osler --text "chest x-ray" --where "modality = 'CR'"
    """
    asked = {"--image": image, "--text": text, "--vector": vector, "--like": like}
    given = [option for option, value in asked.items() if value is not None]
    if len(given) != 1:
        found = "none" if not given else " and ".join(given)
        raise UsageProblem(f"give exactly one of --image, --text, --vector and --like; there is {found}")
    if k < 1:
        raise UsageProblem(f"-k is {k}; ask for at least 1 hit")
    if text is not None and not text.strip():
        raise UsageProblem("--text is empty; say what to look for")
    check_output(html, ".html", ".htm")
    question: dict[str, Any] = {"text": text} if text is not None else {}
    if image is not None:
        question = {"image": _one_picture(image)}
    with open_collection(collection, device=device) as cases:
        for option, column in (("--group-by", group_by), ("--exclude", exclude)):
            check_column(cases, option, column, collection)
        if exclude is not None and image is None and like is None:
            raise UsageProblem(
                f"--exclude needs a query with a value of its own; {given[0]} has none, ask with --image or --like"
            )
        check_where(cases, where)
        if image is not None or text is not None:
            check_modality(cases, "image" if text is None else "text", "--image" if text is None else "--text")
        if vector is not None:
            question = {"vector": _read_vector(vector, cases)}
        if like is not None:
            if like not in cases:
                raise UsageProblem(f'no item of {collection} has the key "{like}"; keys are what a query prints')
            question = {"like": like}
        start = perf_counter()
        with arguments():
            hits = cases.search(k=k, where=where, group_by=group_by, exclude=exclude, **question)
        seconds = perf_counter() - start
        _show(style, list(hits), hits.searched, seconds, _table_columns(cases, where, group_by, exclude))
        total = len(cases)
        if style == "table":
            items = f"{total:,} items" if hits.searched == total else f"{hits.searched:,} of {total:,} items"
            start_up = ", the start of the encoder included" if image is not None or text is not None else ""
            output.say(f"searched {items}; answered in {1000 * seconds:,.0f} ms{start_up}")
        if html is not None:
            hits.to_html(html)
            output.say(f"wrote {html}")


def _one_picture(path: str) -> Path:
    """Return the path of a query picture: neither a folder nor a table of pictures."""
    from osler.sources.tables import is_table

    found = existing(path)
    what = "folder" if found.is_dir() else "table" if is_table(found) else None
    if what is not None:
        raise UsageProblem(f'"{path}" is a {what}; give one picture or DICOM file')
    return found


def _read_vector(path: str, cases: Collection) -> np.ndarray:
    """Read one vector of an .npy file that can be a query of a collection."""
    import numpy as np

    found = existing(path)
    try:
        array: np.ndarray = np.load(found, allow_pickle=False)
    except (ValueError, EOFError, OSError):
        raise UsageProblem(f'"{path}" is no .npy file of numbers; write it with numpy.save') from None
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "fiu":
        raise UsageProblem(f'"{path}" does not hold one array of numbers; write it with numpy.save')
    if array.ndim == 2 and len(array) == 1:
        array = array[0]
    if array.ndim != 1:
        raise UsageProblem(f'"{path}" holds an array of shape {array.shape}; a query is one vector')
    if len(array) != cases.dim:
        raise UsageProblem(
            f'"{path}" holds {len(array):,} numbers, and the vectors of this collection have {cases.dim:,}; '
            "give a vector of the encoder that it was made with"
        )
    if not np.isfinite(array).all():
        raise UsageProblem(f'"{path}" holds NaN or infinity; give finite numbers')
    if cases.metric == "cosine" and not array.any():
        raise UsageProblem(f'"{path}" holds zeros only, which have no direction under cosine; give another vector')
    return array


def _table_columns(cases: Collection, where: str | None, group_by: str | None, exclude: str | None) -> list[str]:
    """Return the metadata columns in the order in which a table prefers them."""
    from osler.collection.privacy import ALLOWED, IDENTIFIERS

    schema = list(cases.schema)
    mentioned = [name for name in schema if where is not None and re.search(rf"\b{re.escape(name)}\b", where)]
    named = [name for name in (group_by, exclude) if name is not None]
    own = [name for name in schema if name not in (*ALLOWED, *IDENTIFIERS, *_MADE_BY_READERS)]
    return list(dict.fromkeys([*mentioned, *named, *own, *_FIRST_OF_DICOM]))


def _column(name: str) -> str:
    """Return what a metadata column is called beside the hit's own columns."""
    return f"metadata.{name}" if name in _OWN else name


def _show(style: str, hits: list[Hit], searched: int, seconds: float, preferred: list[str]) -> None:
    names = list(dict.fromkeys(name for hit in hits for name in hit.metadata))
    rows = [
        [rank, hit.key, hit.score, *(hit.metadata.get(name) for name in names), hit.part.position, hit.part.kind]
        for rank, hit in enumerate(hits, 1)
    ]
    document = {
        "hits": [
            {"rank": rank, "key": hit.key, "score": hit.score, "metadata": hit.metadata, "part": part_document(hit)}
            for rank, hit in enumerate(hits, 1)
        ],
        "searched": searched,
        "seconds": seconds,
    }
    filled = {name for name in names if any(hit.metadata.get(name) not in (None, "", []) for hit in hits)}
    shown = [_column(name) for name in preferred if name in filled][:_TABLE_COLUMNS]
    several = ["part"] if any(hit.part.position for hit in hits) else []
    output.show(
        style,
        document,
        ["rank", "key", "score", *map(_column, names), "part", "kind"],
        rows,
        table_columns=["rank", "key", "score", *shown, *several],
    )


def part_document(hit: Hit) -> dict[str, Any]:
    """Return a part under the stable names of the JSON document."""
    return {"position": hit.part.position, "kind": hit.part.kind, "locator": hit.part.locator.to_dict()}
