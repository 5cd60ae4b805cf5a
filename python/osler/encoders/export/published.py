"""Compares an entry of the registry with the configuration files that its authors published beside the weights.

Reads ``open_clip_config.json``, ``preprocessor_config.json`` and ``config.json`` of a checkpoint's folder, where they
are. What a state dict cannot show - sizes, filters, means, activations - is found wrong here and not in the vectors.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from osler.encoders.entry import Entry
from osler.encoders.recipe import Crop, Normalise, Resize
from osler.errors import EncoderError

__all__ = ["check_published"]

_FILTERS = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic", 4: "box", 5: "hamming"}
_MODES = {"shortest": "shortest", "longest": "longest", "squash": "squash"}


@dataclass(frozen=True, slots=True)
class _Preparation:
    """What a file says of the preparation; None where it says nothing."""

    size: tuple[int, int] | None = None
    mode: str | None = None
    filter: str | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None


def check_published(entry: Entry, steps: Iterable[Any], folder: Path) -> tuple[str, ...]:
    """Return what the published files confirm of an entry.

    Parameters
    ----------
    entry : Entry
    steps : iterable of steps
        The recipe that is to be used.
    folder : Path
        Of the checkpoint.

    Returns
    -------
    tuple of str
        Field and file, as "size: preprocessor_config.json".

    Raises
    ------
    EncoderError
        A file contradicts the entry or the recipe (code ``differs_from_published``), or is not JSON.
    """
    confirmed = []
    ours = _of_recipe(list(steps))
    for name, read in (("open_clip_config.json", _of_open_clip), ("preprocessor_config.json", _of_transformers)):
        content = _read(folder / name)
        if content is None:
            continue
        theirs = read(content)
        for field in ("size", "mode", "filter", "mean", "std"):
            said, used = getattr(theirs, field), getattr(ours, field)
            if said is None or used is None:
                continue
            if not _same(said, used):
                raise EncoderError(
                    f"{name} of the checkpoint says {field} {_words(said)}, and the recipe of {entry.name} has "
                    f"{_words(used)}; choose the recipe that fits with --recipe, and report it",
                    code="differs_from_published",
                )
            confirmed.append(f"{field}: {name}")
    for name in ("open_clip_config.json", "config.json"):
        content = _read(folder / name)
        said = None if content is None else _activation(content.get("model_cfg", content))
        used = _activation_of(entry)
        if said is None or used is None:
            continue
        if said != used:
            raise EncoderError(
                f"{name} of the checkpoint asks for the activation {said}, and the registry builds {entry.name} with "
                f"{used}; report it, since its vectors would be wrong in silence",
                code="differs_from_published",
            )
        confirmed.append(f"activation: {name}")
    return tuple(confirmed)


def _read(path: Path) -> dict[str, Any] | None:
    if not path.is_file() or path.stat().st_size > 1 << 20:
        return None
    try:
        content = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        raise EncoderError(f"{path.name} beside the checkpoint is not JSON; download it again") from None
    return content if isinstance(content, dict) else None


def _of_recipe(steps: list[Any]) -> _Preparation:
    resize = next((step for step in steps if isinstance(step, Resize)), None)
    crop = next((step for step in steps if isinstance(step, Crop)), None)
    norm = next((step for step in steps if isinstance(step, Normalise)), None)
    if resize is None:
        return _Preparation()
    size = (crop.height, crop.width) if crop is not None else (resize.height, resize.width)
    # a recipe may count from 0 to 255 where the files count from 0 to 1
    unit = 1.0 if norm is None or getattr(norm, "divisor", None) or norm.scale < 0.5 else 255.0
    mean = None if norm is None else tuple(value / unit for value in norm.mean)
    std = None if norm is None else tuple(value / unit for value in norm.std)
    return _Preparation(size, resize.mode, resize.filter, mean, std)


def _of_open_clip(content: Mapping[str, Any]) -> _Preparation:
    found = content.get("preprocess_cfg")
    if not isinstance(found, Mapping):
        return _Preparation()
    return _Preparation(
        size=_pair(found.get("size")),
        mode=_MODES.get(str(found.get("resize_mode"))),
        filter=found.get("interpolation") if found.get("interpolation") in ("bicubic", "bilinear") else None,
        mean=_numbers(found.get("mean")),
        std=_numbers(found.get("std")),
    )


def _of_transformers(content: Mapping[str, Any]) -> _Preparation:
    size = content.get("size")
    shortest = isinstance(size, int) or (isinstance(size, Mapping) and "shortest_edge" in size)
    crop = content.get("crop_size") if content.get("do_center_crop") else None
    plain = size.get("shortest_edge", size) if isinstance(size, Mapping) else size
    return _Preparation(
        size=_pair(crop) or _pair(plain),
        mode=None if _pair(plain) is None else "shortest" if shortest else "squash",
        filter=_FILTERS.get(content["resample"]) if isinstance(content.get("resample"), int) else None,
        mean=_numbers(content.get("image_mean")) if content.get("do_normalize", True) else None,
        std=_numbers(content.get("image_std")) if content.get("do_normalize", True) else None,
    )


def _pair(value: Any) -> tuple[int, int] | None:
    if isinstance(value, bool):
        return None
    if isinstance(value, int):
        return value, value
    if isinstance(value, Mapping) and isinstance(value.get("height"), int) and isinstance(value.get("width"), int):
        return value["height"], value["width"]
    if isinstance(value, list) and len(value) == 2 and all(isinstance(side, int) for side in value):
        return value[0], value[1]
    return None


def _numbers(value: Any) -> tuple[float, ...] | None:
    if isinstance(value, list) and value and all(isinstance(one, int | float) for one in value):
        return tuple(float(one) for one in value)
    return None


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, tuple) and isinstance(b, tuple) and all(isinstance(one, float) for one in a):
        longest = max(len(a), len(b))
        wide = [values * longest if len(values) == 1 else values for values in (a, b)]
        return len(wide[0]) == len(wide[1]) and all(
            math.isclose(x, y, rel_tol=1e-4, abs_tol=1e-6) for x, y in zip(*wide, strict=True)
        )
    return bool(a == b)


def _words(value: Any) -> str:
    return " x ".join(f"{one:.6g}" for one in value) if isinstance(value, tuple) else str(value)


def _activation(content: Mapping[str, Any]) -> str | None:
    """Return "quick_gelu" or "gelu" as a configuration has it, or None where it has neither field."""
    if "vision_cfg" in content:  # open_clip
        return "quick_gelu" if content.get("quick_gelu") else "gelu"
    vision = content.get("vision_config", content.get("vision_config_dict"))
    found = vision.get("hidden_act") if isinstance(vision, Mapping) else None
    return found if found in ("quick_gelu", "gelu") else None


def _activation_of(entry: Entry) -> str | None:
    if entry.architecture is None or entry.architecture.builder not in ("open_clip", "transformers"):
        return None
    options = entry.architecture.options
    if entry.architecture.builder == "transformers":
        return _activation(options) if options.get("model_type") == "clip" else None
    if "timm_model_name" in options.get("vision_cfg", {}):
        return None
    if "quick_gelu" in options:
        return "quick_gelu" if options["quick_gelu"] else "gelu"
    return "quick_gelu" if str(options.get("model", "")).endswith("-quickgelu") else "gelu"
