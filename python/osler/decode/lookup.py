"""Whole values of pictures looked up in tables, and counted, by the engine: several times as fast as NumPy does it.

Arrays in, arrays out.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from osler import _native

__all__ = ["count_values", "look_up", "look_up_planes"]


def count_values(values: NDArray[Any]) -> NDArray[np.int64]:
    """Return how often each value of an array of uint8 or uint16 occurs: (256,) or (65536,).

    Examples
    --------
    >>> import numpy as np
    >>> from osler.decode.lookup import count_values
    >>> count_values(np.array([[2, 0], [2, 2]], dtype=np.uint8))[:3].tolist()
    [1, 0, 3]
    """
    return _native.count_values(values)


def look_up(values: NDArray[Any], table: NDArray[Any], first: int = 0) -> NDArray[Any]:
    """Replace each value by its entry in a table.

    Parameters
    ----------
    values : ndarray
        (H, W) or (H, W, C), uint8 or uint16.
    table : ndarray
        (n,) uint8, uint16 or float32: what is shown for `first`, `first` + 1 and so on.
    first : int

    Returns
    -------
    ndarray
        Of the shape of `values` and the type of `table`.

    Raises
    ------
    ValueError
        A value has no entry.
    TypeError
        Another type, or another order of bytes than the machine's.

    Examples
    --------
    >>> import numpy as np
    >>> from osler.decode.lookup import look_up
    >>> look_up(np.array([[11, 10]], dtype=np.uint16), np.array([5, 6], dtype=np.uint8), 10)
    array([[6, 5]], dtype=uint8)
    """
    lines = values.reshape(len(values), math.prod(values.shape[1:]), 1)
    return _native.look_up(lines, table[None], first).reshape(values.shape)


def look_up_planes(picture: NDArray[Any], tables: NDArray[Any]) -> NDArray[Any]:
    """Look the channels of a picture up, each in a table of its own.

    Parameters
    ----------
    picture : ndarray
        (H, W, C) uint8 or uint16; one channel goes through every table.
    tables : ndarray
        (P, n) uint8, uint16 or float32, P equal to C unless that is 1.

    Returns
    -------
    ndarray
        (P, H, W), of the type of `tables`.

    Raises
    ------
    ValueError
        There are not as many tables as channels, or a value has no entry.

    Examples
    --------
    >>> import numpy as np
    >>> from osler.decode.lookup import look_up_planes
    >>> picture = np.array([[[0, 1], [1, 1]]], dtype=np.uint8)
    >>> look_up_planes(picture, np.array([[3, 4], [5, 6]], dtype=np.uint8)).tolist()
    [[[3, 4]], [[6, 6]]]
    """
    # in one piece it is copied in one piece
    return _native.look_up(np.ascontiguousarray(picture), tables, 0)
