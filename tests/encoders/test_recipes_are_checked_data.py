"""A step says only what can be done, and a field that came later changes no fingerprint while it keeps its default."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import osler
import pytest
from osler.encoders.recipe import Crop, Normalise, Pad, Resize, Step, Window
from pydantic import TypeAdapter, ValidationError

ONE = TypeAdapter(Step)
RESIZE = {"op": "resize", "mode": "squash", "height": 8, "width": 8, "filter": "bilinear"}

WRONG = [
    ({"op": "window", "rule": "minmax", "low": 5.0, "high": 5.0}, "low must be below high"),
    ({"op": "window", "rule": "max", "rounding": "half_even"}, "rounding needs depth uint8"),
    ({"op": "window", "rule": "gamma"}, "rule"),
    (RESIZE | {"like": "opencv"}, "like opencv exists without antialias only"),
    (RESIZE | {"like": "torch_uint8", "antialias": False}, "like torch_uint8 exists with antialias only"),
    (RESIZE | {"like": "torch", "filter": "lanczos"}, "filter lanczos does not exist in torch with antialias"),
    (RESIZE | {"filter": "area"}, "filter area does not exist in pillow with antialias; it has nearest, box"),
    (RESIZE | {"antialias": False, "filter": "box"}, "filter box does not exist in pillow without antialias"),
    (RESIZE | {"like": "tensorflow", "antialias": False, "filter": "bicubic"}, "it has bilinear"),
    (RESIZE | {"scale": "divide"}, "scale is for a mode that keeps the shape"),
    (RESIZE | {"mode": "longest", "width": 9}, "mode longest needs height equal to width"),
    (RESIZE | {"like": "gimp"}, "like"),
    ({"op": "pad", "height": 8, "width": 8, "anchor": "centre", "least": 4}, "least is for a square"),
    ({"op": "normalise", "scale": 0.5, "divisor": 255.0}, "scale or divisor, not both"),
    ({"op": "normalise", "divisor": 0.0}, "divisor"),
    ({"op": "clahe", "limit": 0.0}, "limit"),
    ({"op": "clahe", "limit": 4.0, "rows": 0}, "rows"),
    ({"op": "quantise"}, "rounding"),
    ({"op": "exact", "height": 1000}, "width"),
    ({"op": "crop", "height": 8, "width": 8, "offset": "ceil"}, "offset"),
    ({"op": "sharpen"}, "sharpen"),
]


@pytest.mark.parametrize(("step", "message"), WRONG)
def test_wrong_steps_are_named(step: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError) as caught:
        ONE.validate_python(step)
    assert message in str(caught.value)


def test_a_shape_is_kept_with_two_sides_where_both_are_divided() -> None:
    step = RESIZE | {"mode": "shortest", "width": 9, "scale": "divide"}
    assert ONE.validate_python(step).width == 9


@pytest.mark.parametrize(
    ("step", "later"),
    [
        (Window(op="window", rule="max"), {"eight_bit": "map"}),
        (Window(op="window", rule="max"), {"depth": "uint8"}),
        (Window(op="window", rule="max", depth="uint8"), {"rounding": "half_even"}),
        (Resize(**RESIZE), {"like": "torch"}),
        (Resize(**(RESIZE | {"mode": "longest"})), {"scale": "multiply"}),
        (Crop(op="crop", height=8, width=8), {"offset": "floor"}),
        (Pad(op="pad", height=0, width=0, anchor="centre"), {"least": 8}),
        (Normalise(op="normalise"), {"divisor": 255.0}),
    ],
)
def test_later_fields_are_left_out_only_at_their_default(step: Any, later: dict[str, Any]) -> None:
    (name, value), *_ = later.items()
    assert name not in step.model_dump(mode="json") and name not in json.loads(step.model_dump_json())
    changed = type(step).model_validate(step.model_dump() | later)
    assert changed.model_dump(mode="json") == step.model_dump(mode="json") | {name: value}
    assert type(step).model_validate_json(changed.model_dump_json()) == changed


def test_fields_of_the_first_fingerprints_are_always_there() -> None:
    assert Resize(**RESIZE).model_dump(mode="json") == RESIZE | {"antialias": True, "rounding": "truncate"}
    assert Normalise(op="normalise").model_dump(mode="json") == {
        "op": "normalise",
        "scale": 1.0,
        "mean": [0.0],
        "std": [1.0],
    }


def test_a_later_field_changes_the_fingerprint(tiny: Any) -> None:
    before = osler.load_encoder(tiny.save()).fingerprint
    resize = tiny.manifest["image"]["recipe"][2]
    assert resize["op"] == "resize"
    resize |= {"like": "pillow", "scale": "exact"}
    assert osler.load_encoder(tiny.save()).fingerprint == before
    resize |= {"like": "torch"}
    assert osler.load_encoder(tiny.save()).fingerprint != before


def test_shipped_encoders_keep_the_fingerprint_that_collections_have() -> None:
    known = {
        "efficientnet-lite0": "6ab7f52164de1c41305c7e664a3b734b02689c3471239af4292664efd1fbb3b3",
        "minilm": "9264895a6d04497fde6a94fce8118b26505d3444107574f52c2ac56c4a15eb48",
        "reference": "38c6ca32b3e34eb1906c22ae6225ba21f6a7ecceffa616392624e0bed4c6f4d0",
    }
    assert {name: osler.load_encoder(name).fingerprint for name in known} == known


def test_every_named_recipe_is_made_of_known_steps() -> None:
    recipes = json.loads((Path(__file__).parents[2] / "models/recipes.json").read_text())
    from osler.encoders.volume_recipe import AnyStep

    for name, steps in recipes.items():
        assert TypeAdapter(tuple[AnyStep, ...]).validate_json(json.dumps(steps)), name
