"""What a builder gives to the exporter: the towers of an encoder as modules.

Values only. A builder is a function ``build(entry, checkpoint) -> Towers`` in a module of its own.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

__all__ = ["ImageModel", "TextModel", "Tokens", "Towers"]


@dataclass(frozen=True, slots=True)
class Tokens:
    """A module from a batch of pictures to vectors and patch tokens of the same space.

    A token is what the head makes of one place; where a tower pools by the mean, the mean of the tokens points where
    the vector does.

    Attributes
    ----------
    module : torch.nn.Module
        (n, *shape) float32 to (n, d) and (n, d, rows, columns), or (n, rows * columns, d) with a `grid`.
    grid : tuple of int or None
        Rows and columns of the latter form.
    """

    module: Any
    grid: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True)
class ImageModel:
    """A module from a batch of pictures or volumes to vectors.

    Attributes
    ----------
    module : torch.nn.Module
        (n, *shape) float32 to (n, d) float32, in evaluation mode.
    shape : tuple of int
        (channels, height, width) or (channels, depth, height, width).
    tokens : Tokens or None
        The same tower with its patch tokens, where it has any in the space of its vectors.
    """

    module: Any
    shape: tuple[int, ...]
    tokens: Tokens | None = None


@dataclass(frozen=True, slots=True)
class TextModel:
    """A module from a batch of token ids to vectors.

    Attributes
    ----------
    module : torch.nn.Module
        ``module(ids)`` or ``module(ids, mask)``, both (n, length) int64, to (n, d) float32.
    length : int
        The greatest number of tokens.
    masked : bool
        The module takes the attention mask.
    dynamic : bool
        Any length up to `length` may be given, and padding does not change the vector.
    """

    module: Any
    length: int
    masked: bool = False
    dynamic: bool = False


@dataclass(frozen=True, slots=True)
class Towers:
    """An encoder, built and filled with its weights.

    Attributes
    ----------
    image : ImageModel or None
    text : TextModel or None
    logit_scale, logit_bias : float or None
        As the weights have them.
    libraries : tuple of str
        Distributions whose code runs the original.
    """

    image: ImageModel | None = None
    text: TextModel | None = None
    logit_scale: float | None = None
    logit_bias: float | None = None
    libraries: tuple[str, ...] = field(default=("torch",))
