"""One vector of a region from the patch tokens of a picture: the mean of those that lie under a mask.

Arithmetic on arrays and plain numbers. A `Geometry` says where the picture's pixels are in what the model saw, and
`osler.encoders.geometry` makes it from a recipe.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

__all__ = ["Geometry", "pool_tokens", "pool_under_mask", "token_shares"]

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Geometry:
    """Where a picture lies in a model's input: pixel edges at y are at ``y * scale_y + top``, and across alike.

    Attributes
    ----------
    height, width : int
        Of the input.
    scale_y, scale_x : float
        Pixels of the input for one of the picture.
    top, left : float
        Where the picture's upper left corner is in the input; below 0 where it was cropped.

    Examples
    --------
    A picture of 480 x 640 whose shorter side is brought to 240 and whose middle 224 x 224 are cropped:

    >>> from osler.encoders.patch_tokens import Geometry
    >>> Geometry.of(480, 640).resized(240, 320).placed(-8, -48, 224, 224)
    Geometry(height=224, width=224, scale_y=0.5, scale_x=0.5, top=-8.0, left=-48.0)
    """

    height: int
    width: int
    scale_y: float = 1.0
    scale_x: float = 1.0
    top: float = 0.0
    left: float = 0.0

    @classmethod
    def of(cls, height: int, width: int) -> Geometry:
        """Return that of a picture to which nothing was done."""
        return cls(height, width)

    def resized(self, height: int, width: int) -> Geometry:
        """Return that after a resize of all there is."""
        down, across = height / self.height, width / self.width
        return Geometry(height, width, self.scale_y * down, self.scale_x * across, self.top * down, self.left * across)

    def placed(self, top: float, left: float, height: int, width: int) -> Geometry:
        """Return that after a crop or a pad to a size: `top` and `left` are above 0 for a pad and below for a crop."""
        return replace(self, height=height, width=width, top=self.top + top, left=self.left + left)


def token_shares(mask: NDArray[np.bool_], geometry: Geometry, rows: int, columns: int) -> Floats:
    """Return the share of each token's patch that is under a mask of the picture.

    Parameters
    ----------
    mask : ndarray (H, W)
        Of the picture as it was before the recipe; what is not 0 is the region.
    geometry : Geometry
    rows, columns : int
        Of the token grid, which divides the input evenly.

    Returns
    -------
    ndarray (rows, columns)
        float64 from 0 to 1: exact areas.

    Examples
    --------
    >>> import numpy as np
    >>> from osler.encoders.patch_tokens import Geometry, token_shares
    >>> mask = np.zeros((4, 4), bool)
    >>> mask[:, 1:3] = True
    >>> token_shares(mask, Geometry.of(4, 4), 2, 2).tolist()
    [[0.5, 0.5], [0.5, 0.5]]
    """
    inside = np.asarray(mask) != 0
    if inside.ndim != 2:
        raise ValueError(f"the mask has shape {inside.shape}; give one of (H, W), as the picture is")
    area = np.zeros((inside.shape[0] + 1, inside.shape[1] + 1))
    area[1:, 1:] = inside.cumsum(0).cumsum(1)
    across = _between(area, geometry.height, geometry.scale_y, geometry.top, rows).T
    found: Floats = _between(across, geometry.width, geometry.scale_x, geometry.left, columns).T
    # Of the picture's pixels, so many are in a whole patch.
    patch = (geometry.height / rows / geometry.scale_y) * (geometry.width / columns / geometry.scale_x)
    return np.clip(found / patch, 0.0, 1.0)


def pool_under_mask(
    tokens: NDArray[np.floating], masks: NDArray[np.bool_], geometry: Geometry, *, least: float = 0.0
) -> NDArray[np.float32]:
    """Return the mean of the patch tokens under a mask, each weighted by the share of its patch that is under it.

    Parameters
    ----------
    tokens : ndarray (n, h, w, d)
        The patch tokens of n pictures on their grid, without class and register tokens.
    masks : ndarray (H, W) or (n, H, W)
        One for all pictures, or one each, of the pictures before the recipe.
    geometry : Geometry
        Where the pictures, which are of one size, lie in the model's input.
    least : float
        Patches with a smaller share are left out; where all are smaller, all count.

    Returns
    -------
    ndarray (n, d)
        float32, not normalised.

    Raises
    ------
    ValueError
        Shapes do not fit, or a mask has nothing in what the model saw.

    Examples
    --------
    >>> import numpy as np
    >>> from osler.encoders.patch_tokens import Geometry, pool_under_mask
    >>> tokens = np.arange(4.0).reshape(1, 2, 2, 1)
    >>> mask = np.zeros((8, 8), bool)
    >>> mask[4:, :] = True
    >>> pool_under_mask(tokens, mask, Geometry.of(8, 8).resized(224, 224)).tolist()
    [[2.5]]
    """
    tokens = np.asarray(tokens)
    if tokens.ndim != 4:
        raise ValueError(f"tokens has shape {tokens.shape}; give one of (n, h, w, d), without the class token")
    count, rows, columns, dim = tokens.shape
    each = np.broadcast_to(masks, (count, *np.shape(masks)[-2:])) if np.ndim(masks) == 2 else np.asarray(masks)
    if each.ndim != 3 or len(each) != count:
        raise ValueError(f"masks has shape {np.shape(masks)}, and there are {count} pictures; give one, or one each")
    found = np.empty((count, dim), np.float32)
    for number, mask in enumerate(each):
        shares = token_shares(mask, geometry, rows, columns)
        if not shares.any():
            raise ValueError(
                f"the mask of picture {number} has nothing in what the model saw of it: it is empty, or cropped away"
            )
        found[number] = pool_tokens(tokens[number], shares, least)
    return found


def pool_tokens(tokens: NDArray[np.floating], shares: Floats, least: float = 0.0) -> NDArray[np.float32]:
    """Return the mean (d,) of the tokens (h, w, d) of a picture, weighted by `token_shares`; see `pool_under_mask`.

    Examples
    --------
    >>> import numpy as np
    >>> from osler.encoders.patch_tokens import pool_tokens
    >>> pool_tokens(np.arange(4.0).reshape(2, 2, 1), np.eye(2)).tolist()
    [1.5]
    """
    enough = np.where(shares >= least, shares, 0.0)
    weights = enough if enough.any() else shares
    return np.tensordot(weights / weights.sum(), tokens.astype(np.float64), 2).astype(np.float32)


def _between(area: Floats, length: int, scale: float, start: float, count: int) -> Floats:
    """Return differences of a summed area at the edges of `count` patches, in the picture's pixels."""
    edges = (np.arange(count + 1) * (length / count) - start) / scale
    edges = np.clip(edges, 0, area.shape[0] - 1)
    low = np.minimum(edges.astype(np.int64), area.shape[0] - 2)
    share = (edges - low)[:, None]
    at = area[low] * (1 - share) + area[low + 1] * share
    found: Floats = np.diff(at, axis=0)
    return found
