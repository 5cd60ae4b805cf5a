"""Slices to one volume by their geometry: which belong together, in which order, how far apart, and what is missing.

Works on planes and arrays in memory. Order and distance come from the positions along the normal of the slices, never
from their numbers. DICOM PS3.3, C.7.6.2.1.1.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from osler.decode.planes import Plane
from osler.errors import SourceError
from osler.items import Volume

__all__ = ["GAPS", "Gaps", "Stack", "stack_of", "volume_of"]

Gaps = Literal["refuse", "fill"]
GAPS = ("refuse", "fill")

# Share of the distance between slices by which one may lie off an even grid: positions are often rounded to 0.1 mm.
_UNEVEN = 0.1
# Share of the distances that may be longer than one step, where it is more than one of them, before the slices count as
# unevenly spaced.
_FEW = 0.25
# Slices of another orientation or size that are left out as scouts are at most this share of the series.
_STRAY = 0.1
# Degrees; less is rounding.
_TILT = 0.1
_SAME = 1e-2
_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


@dataclass(frozen=True, slots=True, eq=False)
class Stack:
    """Which planes make a volume, and how.

    Attributes
    ----------
    order : tuple of int
        Positions of the planes in what was given, in the direction of their normal.
    places : tuple of float
        Where each lies on the grid of the volume's third axis: 0, 1, 2, ... where none is missing and none is shifted.
    depth : int
        Voxels along the third axis.
    affine : ndarray
        (4, 4) RAS+ millimetres of (column, row, slice).
    findings : dict of str to str
        See `osler.items.Volume`.
    """

    order: tuple[int, ...]
    places: tuple[float, ...]
    depth: int
    affine: NDArray[np.float64]
    findings: dict[str, str]


def stack_of(
    planes: Sequence[Plane],
    shapes: Sequence[tuple[int, int]],
    *,
    gaps: Gaps = "refuse",
    time: int | None = None,
    same: Callable[[int, int], bool] = lambda one, other: False,
) -> Stack:
    """Find the one stack that some planes are.

    Left out, and told in the findings: localizers beside other slices; a few slices of another orientation, size or
    spacing; copies of a slice. A gantry tilt is told, and stays in the affine.

    Parameters
    ----------
    planes : sequence of Plane
    shapes : sequence of tuple of int
        Rows and columns of each.
    gaps : {"refuse", "fill"}
        Whether missing slices and uneven distances are an error, or values between neighbours.
    time : int, optional
        Which of several images of each place; they are refused without it.
    same : callable
        Tells whether two planes of one place have the same pixels.

    Returns
    -------
    Stack

    Raises
    ------
    SourceError
        ``no_geometry``, ``mixed_orientations``, ``one_slice``, ``several_volumes``, ``duplicate_positions``,
        ``missing_slices`` or ``irregular_spacing``; the message says how many, and where in millimetres along the
        axis of the patient that is nearest to the normal.

    Examples
    --------
    >>> from osler.decode.planes import Plane
    >>> from osler.decode.stack import stack_of
    >>> axial = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
    >>> planes = [Plane(axial, (-9.0, -8.0, z), (0.5, 0.5), 2.0, False, (z,)) for z in (6.0, 2.0, 4.0)]
    >>> stack = stack_of(planes, [(64, 64)] * 3)
    >>> stack.order, stack.depth, stack.affine[:3, 3].tolist()
    ((1, 2, 0), 3, [9.0, 8.0, 2.0])
    """
    findings: dict[str, str] = {}
    members = _alike(planes, shapes, findings)
    normal = np.cross(planes[members[0]].orientation[:3], planes[members[0]].orientation[3:])
    normal = normal / np.linalg.norm(normal)
    members = _one_each(planes, members, normal, time, same, findings)
    points = np.array([planes[i].position for i in members])
    along = points @ normal
    if len(members) < 2:
        raise SourceError(
            "only one slice is there, and a volume has two or more; use an encoder of pictures", code="one_slice"
        )
    places, depth = _grid(along, gaps, findings, _facing(normal))
    step = (points[-1] - points[0]) / places[-1]
    _check_line(points, places, step, normal, planes[members[0]].spacing)
    angle = float(np.degrees(np.arccos(np.clip(step @ normal / np.linalg.norm(step), -1.0, 1.0))))
    if angle > _TILT:
        findings["gantry_tilt"] = (
            f"the slices are tilted by {angle:.1f} degrees against the axis along which they are stacked; the affine "
            "of the volume is sheared"
        )
    else:
        step = normal * float(step @ normal)
    return Stack(tuple(members), places, depth, _affine(planes[members[0]], points[0], step), findings)


def volume_of(stack: Stack, frames: Sequence[NDArray[Any]], *, unit: str = "") -> Volume:
    """Put the frames of a stack together.

    Parameters
    ----------
    stack : Stack
    frames : sequence of ndarray
        (rows, columns), as many as there were planes.
    unit : str
        See `osler.items.Volume`.

    Returns
    -------
    Volume
        (columns, rows, slices); whole numbers stay so where no value lies between two slices.

    Examples
    --------
    >>> import numpy as np
    >>> from osler.decode.planes import Plane
    >>> from osler.decode.stack import stack_of, volume_of
    >>> planes = [Plane((1, 0, 0, 0, 1, 0), (0, 0, z), (0.5, 0.5), 2.0, False, ()) for z in (2.0, 0.0)]
    >>> stack = stack_of(planes, [(4, 6)] * 2)
    >>> volume = volume_of(stack, [np.full((4, 6), value, np.int16) for value in (1, 2)])
    >>> volume.shape, volume.array[0, 0].tolist(), volume.spacing
    ((6, 4, 2), [2, 1], (0.5, 0.5, 2.0))
    """
    slices = [frames[i] for i in stack.order]
    even = all(place == at for at, place in enumerate(stack.places)) and stack.depth == len(slices)
    kind = np.result_type(*{frame.dtype for frame in slices}, *([] if even else [np.float32]))
    values = np.empty((stack.depth, *slices[0].shape), kind)
    after = 0
    for at in range(stack.depth):
        while stack.places[after] < at and after + 1 < len(slices):
            after += 1
        before = max(after - 1, 0)
        gap = stack.places[after] - stack.places[before]
        share = (at - stack.places[before]) / gap if gap else 0.0
        if even or share >= 1.0:
            values[at] = slices[after]
        else:
            values[at] = slices[before] * np.float32(1.0 - share) + slices[after] * np.float32(share)
    return Volume(values.transpose(2, 1, 0), stack.affine, units=unit, findings=stack.findings)


def _alike(planes: Sequence[Plane], shapes: Sequence[tuple[int, int]], findings: dict[str, str]) -> list[int]:
    """Return the planes of the one orientation, size and spacing that a series has, or say that it has several."""
    members = [i for i, plane in enumerate(planes) if not plane.localizer]
    if members and len(members) < len(planes):
        count = len(planes) - len(members)
        findings["localizers_left_out"] = f"{_slices(count)} of a localizer {_were(count)} left out"
    members = members or list(range(len(planes)))
    unknown = [i for i in members if not (planes[i].orientation and planes[i].position and planes[i].spacing)]
    if unknown:
        raise SourceError(
            f"{len(unknown)} of {len(members)} slices state no position, orientation or pixel spacing, so where they "
            "lie is not known; convert the series to NIfTI with a program that knows its scanner",
            code="no_geometry",
        )
    kinds: list[list[int]] = []
    for i in members:
        kind = next((kind for kind in kinds if _fit(planes, shapes, kind[0], i)), None)
        if kind is None:
            kinds.append([i])
        else:
            kind.append(i)
    kinds.sort(key=len, reverse=True)
    stray = len(members) - len(kinds[0])
    if stray > _STRAY * len(members):
        counts = " and ".join(filter(None, (", ".join(str(len(kind)) for kind in kinds[:-1]), str(len(kinds[-1])))))
        raise SourceError(
            f"the series mixes {len(kinds)} orientations, sizes or spacings, of {counts} slices; split it into series "
            "of one kind",
            code="mixed_orientations",
        )
    if stray:
        findings["strays_left_out"] = (
            f"{_slices(stray)} of another orientation, size or spacing {_were(stray)} left out"
        )
    return kinds[0]


def _fit(planes: Sequence[Plane], shapes: Sequence[tuple[int, int]], one: int, other: int) -> bool:
    a, b = planes[one], planes[other]
    turned = np.abs(np.subtract(a.orientation, b.orientation)).max() > _SAME
    scaled = np.abs(np.divide(a.spacing, b.spacing) - 1.0).max() > _SAME
    return shapes[one] == shapes[other] and not turned and not scaled


def _one_each(
    planes: Sequence[Plane],
    members: Sequence[int],
    normal: NDArray[Any],
    time: int | None,
    same: Callable[[int, int], bool],
    findings: dict[str, str],
) -> list[int]:
    """Return one plane a place, in the direction of the normal."""
    along = {i: float(normal @ planes[i].position) for i in members}
    near = _SAME * min(planes[members[0]].spacing)
    places: list[list[int]] = []
    for i in sorted(members, key=lambda i: (along[i], planes[i].order)):
        if places and along[i] - along[places[-1][0]] < near:
            places[-1].append(i)
        else:
            places.append([i])
    copies = 0
    for place in places:
        for i in place[1:]:
            if any(same(other, i) for other in place[: place.index(i)]):
                place.remove(i)
                copies += 1
    if copies:
        findings["copies_left_out"] = f"{_slices(copies)} {_were(copies)} left out as copies of others"
    counts = {len(place) for place in places}
    if counts == {1} and time in (None, 0):
        return [place[0] for place in places]
    if len(counts) > 1:
        first = next(place for place in places if len(place) > 1)
        raise SourceError(
            f"{sum(len(place) > 1 for place in places)} of {len(places)} places of the series hold more than one "
            f"image, the first at {_facing(normal) * along[first[0]]:.1f} mm; split the series into volumes",
            code="duplicate_positions",
        )
    (count,) = counts
    if time is None:
        raise SourceError(
            f"the series holds {count} images of each of its {len(places)} places (times, echoes or directions); read "
            "one of them with osler.decode.read_volume(folder, time=0) and pass that",
            code="several_volumes",
        )
    if not 0 <= time < count:
        raise SourceError(
            f"time is {time}, and the series holds {count} volumes; give a number from 0 to {count - 1}",
            code="several_volumes",
        )
    return [sorted(place, key=lambda i: planes[i].order)[time] for place in places]


def _facing(normal: NDArray[Any]) -> float:
    """Return 1 or -1: positions are told along the axis of the patient that is nearest to the normal."""
    return float(np.sign(normal[np.abs(normal).argmax()]))


def _grid(along: NDArray[Any], gaps: Gaps, findings: dict[str, str], facing: float) -> tuple[tuple[float, ...], int]:
    """Return where slices lie on an even grid, and how long it is."""
    distances = np.diff(along)
    step = float(np.median(distances))
    steps = np.maximum(np.rint(distances / step), 1.0)
    count = int(steps.sum())
    ideal = np.concatenate([[0.0], np.cumsum(steps)])
    even, start = np.polyfit(ideal, along, 1)
    wide = np.flatnonzero(steps > 1)
    if np.abs((along - start) / even - ideal).max() > _UNEVEN or len(wide) > max(1, _FEW * len(steps)):
        words = f"the slices lie {distances.min():.2f} to {distances.max():.2f} mm apart"
        count = max(1, round((along[-1] - along[0]) / step))
        places = (along - along[0]) / (along[-1] - along[0]) * count
        _gap(gaps, findings, "irregular_spacing", words, f"they were brought to {step:.2f} mm")
        return tuple(float(place) for place in places), count + 1
    missing = count + 1 - len(along)
    if missing:
        low, high = sorted(facing * along[wide[0] : wide[0] + 2])
        more = (
            f", and in {len(wide) - 1} more gaps" if len(wide) > 2 else ", and in 1 more gap" if len(wide) > 1 else ""
        )
        words = (
            f"{missing} of {count + 1} slices {'are' if missing > 1 else 'is'} missing, the first between "
            f"{low:.1f} and {high:.1f} mm{more}"
        )
        _gap(gaps, findings, "missing_slices", words, "what is missing was filled between its neighbours")
    return tuple(float(place) for place in ideal), count + 1


def _gap(gaps: Gaps, findings: dict[str, str], code: str, words: str, done: str) -> None:
    if gaps == "refuse":
        raise SourceError(
            f"{words}; get the whole series, or pass gaps='fill' to take values between neighbours", code=code
        )
    findings[code] = f"{words}; {done}"


def _check_line(
    points: NDArray[Any],
    places: Sequence[float],
    step: NDArray[Any],
    normal: NDArray[Any],
    spacing: Sequence[float],
) -> None:
    """Refuse slices that are shifted against one another within their planes."""
    beside = points - points[0] - np.outer(places, step)
    beside -= np.outer(beside @ normal, normal)
    furthest = float(np.sqrt((beside**2).sum(axis=1)).max())
    if furthest > max(spacing):
        raise SourceError(
            f"the slices are shifted by up to {furthest:.1f} mm within their planes, so they are no stack; split the "
            "series, or convert it to NIfTI with a program that knows its scanner",
            code="irregular_spacing",
        )


def _affine(plane: Plane, origin: NDArray[Any], step: NDArray[Any]) -> NDArray[np.float64]:
    affine = np.eye(4)
    affine[:3, 0] = np.array(plane.orientation[:3]) * plane.spacing[1]
    affine[:3, 1] = np.array(plane.orientation[3:]) * plane.spacing[0]
    affine[:3, 2] = step
    affine[:3, 3] = origin
    return _LPS_TO_RAS @ affine


def _slices(count: int) -> str:
    return "1 slice" if count == 1 else f"{count} slices"


def _were(count: int) -> str:
    return "was" if count == 1 else "were"
