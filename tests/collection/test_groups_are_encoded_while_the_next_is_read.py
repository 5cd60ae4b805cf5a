"""Files are read while earlier ones are encoded: order, faults, commits and interruption stay what they were."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import osler
import pytest
from osler.collection import ingest


class Ours:
    """The tests' encoder as one of the registry's: it says where it runs, and so may be called from another thread."""

    def __init__(self, tiny: Any, device: str) -> None:
        self._tiny, self._device = tiny, device
        self.threads: set[str] = set()
        self.most = self.running = 0
        self.lock = threading.Lock()
        self.before: Callable[[], None] = lambda: None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tiny, name)

    def device_of(self, kind: str) -> str:
        return self._device

    def encode_images(self, images: Any, batch_size: Any = None, progress: Any = False) -> np.ndarray:
        with self.lock:
            self.running += 1
            self.most = max(self.most, self.running)
            self.threads.add(threading.current_thread().name.rpartition("_")[0])
        try:
            self.before()
            found: np.ndarray = self._tiny.encode_images(images)
            return found
        finally:
            with self.lock:
                self.running -= 1


@pytest.fixture(autouse=True)
def small_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ingest, "_ENCODE_FRAMES", 3)
    monkeypatch.setattr(ingest, "_COMMIT_ITEMS", 6)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_a_collection_is_the_same_and_a_device_has_two_groups(
    device: str, tmp_path: Path, pictures: Callable[..., Path], tiny: Any
) -> None:
    folder = pictures(20)
    (folder / "7.png").write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    own = osler.Collection.create(tmp_path / "own.osler", encoder=tiny)
    one = own.add(folder, progress=False)
    ours = Ours(tiny, device)
    if device == "cuda":
        met, calls = threading.Barrier(2), iter(range(100))
        # the first two groups wait for each other, or this never ends
        ours.before = lambda: met.wait(60) and None if next(calls) < 2 else None
    both = osler.Collection.create(tmp_path / "ours.osler", encoder=ours)
    other = both.add(folder, progress=False)
    assert ours.threads == {"osler-encode"} and ours.most == (2 if device == "cuda" else 1)
    assert other == one and one.failures
    assert both.keys() == own.keys()
    np.testing.assert_array_equal(both.vectors(), own.vectors())


def test_the_next_files_are_read_while_a_group_is_encoded(
    tmp_path: Path, pictures: Callable[..., Path], tiny: Any
) -> None:
    ours = Ours(tiny, "cpu")
    read = threading.Event()
    ours.before = lambda: None if read.wait(60) else pytest.fail("nothing was read meanwhile")
    cases = osler.Collection.create(tmp_path / "cases.osler", encoder=ours)

    def told(done: int, total: int) -> None:
        if done >= 5:  # of which the first three are in the group that waits for this
            read.set()

    assert cases.add(pictures(9), progress=told).added == 9


def test_a_fault_of_the_encoder_is_the_callers(tmp_path: Path, pictures: Callable[..., Path], tiny: Any) -> None:
    ours = Ours(tiny, "cpu")
    calls = [0]

    def fail() -> None:
        calls[0] += 1
        if calls[0] == 3:
            raise osler.EncoderError("the model failed")

    ours.before = fail
    cases = osler.Collection.create(tmp_path / "cases.osler", encoder=ours)
    with pytest.raises(osler.EncoderError, match="the model failed"):
        cases.add(pictures(12), progress=False)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("osler-encode")]
    cases.verify()
    cases.add(tmp_path / "pictures", progress=False)
    assert len(cases) == 12


def test_what_was_encoded_before_a_stop_is_kept_and_the_rest_given_up(
    tmp_path: Path, pictures: Callable[..., Path], tiny: Any
) -> None:
    ours = Ours(tiny, "cpu")
    cases = osler.Collection.create(tmp_path / "cases.osler", encoder=ours)
    with pytest.raises(KeyboardInterrupt):
        cases.add(pictures(23), progress=lambda done, total: done < 13)
    assert 6 <= len(cases) <= 12
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("osler-encode")]
    kept = len(cases)
    report = cases.add(tmp_path / "pictures", progress=False)
    assert (report.added, report.duplicates, len(cases)) == (23 - kept, kept, 23)
