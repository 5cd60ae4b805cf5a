"""Runs of a small model side by side, each on its share of the processors: the same bits, in order, within memory."""

from __future__ import annotations

import os
import pickle
import threading
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import osler
import pytest
from osler.encoders import batches, session
from osler.errors import EncoderError


@pytest.fixture(autouse=True)
def _four_lanes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OSLER_THREADS", "4")


def pictures(count: int) -> list[np.ndarray]:
    rng = np.random.default_rng(3)
    return [rng.integers(0, 256, (4, 4, 3)).astype(np.uint8) for _ in range(count)]


def watched(encoder: osler.Encoder, kind: str = "image") -> tuple[list[int], list[int]]:
    """Note the rows of each run on all processors, and of each run beside others."""
    opened = encoder._tower(kind).session
    wide: list[int] = []
    narrow: list[int] = []

    def note(inner: Any, found: list[int]) -> Any:
        class Watched:
            def __getattr__(self, name: str) -> Any:
                return getattr(inner, name)

            def run(self, outputs: list[str], feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
                found.append(len(next(iter(feeds.values()))))
                return inner.run(outputs, feeds)

        return Watched()

    assert opened.beside(4) == 4
    opened.inner, opened.narrow = note(opened.inner, wide), note(opened.narrow, narrow)
    return wide, narrow


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith(("osler-run", "osler-read"))]


def test_many_inputs_run_side_by_side_and_few_do_not(tiny) -> None:
    encoder = osler.load_encoder(tiny.save())
    wide, narrow = watched(encoder)
    few, many = pictures(63), pictures(131)
    one_by_one = np.concatenate([encoder.encode_images([picture]) for picture in many])
    encoder.encode_images(few, batch_size=4)
    assert not narrow and len(wide) == 131 + 16
    wide.clear()
    assert np.array_equal(encoder.encode_images(many, batch_size=4), one_by_one)
    assert not wide and sorted(narrow) == [3] + [4] * 32


def test_texts_do_so_too(tiny) -> None:
    encoder = osler.load_encoder(tiny.save())
    texts = [word for word in ("lung clear", "heart", "brain lung heart", "clear") for _ in range(20)]
    expected = np.concatenate([encoder.encode_texts([text]) for text in texts])
    wide, narrow = watched(encoder, "text")
    assert np.allclose(encoder.encode_texts(texts, batch_size=3), expected, atol=1e-6)
    assert not wide and sum(narrow) == len(texts)


def test_a_shipped_encoder_gives_the_same_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = osler.load_encoder("efficientnet-lite0", device="cpu")
    rng = np.random.default_rng(1)
    images = [rng.integers(0, 256, (60, 50, 3)).astype(np.uint8) for _ in range(66)]
    beside = encoder.encode_images(images)
    assert encoder._tower("image").session.narrow is not None
    monkeypatch.setattr(encoder._tower("image").session, "lanes", 1)
    assert np.array_equal(beside, encoder.encode_images(images))


