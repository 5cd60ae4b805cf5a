"""Cases that were wrong once: odd strides, forks, races, signals, sizes; one test each."""

from __future__ import annotations

import os
import pickle
import signal
import struct
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import osler
import pytest


def test_fields_of_packed_records_are_read_at_their_own_steps() -> None:
    table = np.zeros(5, dtype=[("key", "u8"), ("vector", "f4", (3,)), ("flag", "u1")])
    table["key"] = [4, 3, 2, 1, 9]
    table["vector"] = np.random.default_rng(0).normal(size=(5, 3))
    index = osler.Index(dim=3, metric="l2")
    index.add(table["vector"], keys=table["key"])
    np.testing.assert_array_equal(index.keys, [4, 3, 2, 1, 9])
    np.testing.assert_array_equal(index.get([4, 9]), np.ascontiguousarray(table["vector"])[[0, 4]])
    found = index.search(table["vector"], k=1)
    np.testing.assert_array_equal(found.keys[:, 0], [4, 3, 2, 1, 9])
    np.testing.assert_array_equal(index.search(table["vector"], k=1, groups=np.arange(5)).keys, found.keys)


def test_a_mask_viewed_from_other_bytes_is_what_numpy_takes_it_for() -> None:
    index = osler.Index.build(np.eye(4, dtype=np.float32))
    assert len(index.bitmap(np.array([2, 0, 4, 255], np.uint8).view(bool))) == 3


