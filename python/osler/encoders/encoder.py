"""Encoder: pictures and texts to unit vectors, in batches, reading the next ones while the model runs.

Holds one open tower for each modality and process; opens nothing before the first use.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal, cast, get_args

import numpy as np

from osler.decode.volumes import Axis, Slices
from osler.encoders.batches import prepared_batches, run_batches
from osler.encoders.files import read_checked
from osler.encoders.long_texts import Long, LongTexts
from osler.encoders.manifest import ImageTower, Manifest, SlicePooling
from osler.encoders.providers import Device
from osler.encoders.registry import Description, Placed, describe, ensure_ready
from osler.encoders.slices import Learned, Pooling, pooler
from osler.encoders.tokenize import Tokenizer
from osler.encoders.tower import OpenImageTower, OpenTextTower, OpenTower, open_tokenizer, open_tower
from osler.encoders.volume_steps import read_volume_input
from osler.errors import EncoderError
from osler.items import Volume
from osler.progress import Callback, track

__all__ = ["Encoder", "load_encoder"]


class _Opened:
    """What belongs to one process."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        self.lock = threading.Lock()
        self.towers: dict[str, OpenTower] = {}
        self.tokenizer: Tokenizer | None = None
        self.pooler: Learned | None = None


class Encoder:
    """Images and texts to unit vectors of one space; made by `load_encoder`.

    May be used from any number of threads. A forked child opens sessions of its own, on the CPU if its parent uses the
    GPU, since CUDA does not survive a fork: start such workers by spawn. Pickling stores the address and the device.

    Attributes
    ----------
    name : str
    dim : int
    modalities : tuple of str
        "image", "text" or both.
    classes : tuple of str
        Of a classifier on top of the image tower, see `class_scores`; empty for most encoders.
    fingerprint : str
        SHA-256 over all that shapes a vector; equal fingerprints give vectors that may be compared.
    manifest : Manifest
    logit_scale, logit_bias : float or None
        For a softmax over texts; None where the encoder is no image-text pair.

    Examples
    --------
    >>> import osler
    >>> encoder = osler.load_encoder("minilm")
    >>> a, b, c = encoder.encode_texts(["pneumothorax", "collapsed lung", "broken leg"])
    >>> bool(a @ b > a @ c)
    True
    """

    def __init__(self, description: Description, device: Device = "auto") -> None:
        self._description = description
        self._asked = device
        self._opened = _Opened()

    def __reduce__(self) -> tuple[Any, ...]:
        return load_encoder, (self._description.address, self._asked)

    def __repr__(self) -> str:
        manifest = self.manifest
        return f"<osler.Encoder {manifest.name}: {' and '.join(manifest.modalities)}, dim {manifest.dim}>"

    @property
    def name(self) -> str:
        """Name in the registry, or in the folder's manifest."""
        return self.manifest.name

    @property
    def dim(self) -> int:
        """Length of a vector."""
        return self.manifest.dim

    @property
    def modalities(self) -> tuple[str, ...]:
        """Which of "image" and "text" it takes."""
        return self.manifest.modalities

    @property
    def fingerprint(self) -> str:
        """SHA-256 over all that shapes a vector, in hexadecimal."""
        return self._description.fingerprint

    @property
    def manifest(self) -> Manifest:
        """What manifest.json says."""
        return self._description.manifest

    @property
    def address(self) -> str:
        """What `load_encoder` takes to find it again: a name of the registry, or an absolute folder."""
        return self._description.address

    @property
    def folder(self) -> Path:
        """Where manifest.json lies."""
        return self._description.folder

    @property
    def logit_scale(self) -> float | None:
        """Factor of the cosine before a softmax over texts."""
        return self.manifest.logit_scale

    @property
    def logit_bias(self) -> float | None:
        """Added after `logit_scale`, for a sigmoid."""
        return self.manifest.logit_bias

    @property
    def device(self) -> str:
        """What really runs, as "cpu" or "cuda", both where the towers differ; opens what is not open yet."""
        return " and ".join(sorted(set(self.devices.values())))

    @property
    def devices(self) -> dict[str, str]:
        """What really runs of each modality's tower."""
        return {kind: self.device_of(kind) for kind in self.modalities}

    def device_of(self, kind: str) -> str:
        """Return what really runs the tower for "image" or "text"; opens it if it is not open yet.

        Examples
        --------
        >>> import osler
        >>> osler.load_encoder("minilm", device="cpu").device_of("text")
        'cpu'
        """
        return self._tower(kind).session.device

    def encode_images(
        self, images: Iterable[Any], batch_size: int | None = None, progress: bool | Callback = False
    ) -> np.ndarray:
        """Encode pictures; or volumes, where `takes` says so.

        Parameters
        ----------
        images : iterable
            Paths (DICOM, PNG, JPEG, TIFF, BMP, each of one frame), PIL images, or arrays (H, W) or (H, W, 3) of uint8,
            uint16 (0..65535) or float (0..1; other ranges are spread between their extremes). The same picture gives
            the same vector in each form. For an encoder of volumes: `osler.items.Volume`, paths of NIfTI files and of
            multi-frame DICOM files, folders with one DICOM series, or lists of its files. Where `gives_tokens` says so,
            also `osler.items.MaskedPicture`: the mean of the patch tokens under a mask, each counted by the share of
            its patch that is under it; several of one read-only array share a run of the model.
        batch_size : int, optional
            Pictures in one run of the model; by default the manifest's.
        progress : bool or callable
            See `osler.progress.track`.

        Returns
        -------
        ndarray
            (n, dim) float32, unit rows in the order given.

        Raises
        ------
        ValueError
            The encoder has no image tower; or a picture has several frames, a wrong shape or type, no pixels, or NaN;
            or a volume was passed to an encoder of pictures; or the encoder gives no tokens, or a mask is not of its
            picture's size or has nothing in what the model saw.
        TypeError
            One picture was passed instead of several, or something else.
        FileNotFoundError, SourceError
            A file is missing or cannot be read; the message says which by its position.
        EncoderError
            The model cannot be opened or fails.

        Examples
        --------
        >>> import numpy as np, osler
        >>> encoder = osler.load_encoder("efficientnet-lite0")
        >>> encoder.encode_images([np.zeros((64, 48), dtype=np.uint8)]).shape
        (1, 1280)
        """
        listed, slices = _pictures(images), self.manifest.slices
        if slices is None:
            return self._encode("image", listed, batch_size, progress)
        return self._pooled(listed, self._pooler(slices), slices.axis, slices.window, batch_size, progress)

    @property
    def gives_tokens(self) -> bool:
        """Whether `encode_images` takes `osler.items.MaskedPicture`: the model gives its patch tokens too."""
        placed = self._description.image
        return placed is not None and getattr(placed.tower, "tokens", None) is not None and not self.manifest.slices

    @property
    def takes(self) -> Literal["picture", "volume"]:
        """What one image is: a picture, or a whole volume for a 3-D encoder and for one that pools slices."""
        placed = self._description.image
        if self.manifest.slices is not None:
            return "volume"
        return placed.tower.takes if placed is not None and isinstance(placed.tower, ImageTower) else "picture"

    def encode_volumes(
        self,
        volumes: Iterable[Any],
        pooling: Pooling | str | os.PathLike[str] = "mean",
        *,
        axis: Axis = "axial",
        window: tuple[float, float] | None = None,
        batch_size: int | None = None,
        progress: bool | Callback = False,
    ) -> np.ndarray:
        """Encode volumes with an encoder of pictures: every slice along an axis, pooled to one vector.

        Parameters
        ----------
        volumes : iterable
            `osler.items.Volume`, paths of NIfTI files and of multi-frame DICOM files, folders with one DICOM series,
            or lists of its files.
        pooling : {"mean", "median", "max", "std"}, or path
            A statistic of the slices' vectors, see `osler.encoders.slices.pool_slices`, or a pooling network, an ONNX
            file or a folder with one: (n_slices, d) to (d,).
        axis : {"axial", "coronal", "sagittal"}
            See `osler.decode.volumes.Slices` for how slices are turned and ordered.
        window : tuple of float, optional
            Values that are black and white, such as (-160, 240) in Hounsfield units; by default the 0.5th and the
            99.5th percentile of each volume.
        batch_size : int, optional
            Slices in one run of the model; by default the manifest's.
        progress : bool or callable
            See `osler.progress.track`.

        Returns
        -------
        ndarray
            (n, d) float32, unit rows in the order given; d is the encoder's unless a pooling network gives another.

        Raises
        ------
        ValueError
            The encoder takes volumes itself, `pooling`, `axis` or `window` is not one of these, or pooling gives zero.
        TypeError
            One volume was passed instead of several, or something else.
        FileNotFoundError, SourceError
            A file is missing or is no volume that can be read; the message says which by its position.
        EncoderError
            The model or the pooling network cannot be opened or fails.

        Examples
        --------
        >>> import numpy as np, osler
        >>> from osler.items import Volume
        >>> encoder = osler.load_encoder("efficientnet-lite0")
        >>> scan = Volume(np.random.default_rng(0).integers(-1000, 1000, (32, 32, 3)), np.diag([-0.8, -0.8, 5, 1]))
        >>> encoder.encode_volumes([scan], "median", window=(-160, 240)).shape
        (1, 1280)
        """
        if self.takes == "volume":
            raise ValueError(
                f"the encoder {self.name} takes volumes itself; use encode_images, which encodes them whole"
            )
        if isinstance(volumes, str | os.PathLike | Volume):
            raise TypeError("volumes is a single volume; pass a list, as encode_volumes([volume])")
        return self._pooled(_sequence(volumes), pooler(pooling, self._asked), axis, window, batch_size, progress)

    def _pooled(
        self,
        volumes: Sequence[Any],
        pool: Callable[[np.ndarray, str], np.ndarray],
        axis: Axis,
        window: tuple[float, float] | None,
        batch_size: int | None,
        progress: bool | Callback,
    ) -> np.ndarray:
        self._check("image", batch_size)
        rows = []
        with track(progress, "encoding volumes", len(volumes)) as step:
            for number, one in enumerate(volumes):
                slices = Slices(read_volume_input(one, f"volume {number}"), axis, window)

                # who asks to stop is heard within a volume
                def within(done: int, total: int, number: int = number) -> None:
                    step(number, len(volumes))

                rows.append(pool(self._encode("image", slices, batch_size, within), f"volume {number}"))
                step(number + 1, len(volumes))
        return np.stack(rows) if rows else np.empty((0, self.dim), np.float32)

    def _pooler(self, slices: SlicePooling) -> Callable[[np.ndarray, str], np.ndarray]:
        """Return what pools the slices as the manifest says; a network is opened once a process."""
        if slices.pooler is None:
            assert slices.pooling is not None
            return pooler(slices.pooling)
        opened = self._own()
        with opened.lock:
            if opened.pooler is None:
                opened.pooler = Learned(read_checked(slices.pooler, self.folder), self._asked)
            return opened.pooler

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes that `class_scores` gives scores for, in their order; empty without a classifier."""
        placed = self._description.image if self.takes == "picture" else None
        classes = getattr(placed.tower, "classes", None) if placed is not None else None
        return classes.names if classes is not None else ()

    def class_scores(
        self, images: Iterable[Any], batch_size: int | None = None, progress: bool | Callback = False
    ) -> np.ndarray:
        """Return what the classifier on top of the image tower says, for the few encoders that come with one.

        A classifier answers with one of its classes whatever it is shown: of a picture from outside the domain it was
        taught on, a score near 1 means nothing. ``manifest.image.classes.note`` says what is known of it.

        Parameters
        ----------
        images : iterable
            As `encode_images`.
        batch_size : int, optional
            As `encode_images`.
        progress : bool or callable
            See `osler.progress.track`.

        Returns
        -------
        ndarray
            (n, len(classes)) float32, a row for each picture; probabilities that sum to 1 where the classifier ends in
            a softmax.

        Raises
        ------
        ValueError
            The encoder has no classifier; or as `encode_images`.
        TypeError, FileNotFoundError, SourceError, EncoderError
            As `encode_images`.

        Examples
        --------
        >>> import numpy as np, osler
        >>> encoder = osler.load_encoder("capricorn-densenet121")
        >>> scores = encoder.class_scores([np.zeros((64, 64, 3), dtype=np.uint8)])
        >>> scores.shape, encoder.classes[:2], round(float(scores.sum()), 3)
        ((1, 24), ('adipose', 'background'), 1.0)
        """
        if not self.classes:
            raise ValueError(f"the encoder {self.name} has no classifier; encode_images gives vectors to compare")
        return self._encode("image", _pictures(images), batch_size, progress, classify=True)

    def encode_texts(
        self,
        texts: Iterable[str],
        batch_size: int | None = None,
        progress: bool | Callback = False,
        long: Long = "split",
    ) -> np.ndarray:
        """Encode texts.

        Parameters
        ----------
        texts : iterable of str
        batch_size : int, optional
            Texts in one run of the model; by default the manifest's.
        progress : bool or callable
            See `osler.progress.track`.
        long : {"split", "cut", "error"}
            What becomes of a text with more tokens than the encoder takes. "split": the passages of
            `osler.encoders.split_text` are encoded, and the mean of their unit vectors, at length 1 again, is the
            text's: the unit vector with the greatest mean cosine to them. "cut": only its beginning is encoded. Both
            give one warning for the call, `SplitTextWarning` or `TruncatedTextWarning`.

        Returns
        -------
        ndarray
            (n, dim) float32, unit rows in the order given.

        Raises
        ------
        ValueError
            The encoder has no text tower, or a text is empty, too large, or not valid Unicode; or too long, where
            `long` is "error".
        TypeError
            One text was passed instead of several, or something else.
        EncoderError
            The model cannot be opened or fails.

        Examples
        --------
        >>> import osler
        >>> osler.load_encoder("minilm").encode_texts(["chest X-ray", "ultrasound of the heart"]).shape
        (2, 384)
        """
        if isinstance(texts, (str, bytes)):
            raise TypeError("texts is a single text; pass a list, as encode_texts([text])")
        if long not in get_args(Long):
            raise ValueError(f"long is {long!r:.40}; it must be 'split', 'cut' or 'error'")
        values = _sequence(texts)
        self._check("text", batch_size)
        sums = np.zeros((len(values), self.dim), dtype=np.float32)
        if len(values) == 0:
            return sums
        tower = self._tower("text")
        reader = LongTexts(self.tokenizer, long)
        with track(progress, "encoding texts", len(values)) as step:
            done = 0
            size = tower.batch_size(batch_size)
            batches = ((batch, reader.shrink) for batch in reader.batches(values, size))
            run = partial(self._rows, tower, "text")
            for rows in run_batches(tower.session, batches, run, len(values), size):
                owners = reader.owners(done, done + len(rows))
                np.add.at(sums, owners, rows)
                done += len(rows)
                step(int(owners[-1]) + 1, len(values))
        reader.warn(len(values), stacklevel=2)
        return reader.join(sums)

    @property
    def tokenizer(self) -> Tokenizer:
        """Texts to token ids, with this encoder's cleaning rule and greatest length; opens no model.

        Raises
        ------
        ValueError
            The encoder has no text tower.
        EncoderError
            The file is missing or changed.
        """
        self._check("text", None)
        opened = self._own()
        with opened.lock:
            tower = opened.towers.get("text")
            if isinstance(tower, OpenTextTower):
                return tower.tokenizer
            if opened.tokenizer is None:
                opened.tokenizer = open_tokenizer(cast(Placed, self._description.text))
            return opened.tokenizer

    def _tower(self, kind: str) -> OpenTower:
        opened = self._own()
        with opened.lock:
            tower = opened.towers.get(kind)
            if tower is None:
                placed = getattr(self._description, kind)
                tower = opened.towers[kind] = open_tower(placed, self._asked)
        return tower

    def _own(self) -> _Opened:
        """Return what is open in this process."""
        if self._opened.pid != os.getpid():
            self._opened = _Opened()
        return self._opened

    def _check(self, kind: str, batch_size: int | None) -> None:
        if kind not in self.modalities:
            raise ValueError(
                f"the encoder {self.name} has no {kind} tower; it takes {' and '.join(self.modalities)} only"
            )
        if batch_size is not None and (
            isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1
        ):
            raise ValueError(f"batch_size is {batch_size!r:.40}; it must be a whole number of at least 1")

    def _rows(self, tower: OpenTower, kind: str, batch: Sequence[Any], classify: bool = False) -> np.ndarray:
        if classify:
            return cast(OpenImageTower, tower).class_scores(batch)
        rows = tower.run(batch)
        if rows.shape[1] != self.dim:
            raise EncoderError(
                f"the {kind} tower of {self.name} gives {rows.shape[1]} numbers, its manifest says {self.dim}"
            )
        return rows

    def _encode(
        self,
        kind: str,
        values: Sequence[Any],
        batch_size: int | None,
        progress: bool | Callback,
        *,
        classify: bool = False,
    ) -> np.ndarray:
        self._check(kind, batch_size)
        total = len(values)
        vectors = np.empty((total, len(self.classes) if classify else self.dim), dtype=np.float32)
        if total == 0:
            return vectors
        tower = self._tower(kind)
        size = tower.batch_size(batch_size)
        with track(progress, f"encoding {kind}s", total) as step:
            done = 0
            batches = prepared_batches(tower, kind, values, size)
            run = partial(self._rows, tower, kind, classify=classify)
            for rows in run_batches(tower.session, batches, run, total, size):
                vectors[done : done + len(rows)] = rows
                done += len(rows)
                step(done, total)
        return vectors


def _pictures(images: Iterable[Any]) -> Sequence[Any]:
    if isinstance(images, (str, bytes, os.PathLike)) or hasattr(images, "getexif"):
        raise TypeError("images is a single picture; pass a list, as encode_images([picture])")
    if isinstance(images, Volume):
        raise TypeError("images is a single volume; pass a list, as encode_images([volume])")
    if isinstance(images, np.ndarray) and images.ndim < 4:
        raise TypeError(f"images is one array of shape {images.shape}; pass a list of arrays (H, W) or (H, W, 3)")
    return _sequence(images)


def _sequence(values: Iterable[Any]) -> Sequence[Any]:
    """Index what may be long or lazy; a column of a table is indexed by label, so it is listed."""
    return cast(Sequence[Any], values) if isinstance(values, Sequence | np.ndarray) else list(values)


def load_encoder(name_or_folder: str | os.PathLike[str], device: Device = "auto") -> Encoder:
    """Find an encoder, and make sure that it can run here, before any work begins.

    Nothing is downloaded. Weights come from installed packages or from the folder; the files' hashes are checked when
    the model is first used.

    Parameters
    ----------
    name_or_folder : str or Path
        A name of `list_encoders`, or a folder with manifest.json; a registry name wins.
    device : {"auto", "cpu", "cuda", "tensorrt"}
        "auto" takes CUDA where it runs; "cuda" fails where it does not. `Encoder.device` says what runs.

    Returns
    -------
    Encoder

    Raises
    ------
    EncoderError
        The name is unknown, the manifest is wrong, a package or file is missing, ONNX Runtime is missing or installed
        twice, or CUDA was asked and is not there.
    ValueError
        `device` is no known name.

    Examples
    --------
    >>> import osler
    >>> osler.load_encoder("minilm")
    <osler.Encoder minilm: text, dim 384>
    """
    description = describe(name_or_folder)
    ensure_ready(description, device)
    return Encoder(description, device)
