"""One tower of an encoder, open in this process: prepares single inputs, runs batches of them.

Opens the files of its manifest, checked, and one session. `prepare` may run in any thread.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np

from osler.encoders.convert import cached_model
from osler.encoders.files import read_checked
from osler.encoders.geometry import geometry_of
from osler.encoders.golden import golden_cosines
from osler.encoders.manifest import ImageTower, TextTower
from osler.encoders.patch_tokens import pool_tokens, token_shares
from osler.encoders.pooling import Map, pool, unit
from osler.encoders.preprocess import apply_recipe, read_picture
from osler.encoders.providers import Device
from osler.encoders.recipe import Step
from osler.encoders.registry import Placed
from osler.encoders.session import Session
from osler.encoders.tokenize import Tokenizer, Tokens, padded
from osler.encoders.volume_recipe import VolumeStep
from osler.encoders.volume_steps import apply_volume_recipe, read_volume_input
from osler.errors import EncoderError
from osler.items import MaskedPicture, Volume

__all__ = ["OpenImageTower", "OpenTextTower", "OpenTower", "OpenVolumeTower", "open_tokenizer", "open_tower"]


class OpenTower(ABC):
    """What all kinds of tower share: the session, the projections, the rows of a run."""

    # How many inputs are prepared at once: decoding gains little beyond this, and each holds a picture.
    readers = 8
    # The least that a GPU is given at once; more than fits is halved.
    on_device = 64

    def __init__(self, placed: Placed, device: Device, content: bytes) -> None:
        tower = placed.tower
        external = {name: read_checked(file, placed.folder) for name, file in tower.external_names.items()}
        self.placed = placed
        self.session = Session(content, device, external, half=tower.precision == "fp16")
        self.maps = [Map.from_npz(read_checked(projection.file, folder)) for projection, folder in placed.projections]

    def batch_size(self, asked: int | None) -> int:
        """Return how many rows a run takes."""
        tower = self.placed.tower
        if tower.rows_interact:
            return 1
        # small batches stay in the caches of a processor, and leave a device idle
        return asked or (tower.batch_size if self.session.device == "cpu" else max(tower.batch_size, self.on_device))

    @abstractmethod
    def prepare(self, value: Any, place: str, kept: dict[int, Any] | None = None) -> Any:
        """Turn one input into what `run` takes; `kept` is of one call, for what several of its inputs share."""

    @abstractmethod
    def run(self, prepared: Sequence[Any]) -> np.ndarray:
        """Return unit rows (n, d) for prepared inputs."""

    def _fill(self, rows: int, fixed: int | None) -> int:
        """Return how many rows must be fed for `rows` to come out, where the graph may fix the batch."""
        if fixed is not None and rows > fixed:
            raise EncoderError(f"the model takes batches of {fixed}; pass batch_size={fixed} or less")
        return fixed or (_bucket(rows) if self.session.few_shapes else rows)

    def _vectors(self, pooled: np.ndarray) -> np.ndarray:
        vectors = unit(pooled)
        for projection in self.maps:
            vectors = projection(vectors)
        return vectors


@dataclass(frozen=True, slots=True, eq=False)
class _Region:
    """A prepared picture, and what gives the share of each token of a grid that is asked for."""

    array: np.ndarray
    shares: Callable[[int, int], np.ndarray]

    @property
    def nbytes(self) -> int:
        """Bytes of the picture."""
        return self.array.nbytes


class OpenImageTower(OpenTower):
    """Pictures, and regions of pictures under masks, to vectors."""

    _axes = 4

    def __init__(self, placed: Placed, device: Device, content: bytes) -> None:
        super().__init__(placed, device, content)
        tower = placed.tower
        assert isinstance(tower, ImageTower)
        self.tower = tower
        self.session.require({tower.input}, tower.output, (2, self._axes) if tower.pooling == "none" else (3,))
        if tower.classes is not None:
            self.session.require({tower.input}, tower.classes.output, (2,))
        if tower.tokens is not None:
            self.session.require({tower.input}, tower.tokens.output, (4,) if tower.tokens.grid is None else (3,))
        self._shape = self.session.shape(tower.input, self._axes)

    def batch_size(self, asked: int | None) -> int:
        """Return how many rows a run takes; a graph may fix it."""
        return self._shape[0] or super().batch_size(asked)

    def prepare(self, value: Any, place: str, kept: dict[int, Any] | None = None) -> Any:
        """Read one picture and run the recipe; (C, H, W) or (H, W, C) as the layout says, or what `run` knows."""
        if isinstance(value, MaskedPicture):
            return self._region(value, place, {} if kept is None else kept)
        if isinstance(value, Volume):
            raise ValueError(
                f"{place} is a volume, and the encoder {self.placed.manifest.name} takes pictures; use "
                "encode_volumes, which encodes its slices and pools them"
            )
        return self._applied(read_picture(value, place), place)

    def _applied(self, picture: np.ndarray, place: str) -> np.ndarray:
        array = apply_recipe(cast(tuple[Step, ...], self.tower.recipe), picture, place)
        if self.tower.layout == "NCHW":
            array = np.ascontiguousarray(array.transpose(2, 0, 1))
        return self._fitting(array)

    def _fitting(self, array: np.ndarray) -> np.ndarray:
        if any(side not in (None, given) for side, given in zip(self._shape[1:], array.shape, strict=True)):
            raise EncoderError(
                f"the recipe gives {array.shape}, the model takes {tuple(self._shape[1:])}; correct manifest.json"
            )
        return array

    def _region(self, value: MaskedPicture, place: str, kept: dict[int, Any]) -> _Region:
        tokens = self.tower.tokens
        if tokens is None:
            raise ValueError(
                f"{place} is a region under a mask, and the encoder {self.placed.manifest.name} gives no patch tokens; "
                "crop the region instead"
            )
        picture, mask = read_picture(value.picture, place), np.asarray(value.mask)
        height, width = picture.shape[:2]
        left, top, right, bottom = box = value.box or (0, 0, width, height)
        inside = 0 <= left < right <= width and 0 <= top < bottom <= height
        if not inside or mask.shape != (bottom - top, right - left) or mask.dtype.kind not in "bui":
            raise ValueError(
                f"the mask of {place} has shape {mask.shape} and type {mask.dtype}, its box is {box}, and the picture "
                f"is {(height, width)}; give one of its size, or of a box inside it, of bool or of whole numbers"
            )
        # Regions of one picture share its run as they share this array.
        last = kept.get(0)
        if last is not None and last[0] is value.picture:
            array = last[1]
        else:
            array = self._applied(picture, place)
            if isinstance(value.picture, np.ndarray) and not value.picture.flags.writeable:
                kept[0] = (value.picture, array)
        whole = geometry_of(cast(tuple[Step, ...], self.tower.recipe), height, width)
        geometry = replace(whole, top=whole.top + top * whole.scale_y, left=whole.left + left * whole.scale_x)

        def shares(rows: int, columns: int) -> np.ndarray:
            found = token_shares(mask, geometry, rows, columns)
            if not found.any():
                raise ValueError(
                    f"the mask of {place} has nothing in what the model saw of it: it is empty, or cropped away"
                )
            return found

        grid = tokens.grid or self.session.sides(tokens.output)[2:]
        if None not in grid:  # here, in a thread that prepares, and the mask need not be held
            found = shares(*cast(tuple[int, int], tuple(grid)))
            return _Region(array, lambda rows, columns: found)
        return _Region(array, shares)

    def run(self, prepared: Sequence[Any]) -> np.ndarray:
        """Return unit rows (n, d)."""
        if any(isinstance(one, _Region) for one in prepared):
            return self._vectors(self._with_regions(prepared))
        return self._vectors(self._pooled(self._outputs(prepared, [self.tower.output])[0]))

    def _pooled(self, output: np.ndarray) -> np.ndarray:
        if output.ndim > 3:  # (n, d, 1, 1) of a global pooling that keeps its axes
            output = output.reshape(len(output), -1)
        return pool(output, self.tower.pooling, None)

    def _with_regions(self, prepared: Sequence[Any]) -> np.ndarray:
        """Return rows (n, d) of pictures and of regions; each picture is run once."""
        assert self.tower.tokens is not None
        arrays = [one.array if isinstance(one, _Region) else one for one in prepared]
        once = {id(array): array for array in arrays}
        rows = {key: row for row, key in enumerate(once)}
        output, found = self._outputs(list(once.values()), [self.tower.output, self.tower.tokens.output])
        whole, tokens = self._pooled(output), self._on_grid(found)
        return np.stack(
            [
                pool_tokens(tokens[row], one.shares(*tokens.shape[1:3])) if isinstance(one, _Region) else whole[row]
                for one, row in zip(prepared, (rows[id(array)] for array in arrays), strict=True)
            ]
        )

    def tokens(self, prepared: Sequence[np.ndarray]) -> np.ndarray:
        """Return the patch tokens of prepared pictures as the graph gives them; see `manifest.Tokens`."""
        assert self.tower.tokens is not None
        return self._outputs(prepared, [self.tower.tokens.output])[0]

    def _on_grid(self, found: np.ndarray) -> np.ndarray:
        """Return the tokens as (n, rows, columns, d)."""
        tokens = self.tower.tokens
        assert tokens is not None
        if tokens.grid is None:
            return np.moveaxis(found, 1, -1)
        rows, columns = tokens.grid
        if found.shape[1] != tokens.skip + rows * columns:
            raise EncoderError(
                f"the model gives {found.shape[1]} tokens, and tokens of manifest.json has {tokens.skip} and "
                f"{rows} x {columns}; correct it"
            )
        return found[:, tokens.skip :].reshape(len(found), rows, columns, -1)

    def class_scores(self, prepared: Sequence[np.ndarray]) -> np.ndarray:
        """Return the scores (n, classes) of the classifier that the manifest names."""
        classes = self.tower.classes
        assert classes is not None
        if any(isinstance(one, _Region) for one in prepared):
            raise ValueError("the classifier looks at whole pictures; crop the region instead of masking it")
        scores = self._outputs(prepared, [classes.output])[0]
        if scores.shape[1] != len(classes.names):
            raise EncoderError(
                f"the model scores {scores.shape[1]} classes, manifest.json names {len(classes.names)}; correct it"
            )
        return scores

    def _outputs(self, prepared: Sequence[np.ndarray], names: list[str]) -> list[np.ndarray]:
        if len({array.shape for array in prepared}) > 1:
            each = [self._outputs([array], names) for array in prepared]
            return [np.concatenate(rows) for rows in zip(*each, strict=True)]
        rows = len(prepared)
        batch = np.zeros((self._fill(rows, self._shape[0]), *prepared[0].shape), dtype=prepared[0].dtype)
        np.stack(prepared, out=batch[:rows])
        return [found[:rows] for found in self.session.run_all({self.tower.input: batch}, names)]


class OpenVolumeTower(OpenImageTower):
    """Volumes to vectors."""

    on_device = 1
    _axes = 5
    # A scan takes some hundred megabytes while it is prepared, and some gigabytes while it is run.
    readers = 2

    def __init__(self, placed: Placed, device: Device, content: bytes) -> None:
        super().__init__(placed, device, content)
        self.session.lanes = 1

    def prepare(self, value: Any, place: str, kept: dict[int, Any] | None = None) -> np.ndarray:
        """Read one volume and run the recipe; (C, D, H, W)."""
        steps = cast(tuple[VolumeStep, ...], self.tower.recipe)
        return self._fitting(apply_volume_recipe(steps, read_volume_input(value, place), place))


class OpenTextTower(OpenTower):
    """Texts to vectors."""

    def __init__(self, placed: Placed, device: Device, content: bytes) -> None:
        super().__init__(placed, device, content)
        tower = placed.tower
        assert isinstance(tower, TextTower)
        self.tower = tower
        self.tokenizer = open_tokenizer(placed)
        names = {name for name in (tower.inputs.ids, tower.inputs.mask, tower.inputs.types) if name is not None}
        for output in (tower.output, *tower.layers):
            self.session.require(names, output, (2,) if tower.pooling == "none" else (3,))
        self._shapes = [self.session.shape(name, 2) for name in sorted(names)]

    def batch_size(self, asked: int | None) -> int:
        """Return how many rows a run takes; a graph may fix it."""
        return self._shapes[0][0] or super().batch_size(asked)

    def prepare(self, value: Any, place: str, kept: dict[int, Any] | None = None) -> Tokens:
        """Tokenize one text."""
        return self.tokenizer(value, place)

    def run(self, prepared: Sequence[Tokens]) -> np.ndarray:
        """Return unit rows (n, d)."""
        rows, inputs = len(prepared), self.tower.inputs
        fed = self._fill(rows, self._shapes[0][0])
        longest = max(len(tokens.ids) for tokens in prepared)
        widest = min(_bucket(longest), self.tower.max_length) if self.session.few_shapes else longest
        width = self._shapes[0][1] or (self.tower.max_length if self.tower.pad_to_max else widest)
        if longest > width:
            raise EncoderError(
                f"the model takes {width} tokens, max_length in manifest.json allows {longest}; correct it"
            )
        ids, mask, types = padded(prepared, width, self.tokenizer.pad_id, fed)
        named = ((inputs.ids, ids), (inputs.mask, mask), (inputs.types, types))
        feeds = {name: array for name, array in named if name is not None}
        outputs = self.session.run_all(feeds, [self.tower.output, *self.tower.layers])
        output = outputs[0] if len(outputs) == 1 else np.asarray(np.mean(outputs, axis=0, dtype=np.float32))
        return self._vectors(pool(output[:rows], self.tower.pooling, mask[:rows], ids[:rows], self.tower.pool_id))


def _bucket(count: int) -> int:
    """Return the power of two that holds the count, so that a device sees few different shapes."""
    return 1 << (count - 1).bit_length()


def open_tokenizer(placed: Placed) -> Tokenizer:
    """Open the tokenizer of a text tower, without its model.

    Parameters
    ----------
    placed : Placed

    Returns
    -------
    Tokenizer

    Raises
    ------
    EncoderError
        Its file is missing or changed, or does not fit the pooling of the manifest.
    """
    tower = placed.tower
    assert isinstance(tower, TextTower)
    tokenizer = Tokenizer(read_checked(tower.tokenizer, placed.folder), tower.max_length, tower.clean, tower.pad_id)
    _check_pool_id(tower, tokenizer)
    return tokenizer


def _check_pool_id(tower: TextTower, tokenizer: Tokenizer) -> None:
    """Refuse a token to pool at that is not in every text, or that the greatest id of a text might not be."""
    if tower.pool_id is None:
        return
    if tower.pool_id not in tokenizer("a", "a text").ids:
        raise EncoderError(f"the tokenizer does not put token {tower.pool_id} into a text; correct pool_id")
    if tower.pooling == "eot" and max(tokenizer.largest_id, tokenizer.pad_id) > tower.pool_id:
        raise EncoderError(
            f"pooling 'eot' takes the greatest id of a text, and the tokenizer has ids above {tower.pool_id}; use "
            "pooling 'eos', or the tokenizer that the model was trained with"
        )


def open_tower(placed: Placed, device: Device) -> OpenTower:
    """Open a tower, converting its model first if it must be.

    Parameters
    ----------
    placed : Placed
    device : {"auto", "cpu", "cuda", "tensorrt"}

    Returns
    -------
    OpenTower

    Raises
    ------
    EncoderError
        A file is missing or changed, a converted model fails its golden vectors, or the session cannot be opened.
    """
    kind: type[OpenTower] = OpenTextTower
    if isinstance(placed.tower, ImageTower):
        kind = OpenVolumeTower if placed.tower.takes == "volume" else OpenImageTower

    def verify(content: bytes) -> dict[str, float]:
        lender = Placed(placed.tower, placed.manifest, placed.folder)
        candidate = kind(lender, "cpu", content)
        name = "image" if isinstance(placed.tower, ImageTower) else "text"

        def encode(inputs: list[Any]) -> np.ndarray:
            return np.concatenate([candidate.run([candidate.prepare(x, f"{name} {i}")]) for i, x in enumerate(inputs)])

        found = min(golden_cosines(placed.manifest, placed.folder, name, encode))
        needed = placed.manifest.golden.cosine if placed.manifest.golden else 1.0
        if found < needed:
            raise EncoderError(
                f"the converted model of {placed.manifest.name} has cosine {found:.6f} with its golden vectors, "
                f"{needed} is needed; please report it with the versions of onnx and onnxruntime",
                code="golden_mismatch",
            )
        return {"golden_cosine": found}

    if placed.tower.converter is None:
        content = read_checked(placed.tower.file, placed.folder)
    else:
        content = cached_model(placed.tower, placed.folder, placed.manifest.name, verify)
    return kind(placed, device, content)
