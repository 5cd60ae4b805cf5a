"""The cache holds one right model whoever comes first; encoders cross fork, pickle and threads."""

from __future__ import annotations

import json
import multiprocessing
import os
import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import osler
import pytest
from osler import EncoderError
from osler.encoders.convert import cache, efficientnet_lite0

PICTURE = [np.arange(64, dtype=np.uint8).reshape(8, 8)]
ENCODE = (
    "import numpy as np, osler;"
    "print(osler.load_encoder('efficientnet-lite0').encode_images([np.arange(64, dtype=np.uint8).reshape(8, 8)])"
    ".tobytes().hex())"
)


def stored(home: Path) -> list[Path]:
    return sorted((home / "encoders" / "efficientnet-lite0").iterdir())


def test_two_processes_convert_once(tmp_path: Path) -> None:
    environment = {**os.environ, "OSLER_HOME": str(tmp_path), "OSLER_THREADS": "1"}
    runs = [
        subprocess.Popen(
            [sys.executable, "-c", ENCODE], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]
    outputs = [run.communicate(timeout=120) for run in runs]
    assert [run.returncode for run in runs] == [0, 0], outputs
    assert outputs[0][0] == outputs[1][0] and len(outputs[0][0].strip()) == 1280 * 8
    assert sum("converting efficientnet-lite0" in error for _, error in outputs) == 1
    files = stored(tmp_path)
    assert [path.suffix for path in files] == [".json", ".lock", ".onnx"]
    assert all(path.stat().st_mode & 0o077 == 0 for path in (*files, tmp_path, tmp_path / "encoders"))
    assert json.loads(files[0].read_text())["golden_cosine"] >= 0.9999


def test_a_damaged_cache_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OSLER_HOME", str(tmp_path))
    first = osler.load_encoder("efficientnet-lite0").encode_images(PICTURE)
    model = next(path for path in stored(tmp_path) if path.suffix == ".onnx")
    whole = model.read_bytes()
    for damaged in (whole[:-1], whole[:5000] + bytes([whole[5000] ^ 1]) + whole[5001:], b""):
        model.write_bytes(damaged)
        np.testing.assert_array_equal(osler.load_encoder("efficientnet-lite0").encode_images(PICTURE), first)
        assert model.read_bytes() == whole
    assert capsys.readouterr().err.count("converting") == 4


def test_a_conversion_that_fails_its_golden_vectors_is_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OSLER_HOME", str(tmp_path))
    monkeypatch.setattr(efficientnet_lite0, "_EPSILON", 0.5)
    with pytest.raises(EncoderError, match="with its golden vectors") as caught:
        osler.load_encoder("efficientnet-lite0").encode_images(PICTURE)
    assert caught.value.code == "golden_mismatch"
    assert [path.suffix for path in stored(tmp_path)] == [".lock"]


def test_a_full_disk_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OSLER_HOME", str(tmp_path))

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(cache.os, "fsync", full)
    with pytest.raises(EncoderError, match="no space left on device; free space there, or set OSLER_HOME") as caught:
        osler.load_encoder("efficientnet-lite0").encode_images(PICTURE)
    assert caught.value.code == "cache" and str(tmp_path) not in str(caught.value)
    assert [path.suffix for path in stored(tmp_path)] == [".lock"]


def test_a_home_that_is_a_file_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "home").write_text("")
    monkeypatch.setenv("OSLER_HOME", str(tmp_path / "home"))
    with pytest.raises(EncoderError, match="set OSLER_HOME to a folder that can be written"):
        osler.load_encoder("efficientnet-lite0").encode_images(PICTURE)


def test_conversion_needs_onnx_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OSLER_HOME", str(tmp_path))
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(EncoderError, match=r'pip install "osler\[models\]"'):
        osler.load_encoder("efficientnet-lite0").encode_images(PICTURE)


def test_pickles_by_address(tiny) -> None:
    for encoder in (osler.load_encoder(tiny.save(), device="cpu"), osler.load_encoder("efficientnet-lite0")):
        vectors = encoder.encode_images(PICTURE)
        content = pickle.dumps(encoder)
        assert len(content) < 1000
        copied = pickle.loads(content)
        assert copied.fingerprint == encoder.fingerprint
        np.testing.assert_array_equal(copied.encode_images(PICTURE), vectors)


FORKED = """
import os, sys, numpy as np, osler
encoder = osler.load_encoder("reference")
pictures, texts = [np.arange(64, dtype=np.uint8).reshape(8, 8)], ["lung"]
before = encoder.encode_images(pictures), encoder.encode_texts(texts)
child = os.fork()
if child == 0:
    after = encoder.encode_images(pictures), encoder.encode_texts(texts)
    sys.exit(0 if all((a == b).all() for a, b in zip(before, after)) else 9)
idle = os.fork()
if idle == 0:
    sys.exit(0)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), os.waitstatus_to_exitcode(os.waitpid(idle, 0)[1]))
print((encoder.encode_texts(texts) == before[1]).all())
"""


@pytest.mark.parametrize("threads", ["1", "3"])
def test_a_forked_child_encodes_and_ends(threads: str) -> None:
    environment = {**os.environ, "OSLER_THREADS": threads}
    run = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", FORKED],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert run.stdout.split() == ["0", "0", "True"], run.stderr


def test_a_spawned_process_gets_an_encoder(tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    encoder = osler.load_encoder(tiny.save())
    context = multiprocessing.get_context("spawn")
    with context.Pool(1) as pool:
        np.testing.assert_array_equal(pool.apply(encoder.encode_images, (PICTURE,)), encoder.encode_images(PICTURE))


def test_many_threads_share_one_encoder(rng) -> None:
    encoder = osler.load_encoder("reference")
    pictures = [rng.integers(0, 256, (30, 30), dtype=np.uint8) for _ in range(8)]
    expected = [encoder.encode_images([picture]) for picture in pictures]
    fresh = osler.load_encoder("reference")
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda picture: fresh.encode_images([picture]), pictures * 2))
    np.testing.assert_array_equal(np.concatenate(found), np.concatenate(expected * 2))
