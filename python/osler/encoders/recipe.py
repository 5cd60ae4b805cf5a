"""A preprocessing recipe as data: the steps, each with its parameters, that turn a picture into a model's input.

Declares and checks; runs nothing (see `preprocess`). The steps cover the 2-D preprocessings of the medical image-text
encoders (short side and crop, squash, canvas, pad to square).
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

__all__ = ["Crop", "Grey", "Normalise", "Pad", "Resize", "Rgb", "Step", "Strict", "Window"]

Side = Annotated[int, Field(ge=1, le=4096)]


class Strict(BaseModel):
    """What every part of a manifest is: unknown fields and wrong types are errors, values do not change."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Window(Strict):
    """Maps every input that is not 8-bit to 0..255 in float32; 8-bit input passes unchanged.

    ``percentile`` takes two percentiles of the picture as black and white, ``minmax`` its extremes, ``full`` the range
    of the type (0..65535; 0..1 for floats).
    """

    op: Literal["window"]
    rule: Literal["percentile", "minmax", "full"]
    low: float = Field(default=0.0, ge=0, le=100)
    high: float = Field(default=100.0, ge=0, le=100)

    @model_validator(mode="after")
    def _ordered(self) -> Window:
        if self.low >= self.high:
            raise ValueError("low must be below high")
        return self


class Rgb(Strict):
    """Repeats one channel to three; three channels pass unchanged."""

    op: Literal["rgb"]


class Grey(Strict):
    """Turns three channels to one by the ITU-R 601 luma; one channel passes unchanged."""

    op: Literal["grey"]


class Resize(Strict):
    """Changes the size of the picture.

    ``squash`` to height x width; ``shortest`` and ``longest`` bring that side to `height` (equal to `width`) and keep
    the shape, the other side being rounded or truncated. With antialias the filter is widened when shrinking, as Pillow
    does; without, it samples as PyTorch's ``interpolate`` does with half-pixel centres.
    """

    op: Literal["resize"]
    mode: Literal["squash", "shortest", "longest"]
    height: Side
    width: Side
    filter: Literal["nearest", "box", "bilinear", "bicubic", "lanczos"]
    antialias: bool = True
    rounding: Literal["round", "truncate"] = "truncate"

    @model_validator(mode="after")
    def _consistent(self) -> Resize:
        if self.mode != "squash" and self.height != self.width:
            raise ValueError(f"mode {self.mode} needs height equal to width")
        if not self.antialias and self.filter not in ("nearest", "bilinear", "bicubic"):
            raise ValueError(f"filter {self.filter} exists with antialias only")
        return self


class Crop(Strict):
    """Cuts height x width from the centre; a smaller picture is an error of the recipe."""

    op: Literal["crop"]
    height: Side
    width: Side


class Pad(Strict):
    """Pads to height x width, or to a square over the longer side where both are 0, with one value."""

    op: Literal["pad"]
    height: int = Field(ge=0, le=4096)
    width: int = Field(ge=0, le=4096)
    anchor: Literal["centre", "top_left"]
    value: float = 0.0


class Normalise(Strict):
    """(x * scale - mean) / std, channel by channel, in float32."""

    op: Literal["normalise"]
    scale: float = 1.0
    mean: tuple[float, ...] = Field(default=(0.0,), min_length=1, max_length=3)
    std: tuple[float, ...] = Field(default=(1.0,), min_length=1, max_length=3)

    @model_validator(mode="after")
    def _no_zero(self) -> Normalise:
        if not all(value > 0 for value in self.std) or self.scale == 0:
            raise ValueError("scale and std must not be zero")
        return self


Step = Annotated[Window | Rgb | Grey | Resize | Crop | Pad | Normalise, Field(discriminator="op")]
