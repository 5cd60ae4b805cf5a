"""Types of the compiled module; a test compares them with it."""

from collections.abc import Callable, Iterator
from os import PathLike
from typing import Any, NoReturn, SupportsIndex, final

import numpy as np
from numpy.typing import ArrayLike, NDArray
from typing_extensions import disjoint_base

__all__ = [
    "Bitmap",
    "Found",
    "FoundItems",
    "Groups",
    "Index",
    "Pairs",
    "blake3",
    "blake3_keyed",
    "join",
    "join_batches",
    "rank_items",
    "simd_level",
]

_Filter = ArrayLike | "Bitmap"

@disjoint_base
class Index:
    def __new__(
        cls,
        dim: int,
        *,
        metric: str = "cosine",
        codes: str = "auto",
        keep_vectors: str | None = "ram",
        memory: int | None = None,
        seed: int = 0,
    ) -> Index: ...
    @classmethod
    def build(
        cls,
        vectors: ArrayLike,
        keys: ArrayLike | None = None,
        *,
        metric: str = "cosine",
        codes: str = "auto",
        keep_vectors: str | None = "ram",
        memory: int | None = None,
        threads: int | None = None,
        seed: int = 0,
        progress: bool | Callable[[int, int], Any] = False,
    ) -> Index: ...
    @staticmethod
    def open(path: str | PathLike[str], *, mmap: bool = True) -> Index: ...
    def add(
        self, vectors: ArrayLike, keys: ArrayLike | None = None, *, threads: int | None = None
    ) -> NDArray[np.uint64]: ...
    def delete(self, keys: ArrayLike) -> int: ...
    def search(
        self,
        queries: ArrayLike,
        k: int = 10,
        *,
        recall: float = 0.95,
        ef: int | None = None,
        filter: _Filter | None = None,
        groups: ArrayLike | Groups | None = None,
        group_size: int | None = 1,
        exclude_groups: ArrayLike | None = None,
        exclude_by: ArrayLike | Groups | None = None,
        exact: bool = False,
        threads: int | None = None,
    ) -> Found: ...
    def search_items(
        self,
        queries: ArrayLike,
        items: ArrayLike | Groups,
        k: int = 10,
        *,
        score: str = "max",
        offsets: ArrayLike | None = None,
        recall: float = 0.95,
        filter: _Filter | None = None,
        groups: ArrayLike | Groups | None = None,
        group_size: int | None = 1,
        exclude_groups: ArrayLike | None = None,
        exclude_by: ArrayLike | Groups | None = None,
        exact: bool = False,
        threads: int | None = None,
    ) -> FoundItems: ...
    def search_range(
        self, queries: ArrayLike, threshold: float, *, filter: _Filter | None = None, threads: int | None = None
    ) -> Pairs: ...
    def bitmap(self, mask_or_keys: ArrayLike) -> Bitmap: ...
    def groups(self, ids: ArrayLike) -> Groups: ...
    def get(self, keys: ArrayLike) -> NDArray[np.float32]: ...
    def save(self, path: str | PathLike[str]) -> None: ...
    def verify(self) -> None: ...
    def calibrate(self, queries: ArrayLike | None = None, *, threads: int | None = None) -> None: ...
    def stats(self) -> dict[str, Any]: ...
    @property
    def keys(self) -> NDArray[np.uint64]: ...
    @property
    def dim(self) -> int: ...
    @property
    def metric(self) -> str: ...
    @property
    def codes(self) -> str: ...
    def __len__(self) -> int: ...
    def __contains__(self, key: SupportsIndex, /) -> bool: ...
    def __iter__(self) -> NoReturn: ...
    def __reduce__(self) -> tuple[Callable[[bytes], Index], tuple[bytes]]: ...
    @staticmethod
    def _from_bytes(bytes: bytes) -> Index: ...

@final
class Found:
    @property
    def keys(self) -> NDArray[np.uint64]: ...
    @property
    def scores(self) -> NDArray[np.float32]: ...
    @property
    def counts(self) -> Any: ...
    def __iter__(self) -> NoReturn: ...

@final
class FoundItems:
    @property
    def items(self) -> NDArray[np.int64]: ...
    @property
    def scores(self) -> NDArray[np.float32]: ...
    @property
    def parts(self) -> NDArray[np.uint64]: ...
    @property
    def counts(self) -> Any: ...
    def __iter__(self) -> NoReturn: ...

@final
class Pairs:
    @property
    def keys(self) -> NDArray[np.uint64]: ...
    @property
    def scores(self) -> NDArray[np.float32]: ...
    @property
    def offsets(self) -> NDArray[np.int64]: ...
    def __iter__(self) -> NoReturn: ...

@final
class Bitmap:
    def __and__(self, other: Bitmap, /) -> Bitmap: ...
    def __or__(self, other: Bitmap, /) -> Bitmap: ...
    def __sub__(self, other: Bitmap, /) -> Bitmap: ...
    def __rand__(self, other: Bitmap, /) -> Bitmap: ...
    def __ror__(self, other: Bitmap, /) -> Bitmap: ...
    def __rsub__(self, other: Bitmap, /) -> Bitmap: ...
    def __invert__(self) -> Bitmap: ...
    def __len__(self) -> int: ...

@final
class Groups: ...

def join(
    vectors: ArrayLike,
    threshold: float,
    *,
    against: ArrayLike | None = None,
    metric: str = "cosine",
    threads: int | None = None,
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]: ...
def rank_items(
    scores: ArrayLike, items: ArrayLike, k: int = 10, *, score: str = "max", groups: ArrayLike | None = None
) -> FoundItems: ...
def join_batches(
    vectors: ArrayLike,
    threshold: float,
    *,
    against: ArrayLike | None = None,
    metric: str = "cosine",
    threads: int | None = None,
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]]: ...
def blake3(data: bytes) -> bytes: ...
def blake3_keyed(key: bytes, data: bytes) -> bytes: ...
def simd_level() -> str: ...
