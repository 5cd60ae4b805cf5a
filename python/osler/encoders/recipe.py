"""A preprocessing recipe as data: the steps, each with its parameters, that turn a picture into a model's input.

Declares and checks; runs nothing (see `preprocess`). The steps cover the 2-D preprocessings of the medical image-text
encoders, each with the arithmetic of the library that its authors used.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, SerializerFunctionWrapHandler, model_serializer, model_validator

__all__ = [
    "Clahe",
    "Crop",
    "Exact",
    "Grey",
    "Normalise",
    "Pad",
    "Quantise",
    "Resize",
    "Rgb",
    "Step",
    "Strict",
    "Window",
]

Side = Annotated[int, Field(ge=1, le=4096)]
Rounding = Literal["truncate", "half_even"]


class Strict(BaseModel):
    """What every part of a manifest is: unknown fields and wrong types are errors, values do not change."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class _Step(Strict):
    """A step; fields that came after the first fingerprints are left out of them while they keep their default."""

    _later: ClassVar[tuple[str, ...]] = ()

    @model_serializer(mode="wrap")
    def _without_unused(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        fields = type(self).model_fields
        dumped: dict[str, Any] = handler(self)
        return {
            name: value
            for name, value in dumped.items()
            if name not in self._later or getattr(self, name) != fields[name].default
        }


class Window(_Step):
    """Maps the values of a picture to 0..255; 8-bit input passes unchanged unless `eight_bit` is ``map``.

    ``percentile`` takes two percentiles of the picture as black and white, ``minmax`` its extremes, ``full`` the range
    of the type (0..255, 0..65535; 0..1 for floats), ``max`` 0 and its greatest. The result is float32, or uint8 where
    `depth` says so: ``(x - black) / (white - black) * 255`` in float64 and then `rounding`; ``max`` multiplies by
    255/max in float32, as OpenCV's ``convertScaleAbs`` does.
    """

    op: Literal["window"]
    rule: Literal["percentile", "minmax", "full", "max"]
    low: float = Field(default=0.0, ge=0, le=100)
    high: float = Field(default=100.0, ge=0, le=100)
    eight_bit: Literal["keep", "map"] = "keep"
    depth: Literal["float32", "uint8"] = "float32"
    rounding: Rounding = "truncate"

    _later: ClassVar[tuple[str, ...]] = ("eight_bit", "depth", "rounding")

    @model_validator(mode="after")
    def _ordered(self) -> Window:
        if self.low >= self.high:
            raise ValueError("low must be below high")
        if self.depth == "float32" and self.rounding != "truncate":
            raise ValueError("rounding needs depth uint8")
        return self


class Rgb(_Step):
    """Repeats one channel to three; three channels pass unchanged."""

    op: Literal["rgb"]


class Grey(_Step):
    """Turns three channels to one by the ITU-R 601 luma; one channel passes unchanged.

    On 8 bits by the integers of Pillow (16-bit weights) or of OpenCV (15-bit weights), which differ by one grey here
    and there; on floats in float32.
    """

    op: Literal["grey"]
    like: Literal["pillow", "opencv"] = "pillow"


class Clahe(_Step):
    """Equalises an 8-bit picture of one channel in tiles, with limited contrast, as OpenCV's ``createCLAHE`` does."""

    op: Literal["clahe"]
    limit: float = Field(gt=0, le=1000)
    rows: int = Field(default=8, ge=1, le=64)
    columns: int = Field(default=8, ge=1, le=64)


class Resize(_Step):
    """Changes the size of the picture.

    ``squash`` to height x width; ``shortest`` and ``longest`` bring that side to `height` (equal to `width`, but for
    `scale` ``divide``) and keep the shape, each side being rounded or truncated.

    Attributes
    ----------
    like : {"pillow", "torch", "torch_uint8", "opencv", "tensorflow"}
        Whose arithmetic. ``pillow``: 8-bit in Pillow, others plane by plane in its float mode and cut to 0..255.
        ``torch``: a float32 tensor in PyTorch's ``interpolate``; 8-bit input is cast, rounded and cast back, as
        torchvision does for tensors in its first version. ``torch_uint8``: PyTorch's own arithmetic on 8-bit tensors,
        which torchvision's second version and the processors of transformers 5 use. ``opencv``: ``cv2.resize``.
        ``tensorflow``: ``tf.image.resize`` without antialias, always float32.
    antialias : bool
        Widens the filter when shrinking. OpenCV and ``tensorflow`` have none; Pillow always does, and is PyTorch
        where it is false.
    scale : {"exact", "divide", "multiply"}
        How a kept shape gets its sides, which decides the last pixel: ``side * height / kept``, ``side / (kept /
        height)`` for both sides, or ``side * (height / kept)``.
    """

    op: Literal["resize"]
    mode: Literal["squash", "shortest", "longest"]
    height: Side
    width: Side
    filter: Literal["nearest", "box", "bilinear", "bicubic", "lanczos", "area"]
    antialias: bool = True
    rounding: Literal["round", "truncate"] = "truncate"
    like: Literal["pillow", "torch", "torch_uint8", "opencv", "tensorflow"] = "pillow"
    scale: Literal["exact", "divide", "multiply"] = "exact"

    _later: ClassVar[tuple[str, ...]] = ("like", "scale")
    _filters: ClassVar[dict[tuple[str, bool], tuple[str, ...]]] = {
        ("pillow", True): ("nearest", "box", "bilinear", "bicubic", "lanczos"),
        ("pillow", False): ("nearest", "bilinear", "bicubic"),
        ("torch", True): ("bilinear", "bicubic"),
        ("torch", False): ("nearest", "bilinear", "bicubic"),
        ("torch_uint8", True): ("bilinear", "bicubic"),
        ("opencv", False): ("nearest", "bilinear", "bicubic", "area"),
        ("tensorflow", False): ("bilinear",),
    }

    @model_validator(mode="after")
    def _consistent(self) -> Resize:
        if self.mode != "squash" and self.height != self.width and self.scale != "divide":
            raise ValueError(f"mode {self.mode} needs height equal to width")
        if self.mode == "squash" and self.scale != "exact":
            raise ValueError("scale is for a mode that keeps the shape")
        filters = self._filters.get((self.like, self.antialias))
        if filters is None:
            raise ValueError(f"like {self.like} exists {'without' if self.antialias else 'with'} antialias only")
        if self.filter not in filters:
            raise ValueError(
                f"filter {self.filter} does not exist in {self.like} {'with' if self.antialias else 'without'} "
                f"antialias; it has {', '.join(filters)}"
            )
        return self


class Crop(_Step):
    """Cuts height x width from the centre; a smaller picture is an error of the recipe.

    `offset`: half a pixel to the even side, as torchvision's ``CenterCrop`` (``half_even``), or to the left and top, as
    transformers (``floor``).
    """

    op: Literal["crop"]
    height: Side
    width: Side
    offset: Literal["half_even", "floor"] = "half_even"

    _later: ClassVar[tuple[str, ...]] = ("offset",)


class Exact(_Step):
    """Refuses a picture that is not height x width: encoders of slide patches take them as they were cut."""

    op: Literal["exact"]
    height: Side
    width: Side


class Pad(_Step):
    """Pads to height x width, or to a square over the longer side where both are 0, with one value.

    The square has at least `least` pixels a side. Of an odd border the smaller half comes first.
    """

    op: Literal["pad"]
    height: int = Field(ge=0, le=4096)
    width: int = Field(ge=0, le=4096)
    anchor: Literal["centre", "top_left"]
    value: float = 0.0
    least: int = Field(default=0, ge=0, le=4096)

    _later: ClassVar[tuple[str, ...]] = ("least",)

    @model_validator(mode="after")
    def _square(self) -> Pad:
        if self.least and (self.height or self.width):
            raise ValueError("least is for a square, where height and width are 0")
        return self


class Quantise(_Step):
    """Turns values on the scale 0..255 to 8 bits; those beyond are cut."""

    op: Literal["quantise"]
    rounding: Rounding


class Normalise(_Step):
    """(x * scale - mean) / std, channel by channel, in float32; ``x / divisor`` instead of ``x * scale`` where given.

    The two differ in the last bit: torchvision's ``ToTensor`` and the processors of transformers divide by 255, older
    feature extractors multiply by 1/255.
    """

    op: Literal["normalise"]
    scale: float = 1.0
    mean: tuple[float, ...] = Field(default=(0.0,), min_length=1, max_length=3)
    std: tuple[float, ...] = Field(default=(1.0,), min_length=1, max_length=3)
    divisor: float | None = Field(default=None, gt=0)

    _later: ClassVar[tuple[str, ...]] = ("divisor",)

    @model_validator(mode="after")
    def _no_zero(self) -> Normalise:
        if not all(value > 0 for value in self.std) or self.scale == 0:
            raise ValueError("scale and std must not be zero")
        if self.divisor is not None and self.scale != 1:
            raise ValueError("give scale or divisor, not both")
        return self


Step = Annotated[
    Window | Rgb | Grey | Clahe | Resize | Crop | Exact | Pad | Quantise | Normalise, Field(discriminator="op")
]
