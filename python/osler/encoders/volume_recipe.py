"""The preprocessing of a volume as data: the steps that turn a scan into the input of a 3-D model.

Declares and checks; runs nothing (see `volume_steps`). Together the steps cover the pipelines of Merlin, VoCo and the
Astra chest CT encoder (MONAI's transforms) and of MedicalNet (SciPy).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from osler.encoders.recipe import Step, Strict

__all__ = [
    "AnyStep",
    "Axes",
    "Channels",
    "CropVolume",
    "Foreground",
    "Intensity",
    "Orient",
    "PadVolume",
    "ResizeVolume",
    "Respace",
    "Standardise",
    "VolumeStep",
    "check_order",
    "takes_volumes",
]

Side = Annotated[int, Field(ge=1, le=2048)]
Shape = tuple[Side, Side, Side]
Millimetres = Annotated[float, Field(ge=0.01, le=100)]


class Orient(Strict):
    """Turns and flips the axes so that they point to `codes`, such as "RAS"; no value changes (MONAI ``Orientation``).

    The axes of the volume that are nearest to these directions are taken, as `nibabel.orientations.io_orientation`
    finds them.
    """

    op: Literal["orient"]
    codes: str = Field(default="RAS", pattern="^[RLAPSI]{3}$")

    @field_validator("codes")
    @classmethod
    def _spans(cls, codes: str) -> str:
        if any(sum(code in pair for code in codes) != 1 for pair in ("RL", "AP", "SI")):
            raise ValueError("needs one of R and L, one of A and P, and one of S and I")
        return codes


class Respace(Strict):
    """Resamples to a spacing in millimetres, axis by axis (MONAI ``Spacing``, its defaults).

    The first voxel stays where it is; a side of n voxels gets round((n - 1) * old / new + 1). Trilinear in float64,
    without a filter for shrinking; what lies outside is taken from the border; shear is removed. A spacing within 0.001
    of the one that is asked for is kept, and a volume whose affine would change by less is left as it is.
    """

    op: Literal["respace"]
    spacing: tuple[Millimetres, Millimetres, Millimetres]


class Intensity(Strict):
    """(x - low) / (high - low) * (to_high - to_low) + to_low in float32, cut to that range unless `clip` is false.

    MONAI's ``ScaleIntensityRange``. `low` and `high` are in the units of the volume: Hounsfield units for CT.
    """

    op: Literal["intensity"]
    low: float
    high: float
    to_low: float = 0.0
    to_high: float = 1.0
    clip: bool = True

    @model_validator(mode="after")
    def _ordered(self) -> Intensity:
        if self.low >= self.high or self.to_low >= self.to_high:
            raise ValueError("low must be below high, and to_low below to_high")
        return self


class Foreground(Strict):
    """Cuts to the box of the voxels above a value (MONAI ``CropForeground``); without any, the volume stays whole."""

    op: Literal["foreground"]
    above: float


class ResizeVolume(Strict):
    """Changes the size to `shape`, whatever the proportions.

    ``area``: each voxel is the mean of those that it covers, whole ones only (PyTorch's ``interpolate`` with mode area,
    which is its adaptive average pooling). ``zoom``: the nearest voxel, corners on corners
    (`scipy.ndimage.zoom` with order 0).
    """

    op: Literal["resize_volume"]
    shape: Shape
    rule: Literal["area", "zoom"]


class PadVolume(Strict):
    """Pads shorter sides to `shape` with `value` on both ends, the odd voxel at the far end (MONAI ``SpatialPad``)."""

    op: Literal["pad_volume"]
    shape: Shape
    value: float = 0.0


class CropVolume(Strict):
    """Cuts longer sides to `shape` around the centre: from n // 2 - side // 2 (MONAI ``CenterSpatialCrop``)."""

    op: Literal["crop_volume"]
    shape: Shape


class Standardise(Strict):
    """(x - mean) / std in float64, over the voxels above 0 or over all.

    MedicalNet's. Its authors then draw normal noise for the voxels that are exactly 0; so that a volume has one vector,
    `background` ``mean`` puts 0 there, which is what that noise is on average, and ``keep`` leaves what the formula
    gives.
    """

    op: Literal["standardise"]
    over: Literal["positive", "all"] = "positive"
    background: Literal["mean", "keep"] = "mean"


class Axes(Strict):
    """Reorders the axes: axis i of the result is axis order[i] of what was there."""

    op: Literal["axes"]
    order: tuple[int, int, int]

    @field_validator("order")
    @classmethod
    def _permutes(cls, order: tuple[int, int, int]) -> tuple[int, int, int]:
        if sorted(order) != [0, 1, 2]:
            raise ValueError("must name each of 0, 1 and 2 once")
        return order


class Channels(Strict):
    """Repeats the one channel; the last step."""

    op: Literal["channels"]
    count: int = Field(ge=1, le=16)


VolumeStep = Annotated[
    Orient | Respace | Intensity | Foreground | ResizeVolume | PadVolume | CropVolume | Standardise | Axes | Channels,
    Field(discriminator="op"),
]


# A recipe is a tuple of these, all for volumes or all for pictures.
AnyStep = Annotated[Step | VolumeStep, Field(discriminator="op")]


def takes_volumes(recipe: Sequence[object]) -> bool:
    """Tell whether a recipe starts from a volume.

    Examples
    --------
    >>> from osler.encoders.volume_recipe import Orient, takes_volumes
    >>> takes_volumes([Orient(op="orient")])
    True
    """
    return len(recipe) > 0 and isinstance(recipe[0], _KINDS)


def check_order(recipe: Sequence[object]) -> None:
    """Refuse a recipe that mixes volumes and pictures, or that goes on after the channels were made.

    Raises
    ------
    ValueError
        It does.

    Examples
    --------
    >>> from osler.encoders.volume_recipe import Channels, Orient, check_order
    >>> check_order((Orient(op="orient"), Channels(op="channels", count=3)))
    """
    if len({isinstance(step, _KINDS) for step in recipe}) > 1:
        raise ValueError("mixes steps for volumes with steps for pictures")
    if any(isinstance(step, Channels) for step in recipe[:-1]):
        raise ValueError("step channels must be the last one")


_KINDS = (
    Orient,
    Respace,
    Intensity,
    Foreground,
    ResizeVolume,
    PadVolume,
    CropVolume,
    Standardise,
    Axes,
    Channels,
)