def test_a_bitmap_and_groups_outlive_several_compactions() -> None:
    index = osler.Index.build(np.random.default_rng(1).normal(size=(200, 4)).astype(np.float32))
    some, groups = index.bitmap(np.arange(100, 160)), index.groups(np.arange(200) // 2)
    for first in range(0, 90, 30):
        index.delete(np.arange(first, first + 30))
        index.delete(np.arange(first + 60, first + 90))
        assert len(some) == sum(int(key) in range(100, 160) for key in index.keys)
        found = index.search(np.ones(4, np.float32), k=200, groups=groups)
        assert found.counts == len({int(key) // 2 for key in index.keys})


def test_saving_and_pickling_after_a_delete_work_in_a_forked_child(tmp_path: Path) -> None:
    index = osler.Index.build(np.random.default_rng(2).normal(size=(3000, 8)).astype(np.float32))
    index.delete([1])
    pickle.dumps(index)
    index.delete([2, 3])
    child = os.fork()
    if child == 0:
        status = 1
        try:
            signal.alarm(60)
            index.save(tmp_path / "child.index")
            index.add(np.ones((1, 8), np.float32))
            status = 0
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert len(osler.Index.open(tmp_path / "child.index")) == 2997


def test_a_child_forked_while_a_thread_writes_can_write() -> None:
    index = osler.Index(dim=16)
    stop = threading.Event()

    def write() -> None:
        rng = np.random.default_rng(3)
        while not stop.is_set():
            index.add(rng.normal(size=(50, 16)).astype(np.float32))

    thread = threading.Thread(target=write)
    thread.start()
    try:
        for _ in range(5):
            child = os.fork()
            if child == 0:
                signal.alarm(60)
                index.add(np.ones((1, 16), np.float32))
                index.delete(index.keys[:1])
                os._exit(0)
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    finally:
        stop.set()
        thread.join()


def test_threads_that_save_to_one_path_leave_one_whole_file(tmp_path: Path) -> None:
    index = osler.Index.build(np.random.default_rng(4).normal(size=(50, 8)).astype(np.float32))
    path = tmp_path / "shared.index"
    failures: list[BaseException] = []

    def save() -> None:
        try:
            for _ in range(20):
                index.save(path)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=save) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert os.listdir(tmp_path) == ["shared.index"]
    osler.Index.open(path).verify()


SAVE = """
import os, signal, sys, threading, numpy as np, osler
index = osler.Index(dim=4096, metric="l2")
for _ in range(4):
    index.add(np.random.default_rng(0).normal(size=(450, 4096)).astype(np.float32))
threading.Timer(0.3, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
try:
    for number in range(2000):
        index.save(sys.argv[1])
        index.verify()
except KeyboardInterrupt:
    print("interrupted")
"""


def test_ctrl_c_is_not_lost_while_saving(tmp_path: Path) -> None:
    path = tmp_path / "big.index"
    done = subprocess.run([sys.executable, "-c", SAVE, path], capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout == "interrupted\n", done.stderr
    assert not [name for name in os.listdir(tmp_path) if name.endswith(".tmp")]


def repaired(data: bytearray) -> bytes:
    """The file with the checksums of its table and header made to fit what they say now."""
    import osler._native as native

    (table,) = struct.unpack_from("<Q", data, 16)
    (blocks,) = struct.unpack_from("<Q", data, 104)
    data[32:64] = native.blake3(bytes(data[88:104] + data[table : len(data) - 4 * blocks]))
    crc = 0xFFFFFFFF
    for byte in data[:4092]:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0x82F63B78 if crc & 1 else 0)
    struct.pack_into("<I", data, 4092, crc ^ 0xFFFFFFFF)
    return bytes(data)


def test_a_section_that_lies_in_its_own_way_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "small.index"
    osler.Index.build(np.eye(5, dtype=np.float32)).save(path)
    data = bytearray(path.read_bytes())
    (table,) = struct.unpack_from("<Q", data, 16)
    assert struct.unpack_from("<I", data, table + 2 * 48)[0] == 3
    struct.pack_into("<I", data, table + 2 * 48 + 36, 20)
    path.write_bytes(repaired(data))
    for mmap in (True, False):
        with pytest.raises(osler.CorruptIndexError, match="keys"):
            osler.Index.open(path, mmap=mmap)


@pytest.mark.parametrize(
    ("name", "call"),
    [
        ("k", lambda index, q: index.search(q, k=2**70)),
        ("k", lambda index, q: index.search(q, k=-(2**70))),
        ("seed", lambda index, q: osler.Index(4, seed=-1)),
        ("memory", lambda index, q: osler.Index(4, memory=-1)),
        ("dim", lambda index, q: osler.Index(2**70)),
        ("threads", lambda index, q: index.search(q, threads=10**6)),
        ("filter", lambda index, q: index.search(q, filter=np.array([1.5], dtype=object))),
        ("filter", lambda index, q: index.search(q, filter=np.array(["5"], dtype=object))),
        ("keys", lambda index, q: index.delete([True])),
    ],
)
def test_numbers_out_of_range_are_value_errors_that_name_the_argument(name: str, call: object) -> None:
    index = osler.Index.build(np.eye(4, dtype=np.float32))
    with pytest.raises((ValueError, MemoryError), match=name):
        call(index, np.ones(4, np.float32))
    assert len(index) == 4


def test_a_large_k_is_sorted_once_and_right() -> None:
    rng = np.random.default_rng(5)
    rows = rng.integers(-3, 4, (6000, 6)).astype(np.float32)
    index = osler.Index.build(rows, metric="dot")
    query = rng.normal(size=6).astype(np.float32)
    found = index.search(query, k=5000, exact=True)
    expected = np.sort((rows @ query).astype(np.float32))[::-1][:5000]
    np.testing.assert_allclose(found.scores, expected, rtol=1e-5, atol=1e-5)
    assert len(set(found.keys.tolist())) == 5000


def test_pairs_of_equal_rows_score_at_most_one() -> None:
    from osler.index import join

    rows = np.random.default_rng(6).normal(size=(40, 100)).astype(np.float32)
    scores = join(np.vstack([rows, rows]), 0.99)[2]
    assert len(scores) == 40
    assert scores.max() <= 1.0


@pytest.mark.parametrize("metric", ["l2", "dot"])
@pytest.mark.parametrize("form", ["f32-ram", "f32-none", "sq8-ram", "sq5-none", "rabitq-ram"])
@pytest.mark.parametrize(("size", "far"), [(1e-22, 1.0), (1e-12, 1e9), (1.0, 1e17)])
def test_queries_and_rows_far_beyond_the_others_have_finite_scores(
    metric: str, form: str, size: float, far: float, tmp_path: Path, rng: np.random.Generator
) -> None:
    """In a graph's frame they would overflow float32; such rows had made the file that was saved a damaged one."""
    codes, keep = form.split("-")
    rows = (size * rng.standard_normal((2_500, 16))).astype(np.float32)
    distant = (far * rng.standard_normal((3, 16))).astype(np.float32)
    index = osler.Index.build(rows, metric=metric, codes=codes, keep_vectors=keep)
    found = index.search(distant, 5)
    assert np.isfinite(found.scores).all() and (found.counts == 5).all()
    keys = [10**6, 10**6 + 1, 10**6 + 2]
    index.add(distant, keys=keys)
    path = tmp_path / "a.index"
    index.save(path)
    for each in (index, osler.Index.open(path)):
        found = each.search(distant, 5)
        assert np.isfinite(found.scores).all()
        expected = distant @ distant.T if metric == "dot" else -((distant[:, None] - distant) ** 2).sum(-1)
        np.testing.assert_array_equal(found.keys[:, 0], np.array(keys)[expected.argmax(1)])
        if keep == "ram":
            np.testing.assert_allclose(found.scores[:, 0], expected.max(1), rtol=1e-4)
        each.verify()


def test_a_row_far_from_many_others_is_found_and_so_are_they(rng: np.random.Generator) -> None:
    index = osler.Index.build(rng.standard_normal((3_000, 64), dtype=np.float32), metric="l2")
    plain = index.search(np.ones((1, 64)), 3)
    index.add(np.full((1, 64), 1e17, np.float32), keys=[10**6])
    assert index.stats()["deleted"] == 0 and len(index) == 3_001
    np.testing.assert_array_equal(index.search(np.full((1, 64), 1e17), 1).keys, [[10**6]])
    assert np.isfinite(index.search(np.ones((1, 64)), 3, exact=True).scores).all()
    np.testing.assert_array_equal(index.search(np.ones((1, 64)), 3, exact=True).keys[0, :1], plain.keys[0, :1])


@pytest.mark.parametrize("codes", ["f32", "rabitq"])
def test_an_index_that_lost_most_of_its_rows_bit_by_bit_is_saved_whole(
    codes: str, tmp_path: Path, rng: np.random.Generator
) -> None:
    """Recall was measured with all of them: the file had been refused as one that could not be."""
    rows = rng.standard_normal((12_000, 16), dtype=np.float32)
    index = osler.Index.build(rows, codes=codes)
    for start in range(0, 9_500, 500):
        index.delete(np.arange(start, start + 500))
    index.save(tmp_path / "a.index")
    again = osler.Index.open(tmp_path / "a.index", mmap=False)
    again.verify()
    np.testing.assert_array_equal(again.search(rows[9_500:9_600], 1).keys[:, 0], np.arange(9_500, 9_600))