def test_large_models_inputs_and_devices_run_alone(tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    many = pictures(80)
    encoder = osler.load_encoder(tiny.save())
    expected = encoder.encode_images(many)
    wide, narrow = watched(encoder)
    # a picture is 4 x 4 x 3 numbers
    monkeypatch.setattr(batches, "_BESIDE_BYTES", 2 * 40 * 4 * 192 - 1)
    assert np.array_equal(encoder.encode_images(many, batch_size=4), expected)
    assert wide and not narrow
    monkeypatch.setattr(batches, "_BESIDE_BYTES", 2 * 40 * 4 * 192)
    wide.clear()
    assert np.array_equal(encoder.encode_images(many, batch_size=4), expected)
    assert narrow and not wide
    monkeypatch.setattr(session, "_SMALL_BYTES", 100)
    assert osler.load_encoder(tiny.folder)._tower("image").session.lanes == 1
    monkeypatch.setattr(session, "_SMALL_BYTES", 1 << 20)
    assert osler.load_encoder(tiny.folder)._tower("image").session.lanes == 4
    monkeypatch.setenv("OSLER_THREADS", "1")
    assert osler.load_encoder(tiny.folder)._tower("image").session.lanes == 1


def test_texts_weigh_what_their_attention_does(tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = osler.load_encoder(tiny.save())
    texts = ["lung heart"] * 70
    pairs = encoder.tokenizer("lung heart", "text").ids
    wide, narrow = watched(encoder, "text")
    monkeypatch.setattr(batches, "_BESIDE_BYTES", 2 * 64 * 7 * len(pairs) ** 2 - 1)
    encoder.encode_texts(texts, batch_size=7)
    assert wide and not narrow
    monkeypatch.setattr(batches, "_BESIDE_BYTES", 2 * 64 * 7 * len(pairs) ** 2)
    wide.clear()
    encoder.encode_texts(texts, batch_size=7)
    assert narrow and not wide


@pytest.mark.parametrize(("most", "lanes", "share"), [(4, 4, 1), (3, 2, 2), (2, 2, 2), (1, 1, 0), (9, 4, 1)])
def test_lanes_share_the_processors(tiny, most: int, lanes: int, share: int) -> None:
    opened = osler.load_encoder(tiny.save())._tower("image").session
    assert opened.beside(most) == lanes
    assert opened._share == share


def test_where_there_is_no_room_for_a_second_session_the_first_runs_all(tiny) -> None:
    encoder = osler.load_encoder(tiny.save())
    many = pictures(90)
    expected = np.concatenate([encoder.encode_images([picture]) for picture in many])

    def full(**_: Any) -> Any:
        raise RuntimeError("std::bad_alloc")

    encoder._tower("image").session._narrowed = full
    for _ in range(2):
        assert np.array_equal(encoder.encode_images(many, batch_size=4), expected)


def short_of_memory(encoder: osler.Encoder, rows: int, at_once: int) -> tuple[list[int], list[int]]:
    """Refuse more rows than that, and any row while more than so many runs are under way; gives what was asked for."""
    opened = encoder._tower("image").session
    assert opened.beside(4) == 4
    lock, under_way = threading.Lock(), [0]

    def short(inner: Any, asked: list[int]) -> Any:
        class Short:
            def __getattr__(self, name: str) -> Any:
                return getattr(inner, name)

            def run(self, outputs: list[str], feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
                count = len(feeds["pixels"])
                with lock:
                    under_way[0] += 1
                    asked.append(count)
                    refused = count > rows or under_way[0] > at_once
                try:
                    threading.Event().wait(0.01)
                    if refused:
                        raise RuntimeError("std::bad_alloc")
                    return inner.run(outputs, feeds)
                finally:
                    with lock:
                        under_way[0] -= 1

        return Short()

    wide: list[int] = []
    narrow: list[int] = []
    opened.inner, opened.narrow = short(opened.inner, wide), short(opened.narrow, narrow)
    return wide, narrow


@pytest.mark.parametrize(("rows", "at_once"), [(3, 9), (8, 1), (1, 2), (2, 1)])
def test_where_memory_is_short_batches_run_one_after_another(
    tiny, rows: int, at_once: int, capsys: pytest.CaptureFixture[str]
) -> None:
    encoder = osler.load_encoder(tiny.save())
    many = pictures(90)
    expected = encoder.encode_images(many, batch_size=4)
    wide, narrow = short_of_memory(encoder, rows, at_once)
    assert np.allclose(encoder.encode_images(many, batch_size=8), expected, atol=1e-6)
    if rows < 8:  # the first one is refused, and all but what was under way by then runs on all processors
        assert len(narrow) <= 5 and sum(size for size in wide if size <= rows) == 90
    assert ("a batch of 8 does not fit into memory" in capsys.readouterr().err) == (rows < 8)


def test_one_that_does_not_fit_alone_is_an_error(tiny) -> None:
    encoder = osler.load_encoder(tiny.save())
    short_of_memory(encoder, 0, 9)
    with pytest.raises(EncoderError, match="a single input does not fit into memory"):
        encoder.encode_images(pictures(90), batch_size=4)
    assert not threads()


@pytest.mark.parametrize("count", [30, 200])
def test_a_run_that_fails_or_a_call_that_is_stopped_leaves_no_thread(tiny, count: int) -> None:
    encoder = osler.load_encoder(tiny.save())
    many = pictures(count)

    def stop(done: int, total: int) -> None:
        if done > 8:
            raise KeyError("enough")

    with pytest.raises(KeyError) as stopped:
        encoder.encode_images(many, batch_size=4, progress=stop)
    assert not threads(), stopped

    class Broken:
        def run(self, outputs: list[str], feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
            raise RuntimeError("Got invalid dimensions")

    opened = encoder._tower("image").session
    opened.beside(4)
    opened.inner = opened.narrow = Broken()
    with pytest.raises(EncoderError, match="failed on a batch") as failed:
        encoder.encode_images(many, batch_size=4)
    assert not threads(), failed


# batches of four: one that runs, one that was run last, two that are ready; with lanes as many more, and one that waits
@pytest.mark.parametrize(("count", "held"), [(60, 4), (200, 9)])
def test_a_batch_is_let_go_once_it_was_run(tiny, count: int, held: int) -> None:
    encoder = osler.load_encoder(tiny.save())
    tower = encoder._tower("image")
    seen: list[weakref.ref[Any]] = []
    prepare = tower.prepare

    def noted(*arguments: Any) -> Any:
        array = prepare(*arguments)
        seen.append(weakref.ref(array))
        return array

    tower.prepare = noted
    most = 0

    def look(done: int, total: int) -> None:
        nonlocal most
        most = max(most, sum(one() is not None for one in seen))
        assert seen[0]() is None or done <= 4 * held

    encoder.encode_images(pictures(count), batch_size=4, progress=look)
    assert 0 < most <= 4 * held


@pytest.mark.parametrize("bad", [0, 40, 89])
def test_a_bad_input_is_named_and_nothing_goes_on(tiny, bad: int) -> None:
    encoder = osler.load_encoder(tiny.save())
    many: list[Any] = list(pictures(90))
    many[bad] = np.zeros((4, 4, 5))
    with pytest.raises(ValueError, match=f"image {bad} has shape"):
        encoder.encode_images(many, batch_size=4)
    assert not threads()


def test_several_callers_share_it(tiny) -> None:
    encoder = osler.load_encoder(tiny.save())
    many = pictures(100)
    expected = encoder.encode_images(many, batch_size=3)
    found: list[bool] = []

    def call(encode: Callable[[], np.ndarray], wanted: np.ndarray) -> None:
        found.append(bool(np.array_equal(encode(), wanted)))

    callers = [
        threading.Thread(target=call, args=(lambda: encoder.encode_images(many, batch_size=3), expected))
        for _ in range(3)
    ]
    callers += [
        threading.Thread(target=call, args=(lambda: encoder.encode_images(many[:1]), expected[:1])) for _ in range(3)
    ]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert found == [True] * 6


def test_a_forked_child_and_a_pickled_copy_give_the_same(tiny) -> None:
    encoder = osler.load_encoder(tiny.save())
    many = pictures(70)
    expected = encoder.encode_images(many)
    assert np.array_equal(pickle.loads(pickle.dumps(encoder)).encode_images(many), expected)
    child = os.fork()
    if child == 0:
        same = False
        try:
            same = np.array_equal(encoder.encode_images(many), expected)
        finally:
            os._exit(0 if same else 1)
    assert os.waitpid(child, 0)[1] == 0
