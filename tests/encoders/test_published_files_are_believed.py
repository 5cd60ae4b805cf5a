"""What authors publish beside weights is compared with the registry: agreement is told, contradiction stops."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from osler import EncoderError
from osler.encoders.entry import Entry, entries, recipe
from osler.encoders.export.published import check_published

CLIP = {"mean": [0.48145466, 0.4578275, 0.40821073], "std": [0.26862954, 0.26130258, 0.27577711]}


def check(name: str, folder: Path, **files: Any) -> tuple[str, ...]:
    entry: Entry = entries()[name]
    for file, content in files.items():
        (folder / f"{file}.json").write_text(json.dumps(content))
    assert entry.image is not None
    return check_published(entry, recipe(entry.image.recipe), folder)


def test_nothing_beside_it_confirms_nothing(tmp_path: Path) -> None:
    assert check("biomedclip", tmp_path) == ()


def test_open_clip_files_confirm(tmp_path: Path) -> None:
    config = {
        "model_cfg": {"vision_cfg": {}, "quick_gelu": True},
        "preprocess_cfg": {**CLIP, "resize_mode": "shortest"},
    }
    confirmed = check("quiltnet-b32", tmp_path, open_clip_config=config)
    assert confirmed == tuple(f"{field}: open_clip_config.json" for field in ("mode", "mean", "std", "activation"))


def test_transformers_files_confirm(tmp_path: Path) -> None:
    processor = {
        "size": {"shortest_edge": 224},
        "crop_size": {"height": 224, "width": 224},
        "do_center_crop": True,
        "resample": 3,
        "image_mean": CLIP["mean"],
        "image_std": CLIP["std"],
    }
    config = {"vision_config": {"hidden_act": "quick_gelu"}}
    confirmed = check("clip-b32", tmp_path, preprocessor_config=processor, config=config)
    assert [one.split(":")[0] for one in confirmed] == ["size", "mode", "filter", "mean", "std", "activation"]
    old = processor | {"size": 224, "crop_size": 224}
    assert check("clip-b32", tmp_path, preprocessor_config=old, config=config) == confirmed


@pytest.mark.parametrize(
    ("name", "files", "words"),
    [
        (
            "whyxrayclip",
            {"open_clip_config": {"preprocess_cfg": {"mean": [0.5] * 3, "std": [0.5] * 3}}},
            r"open_clip_config\.json of the checkpoint says mean 0\.5 x 0\.5 x 0\.5, and the recipe of whyxrayclip has",
        ),
        (
            "chexagent-siglip-l16",
            {"preprocessor_config": {"size": {"height": 384, "width": 384}}},
            "says size 384 x 384, and the recipe of chexagent-siglip-l16 has 512 x 512",
        ),
        ("siglip-b16-224", {"preprocessor_config": {"resample": 2}}, "says filter bilinear, and the recipe .* bicubic"),
        ("dfn5b-h14", {"open_clip_config": {"preprocess_cfg": {"resize_mode": "shortest"}}}, "says mode shortest"),
        (
            "quiltnet-b16",
            {"open_clip_config": {"model_cfg": {"vision_cfg": {}}}},
            "asks for the activation gelu, and the registry builds quiltnet-b16 with quick_gelu",
        ),
        ("clip-b16", {"config": {"vision_config": {"hidden_act": "gelu"}}}, "asks for the activation gelu"),
    ],
)
def test_contradictions_stop(name: str, files: dict[str, Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(EncoderError, match=words) as caught:
        check(name, tmp_path, **files)
    assert caught.value.code == "differs_from_published" and "\n" not in str(caught.value)


def test_what_is_no_json_is_said(tmp_path: Path) -> None:
    (tmp_path / "preprocessor_config.json").write_text("{")
    with pytest.raises(EncoderError, match=r"preprocessor_config\.json beside the checkpoint is not JSON"):
        check("clip-b32", tmp_path)


@pytest.mark.parametrize("content", [[], {}, {"size": None}, {"size": "224", "image_mean": "no", "resample": "x"}])
def test_files_that_say_nothing_are_no_evidence(content: Any, tmp_path: Path) -> None:
    assert check("clip-b32", tmp_path, preprocessor_config=content) == ()


def test_what_published_files_and_the_checkpoint_settle_is_no_longer_uncertain() -> None:
    doubts = dict.fromkeys(("architecture", "image.recipe", "logit_scale", "licence.id"), "not seen")
    entry = entries()["quiltnet-b32"].model_copy(update={"uncertain": doubts})
    assert entry.still_uncertain(()) == doubts
    assert set(entry.still_uncertain(("activation", "logit_scale"))) == {"image.recipe", "licence.id"}
    whole = ("size", "mode", "filter", "mean", "std")
    assert set(entry.still_uncertain(whole)) == {"architecture", "logit_scale", "licence.id"}
    assert entry.still_uncertain(whole[:-1]) == doubts, "a recipe was settled by a part of it"
