"""Slides on the command line: tiled as told or by defaults that are said, searched by file, refused in one sentence."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from slide_files import draw_slide, write_slide


@pytest.fixture(scope="module")
def slides(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("glass")
    for number in range(3):
        picture = draw_slide(700, 900, number)[0]
        write_slide(folder / f"{number}.svs", picture, kind="svs", compression="jpeg")
    return folder


def build(run: Callable[..., Any], slides: Path, out: Path, *more: str) -> Any:
    return run("index", "build", slides, "--out", out, "--encoder", "efficientnet-lite0", *more)


def test_defaults_are_said_and_options_are_heard(run: Callable[..., Any], slides: Path, tmp_path: Path) -> None:
    plain = build(run, slides, tmp_path / "plain.osler", "--json")
    assert plain.exit_code == 0, plain.stderr
    assert json.loads(plain.stdout)["added"] == 3
    assert (
        "slides: tiles of 224 x 224 pixels at 0.5 micrometres per pixel (20x), tissue 0.5; --tiles chooses others"
        in plain.stderr
    )
    told = build(run, slides, tmp_path / "told.osler", "--json", "--tiles", "128@20x,stride=64")
    assert told.exit_code == 0 and "--tiles chooses" not in told.stderr
    sizes = {}
    for name in ("plain", "told"):
        found = run("query", tmp_path / f"{name}.osler", "--image", slides / "1.svs", "-k", "1", "--json")
        hit = json.loads(found.stdout)["hits"][0]
        assert hit["key"] == "1.svs" and hit["part"]["locator"]["box"]
        sizes[name] = (hit["metadata"]["tile_size"], hit["metadata"]["tiles"])
    assert sizes["plain"][0] == 224 and sizes["told"][0] == 128 and sizes["told"][1] > 4 * sizes["plain"][1]
    more = run("index", "add", tmp_path / "told.osler", slides, "--tiles", "128@20x,stride=64", "--json")
    assert json.loads(more.stdout)["duplicates"] == 3


def test_a_plan_counts_slides_and_encodes_nothing(run: Callable[..., Any], slides: Path, tmp_path: Path) -> None:
    found = build(run, slides, tmp_path / "a.osler", "--dry-run", "--json")
    assert json.loads(found.stdout)["plan"]["kinds"] == {"slide": 3}
    assert not (tmp_path / "a.osler").exists()


@pytest.mark.parametrize(
    ("tiles", "said"),
    [
        ("224", "give SIZE@MPP or SIZE@MAGNIFICATIONx"),
        ("224@0.5,tissue=2", "a share from 0 to 1"),
        ("0@0.5", "size of tiles is 0"),
    ],
)
def test_wrong_tiles_are_wrong_usage(
    run: Callable[..., Any], slides: Path, tmp_path: Path, tiles: str, said: str
) -> None:
    found = build(run, slides, tmp_path / "a.osler", "--tiles", tiles)
    assert (found.exit_code, found.stdout) == (2, "")
    assert len(found.stderr.splitlines()) == 1 and said in found.stderr
    assert not (tmp_path / "a.osler").exists()


def test_a_slide_that_cannot_be_tiled_is_one_line_of_the_report(
    run: Callable[..., Any], slides: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "mixed"
    folder.mkdir()
    (folder / "good.svs").write_bytes((slides / "0.svs").read_bytes())
    (folder / "cut.svs").write_bytes((slides / "1.svs").read_bytes()[:60_000])
    write_slide(folder / "no mpp.svs", draw_slide(700, 900, 4)[0], kind="svs", mpp=None, compression="jpeg")
    found = build(run, folder, tmp_path / "a.osler", "--json", "--strict")
    document = json.loads(found.stdout)
    assert (found.exit_code, document["added"], document["skipped"]) == (3, 1, 2)
    reasons = {failure["source"]: (failure["code"], failure["message"]) for failure in document["failures"]}
    assert reasons["no mpp.svs"][0] == "no_mpp" and "--tiles 224@0.5,slide_mpp=0.25" in reasons["no mpp.svs"][1]
    assert reasons["cut.svs"][0] in ("truncated", "bad_header") and "whole copy" in reasons["cut.svs"][1]
    given = build(run, folder, tmp_path / "b.osler", "--json", "--tiles", "224@0.5,slide_mpp=0.5")
    assert json.loads(given.stdout)["added"] == 2
