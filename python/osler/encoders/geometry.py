"""Where a recipe puts the pixels of a picture: its resizes, crops and pads as one scale and one offset.

Pure arithmetic on the steps of a recipe; the steps themselves are run by `osler.encoders.preprocess`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from osler.encoders.patch_tokens import Geometry
from osler.encoders.recipe import Crop, Pad, Resize, Step
from osler.encoders.resample import target_size

__all__ = ["geometry_of"]


def geometry_of(recipe: Iterable[Step], height: int, width: int) -> Geometry:
    """Return where a picture of a size lies in a model's input after a recipe.

    Parameters
    ----------
    recipe : iterable of steps
    height, width : int
        Of the picture.

    Returns
    -------
    Geometry

    Examples
    --------
    >>> from osler.encoders.geometry import geometry_of
    >>> from osler.encoders.recipe import Crop, Resize
    >>> resize = Resize(op="resize", mode="shortest", height=240, width=240, filter="bicubic")
    >>> geometry_of([resize, Crop(op="crop", height=224, width=224)], 480, 640)
    Geometry(height=224, width=224, scale_y=0.5, scale_x=0.5, top=-8.0, left=-48.0)
    """
    found = Geometry.of(height, width)
    for step in recipe:
        if isinstance(step, Resize):
            found = found.resized(*target_size(step, found.height, found.width))
        elif isinstance(step, Crop):
            turn: Callable[[float], int] = round if step.offset == "half_even" else int
            top, left = turn((found.height - step.height) / 2), turn((found.width - step.width) / 2)
            found = found.placed(-top, -left, step.height, step.width)
        elif isinstance(step, Pad):
            square = max(found.height, found.width, step.least)
            height, width = step.height or max(square, step.width), step.width or max(square, step.height)
            centred = step.anchor == "centre"
            top, left = ((height - found.height) // 2, (width - found.width) // 2) if centred else (0, 0)
            found = found.placed(top, left, height, width)
    return found
