"""Decoding in other processes: the same answers, and a fault of a decoder costs the one file that reached it.

Faults are planted in the program of the process: what a file's bytes end with says what its decoder does.
"""

from __future__ import annotations

import dataclasses
import io
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from multiprocessing import spawn
from pathlib import Path
from typing import Any

import numpy as np
import osler
import pytest
from dicom_files import build, package_files
from osler.config import LIMITS
from osler.errors import SourceError
from osler.sources import interpreter, open_source, process, worker, workers
from osler.sources.decoder import Here
from osler.sources.workers import Workers
from PIL import Image

PLANTED = """
import ctypes, json, os, resource, socket, sys, time
from osler.sources import worker
real = worker.Here.decode

def decode(self, data, keep=()):
    found = real(self, data, keep)
    fault = data[-8:].strip()
    if fault == b"SEGV":
        ctypes.string_at(0)
    elif fault == b"ABORT":
        os.abort()
    elif fault == b"KILL":
        os.kill(os.getpid(), 9)
    elif fault == b"EXIT":
        os._exit(3)
    elif fault == b"SPIN":
        while True:
            pass
    elif fault == b"SLEEP":
        time.sleep(3_600)
    elif fault == b"MEMORY":
        bytearray(8 << 30)
    elif fault == b"OPEN":
        open("/dev/null")
    elif fault == b"SOCKET":
        socket.socket()
    elif fault == b"PRINT":
        os.write(1, b"PRINTED" * 1000)
    elif fault == b"RAISED":
        for kind in (resource.RLIMIT_AS, resource.RLIMIT_NOFILE, resource.RLIMIT_CORE):
            try:
                resource.setrlimit(kind, (1 << 50, 1 << 50))
            except (ValueError, OSError):
                continue
            os.abort()
    elif fault == b"ROWS":
        found.columns["rows"] = "abc"
    elif fault == b"ROWSTRUE":
        found.columns["rows"] = True
    elif fault == b"OTHER":
        found.columns["rows"] += 1
    elif fault == b"PEAK":
        worker._Worker._peak = lambda self: float("inf")
    elif fault == b"ESCAPES":
        raise worker.SourceError("a \\x1b]0;owned\\x07 \\ud800 word", code="decode_failed")
    elif fault == b"NOISE":
        os.write(3, b"\\xff" * 4096)
    elif fault == b"LONG":
        os.write(3, worker.HEAD.pack(1 << 40, 0))
    elif fault == b"NAMES":
        found.columns["patient"] = "Doe^John"
    elif fault == b"SHAPE":
        answer = worker._Worker.answer
        worker._Worker.answer = lambda self, reply, frames=(): answer(self, reply, [f.astype("f8") for f in frames])
    return found

def pipes(descriptor, dup=os.dup):
    # At 3 and 4, so that a fault can reach them.
    os.dup2(descriptor, 4 - descriptor)
    return 4 - descriptor

os.dup = pipes
worker.Here.decode = decode
worker.main(int(sys.argv[1]), sys.argv[2] == "dicom")
"""
FAULTS = {
    "SEGV": ("crashed", "ended with SIGSEGV"),
    "ABORT": ("crashed", "ended with SIGABRT"),
    "KILL": ("decode_failed", "check that it opens elsewhere"),
    "EXIT": ("crashed", "ended with status 3"),
    "SPIN": ("too_slow", "more processor time"),
    "SLEEP": ("too_slow", "was not decoded after"),
    "MEMORY": ("too_large", "OSLER_LIMIT_DECODE_BYTES"),
    "OPEN": ("decode_failed", "check that it opens elsewhere"),
    "SOCKET": ("decode_failed", "check that it opens elsewhere"),
    "NOISE": ("crashed", "gave no right answer"),
    "LONG": ("crashed", "gave no right answer"),
    "NAMES": ("crashed", "gave no right answer"),
    "SHAPE": ("crashed", "gave no right answer"),
    "ROWS": ("crashed", "gave no right answer"),
    "ROWSTRUE": ("crashed", "gave no right answer"),
    "OTHER": ("crashed", "gave no right answer"),
    "PEAK": ("crashed", "gave no right answer"),
    "ESCAPES": ("decode_failed", "owned"),
}


def png(value: int = 7, fault: str = "") -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.full((8, 8), value, np.uint8)).save(stream, "PNG")
    return stream.getvalue() + fault.encode().rjust(8)


@pytest.fixture
def planted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Short limits, and processes with faults."""
    small = dataclasses.replace(LIMITS, decode_seconds=1, decode_bytes=1 << 30)
    for module in (process, workers, worker, interpreter):
        monkeypatch.setattr(module, "LIMITS", small)
    monkeypatch.setattr(process, "PROGRAM", PLANTED)
    monkeypatch.setattr(process, "_PATIENCE", 120)


@pytest.fixture
def decoder() -> Iterator[Workers]:
    found = Workers(1)
    yield found
    found.close()


def outcome(decode: Callable[..., Any], data: bytes) -> Any:
    try:
        found = decode(data, ("PatientName", "StudyDescription"))
    except SourceError as error:
        return error.code, str(error)
    frames = [(frame.dtype, frame.shape, frame.tobytes()) for frame in found.frames]
    return found.format, found.columns, found.identifiers, frames, isinstance(found.frames, tuple)


def pictures() -> dict[str, bytes]:
    """A picture of each mode, in each format that takes it."""
    rng = np.random.default_rng(5)
    colours = Image.fromarray(rng.integers(0, 256, (20, 30, 3), np.uint8))
    found, turned = {}, Image.Exif()
    turned[0x0112] = 6
    for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16", "I", "F"):
        deep = Image.fromarray(rng.integers(0, 60_000, (20, 30), np.uint16))
        image = deep if mode == "I;16" else colours.convert(mode)
        for kind, options in (
            ("PNG", {}),
            ("JPEG", {"exif": turned}),
            ("TIFF", {}),
            ("TIFF", {"compression": "tiff_lzw"}),
            ("TIFF", {"compression": "tiff_deflate"}),
            ("TIFF", {"compression": "jpeg"} if mode in ("L", "RGB") else {}),
            ("BMP", {}),
        ):
            stream = io.BytesIO()
            try:
                image.save(stream, kind, **options)
            except (OSError, KeyError, ValueError, SystemError):
                continue
            found[f"{mode} {kind} {options}"] = stream.getvalue()
    stream = io.BytesIO()
    colours.save(stream, "TIFF", save_all=True, append_images=[colours.convert("L")] * 3)
    assert len(found) > 25, found.keys()
    return found | {"pages": stream.getvalue(), "cut": found["RGB PNG {}"][:-40]}


def test_answers_are_those_of_this_process(decoder: Workers) -> None:
    files = [(path.name, path.read_bytes()) for path in package_files() if path.stat().st_size < 300_000]
    # Pictures first and DICOM after them: the process that takes a picture has not loaded what DICOM needs.
    for name, data in [*pictures().items(), *files[::3]]:
        for some in (data, data[: len(data) * 2 // 3], data[: len(data) // 3] + data[len(data) // 3 + 1 :]):
            assert outcome(decoder.decode, some) == outcome(Here().decode, some), name
            assert decoder.header(some) == Here().header(some), name
    assert decoder.broken == 0
    assert decoder.peak > 20 << 20


@pytest.mark.usefixtures("planted")
def test_a_fault_costs_one_file(decoder: Workers, monkeypatch: pytest.MonkeyPatch) -> None:
    for fault, (code, words) in FAULTS.items():
        # Only the one that uses no processor time is stopped by the clock.
        monkeypatch.setattr(process, "_PATIENCE", 2 if fault == "SLEEP" else 120)
        with pytest.raises(SourceError, match=words) as caught:
            decoder.decode(png(1, fault))
        assert caught.value.code == code, fault
        assert decoder.decode(png(2)).frames[0][0, 0] == 2
    assert decoder.broken == sum(code != "decode_failed" and code != "too_large" for code, _ in FAULTS.values())


@pytest.mark.usefixtures("planted")
def test_ingest_goes_on_after_each(tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    faults = [name for name in FAULTS if name not in ("SPIN", "SLEEP")]
    for number, fault in enumerate(faults):
        (folder / f"{number:02} a.png").write_bytes(png(10 + number))
        (folder / f"{number:02} b.png").write_bytes(png(40 + number, fault))
    with osler.Collection.create(tmp_path / "cases.osler", encoder=Means()) as cases:
        report = cases.add(folder, progress=False)
        assert (report.added, report.skipped) == (len(faults), len(faults))
        assert [failure.code for failure in report.failures] == [FAULTS[fault][0] for fault in faults]
        assert cases.keys() == [f"{number:02} a.png" for number in range(len(faults))]
    assert not running()


class Means:
    name, dim, fingerprint, modalities, logit_scale, device = "means", 2, "f" * 64, ("image",), 1.0, "cpu"

    def encode_images(self, images: Any, batch_size: Any = None, progress: Any = False) -> np.ndarray:
        return np.array([[1.0 + image.mean(), 1.0] for image in images], np.float32)


def running(of: int | None = None) -> list[int]:
    """Processes that this one, or another, has started and that are still there."""
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = status.read_text().rsplit(")", 1)[1].split()
            words = (status.parent / "cmdline").read_bytes()
        except OSError:
            continue
        if int(fields[1]) == (of or os.getpid()) and fields[0] != "Z" and b"osler.sources" in words:
            found.append(int(status.parent.name))
    return found


def test_frames_that_are_too_large_to_keep_are_decoded_when_asked_for(
    decoder: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The processes keep less here, so that a few small frames are too many."""
    less = "from osler.decode import frames; frames.KEPT_BYTES = 5_000; from osler.sources.worker import main; "
    monkeypatch.setattr(process, "PROGRAM", worker.PROGRAM.replace("from osler.sources.worker import main; ", less))
    stack = np.random.default_rng(2).integers(0, 200, (9, 30, 20), np.uint8)
    data, other = (build(pixels, NumberOfFrames=len(stack)) for pixels in (stack, 255 - stack))
    first, second = decoder.decode(data), decoder.decode(other)
    assert not isinstance(first.frames, tuple) and len(first.frames) == 9 == first.columns["frames"]
    for at in (0, 8, 4):
        np.testing.assert_array_equal(first.frames[at], stack[at])
    np.testing.assert_array_equal(second.frames[1], 255 - stack[1])
    np.testing.assert_array_equal(first.frames[1], stack[1])
    assert len(running()) == 2


def test_the_memory_of_one_file_serves_the_next(decoder: Workers) -> None:
    stream = io.BytesIO()
    Image.new("RGB", (700, 700), "red").save(stream, "PNG")
    data = stream.getvalue()
    for _ in range(5):
        decoder.decode(data)
    (process,) = running()

    def faults() -> int:
        return int(Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[7])

    before = faults()
    for _ in range(20):
        decoder.decode(data)
    # a picture of 700 x 700 in colour has 358 pages, and several copies are made of it
    assert faults() - before < 20 * 100


def test_nothing_is_left_running(decoder: Workers) -> None:
    decoder.decode(png())
    assert len(running()) == 1
    decoder.close()
    assert running() == []
    with pytest.raises(osler.Error) as caught:
        decoder.decode(png())
    assert caught.value.code == "closed"


@pytest.mark.usefixtures("planted")
def test_closing_ends_what_is_under_way(decoder: Workers) -> None:
    said: list[Any] = []
    decoder.decode(png())

    def ask() -> None:
        try:
            decoder.decode(png(1, "SLEEP"))
        except osler.Error as error:
            said.append(error.code)

    thread = threading.Thread(target=ask)
    thread.start()
    decoder.close()
    thread.join(60)
    assert not thread.is_alive() and running() == []
    assert said in (["crashed"], ["closed"])


PARENT = """
import sys, threading
from osler.sources import process
process.PROGRAM = sys.argv[1]
from osler.sources.workers import Workers
decoder = Workers(2)
decoder.decode(bytes.fromhex(sys.argv[2]))
threading.Thread(target=decoder.decode, args=(bytes.fromhex(sys.argv[3]),), daemon=True).start()
print("READY", flush=True)
try:
    decoder.decode(bytes.fromhex(sys.argv[3]))
finally:
    decoder.close()
"""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_no_process_outlives_its_parent(how: signal.Signals) -> None:
    arguments = [PLANTED, png().hex(), png(1, "SLEEP").hex()]
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, *arguments], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    assert parent.stdout is not None
    assert parent.stdout.readline() == b"READY\n"
    children: list[int] = []
    while len(children) < 2:
        children = running(parent.pid)
    parent.send_signal(how)
    parent.wait(60)
    parent.stdout.close()
    for _ in range(100_000):
        if not [child for child in children if alive(child)]:
            return
    pytest.fail("a process that decodes is still there")


def alive(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0] not in ("Z", "X")
    except OSError:
        return False


def test_a_process_holds_what_decoding_needs_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    told = """
import json, os, resource, sys
from osler.sources import worker
real = worker.Here.decode
def decode(self, data, keep=()):
    limits = {name: resource.getrlimit(getattr(resource, name))[0] for name in dir(resource) if name[:6] == "RLIMIT"}
    raise worker.SourceError(json.dumps([sorted(sys.modules), sorted(os.environ), limits]), code="told")
worker.Here.decode = decode
worker.main(int(sys.argv[1]), sys.argv[2] == "dicom")
"""
    import json

    monkeypatch.setattr(process, "PROGRAM", told)
    monkeypatch.setattr(process, "_MESSAGE_LENGTH", 1 << 20)
    monkeypatch.setenv("TOKEN_OF_SOMETHING", "secret")
    decoder = Workers(1)
    with pytest.raises(SourceError) as caught:
        decoder.decode(build(np.zeros((4, 4), np.uint8)))
    decoder.close()
    modules, environment, limits = json.loads(str(caught.value))
    assert {"pydicom", "imagecodecs", "PIL.TiffImagePlugin"} <= set(modules)
    heavy = {"onnxruntime", "polars", "pandas", "osler.index", "osler.collection", "osler.encoders", "site"}
    assert not heavy & set(modules)
    assert "TOKEN_OF_SOMETHING" not in environment
    assert (limits["RLIMIT_CORE"], limits["RLIMIT_NOFILE"], limits["RLIMIT_FSIZE"]) == (0, 0, 0)
    assert 0 < limits["RLIMIT_AS"] < LIMITS.decode_bytes + (1 << 30)
    assert 0 < limits["RLIMIT_CPU"] <= LIMITS.decode_seconds + 60


@pytest.mark.parametrize("executable", ["", "/bin/false", "/no/such/file"])
def test_a_program_that_can_start_no_interpreter_is_told_so(executable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spawn, "get_executable", lambda: executable)
    decoder = Workers(1)
    for _ in range(2):
        with pytest.raises(osler.Error, match="OSLER_DECODE_IN_PROCESS=1") as caught:
            decoder.decode(png())
        assert caught.value.code == "no_worker"
    decoder.close()


def test_it_can_be_done_in_this_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(spawn, "get_executable", lambda: "/bin/false")
    monkeypatch.setenv("OSLER_DECODE_IN_PROCESS", "1")
    (tmp_path / "a.png").write_bytes(png())
    with osler.Collection.create(tmp_path / "cases.osler", encoder=Means()) as cases:
        assert cases.add(tmp_path / "a.png", progress=False).added == 1
    assert capfd.readouterr() == ("", "")


def test_a_source_alone_decodes_here(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png(9))
    source = open_source(tmp_path)
    assert source.read(source.entries[0]).values[0][0, 0] == 9
    assert running() == []


def test_a_pipe_in_a_folder_of_series_stops_nothing(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "a.dcm").write_bytes(build(np.zeros((4, 4), np.uint8), SeriesInstanceUID="1.2"))
    assert len(open_source(tmp_path, items="series")) == 2


@pytest.mark.usefixtures("planted")
def test_limits_cannot_be_raised_and_nothing_printed_is_heard(decoder: Workers) -> None:
    for fault in ("RAISED", "PRINT"):
        assert decoder.decode(png(fault=fault)).frames[0][0, 0] == 7
    assert decoder.broken == 0


@pytest.mark.usefixtures("planted")
def test_messages_can_be_printed(decoder: Workers) -> None:
    with pytest.raises(SourceError) as failure:
        decoder.decode(png(fault="ESCAPES"))
    assert str(failure.value).isprintable() and str(failure.value).encode()


GREETING = b'{"frames": [], "peak": 1}'
# Says that it is ready, and is gone before it has read anything.
GONE = f"import os, struct; os.write(1, struct.pack('<QQ', {len(GREETING)}, 0) + {GREETING!r})"


def test_a_program_that_broken_pipes_end_is_not_ended() -> None:
    script = f"""
import signal
signal.signal(signal.SIGPIPE, signal.SIG_DFL)
from osler.errors import SourceError
from osler.sources import process, workers
process.PROGRAM = {GONE!r}
try:
    workers.Workers(1).decode({png()!r} + bytes(30 << 20))
except SourceError as error:
    print(error.code)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (0, "crashed\n"), done.stderr


def test_a_forked_program_is_told_that_the_processes_are_not_its_own(decoder: Workers) -> None:
    decoder.decode(png())
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            decoder.decode(png())
        except osler.Error as error:
            os.write(writing, error.code.encode())
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as stream:
        assert stream.read() == b"closed"
    os.waitpid(child, 0)
    assert decoder.decode(png(9)).frames[0][0, 0] == 9


def test_frames_of_one_large_file_of_a_series_are_decoded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from osler.sources import series
    from osler.sources.decoder import Here
    from pydicom.data import get_testdata_file

    monkeypatch.setattr(series, "KEPT_BYTES", 9)
    source = tmp_path / "a.dcm"
    source.write_bytes(Path(str(get_testdata_file("color3d_jpeg_baseline.dcm", download=False))).read_bytes())
    decoded = []

    class Counting(Here):
        def decode(self, data: bytes, keep: Any = ()) -> Any:
            decoded.append(1)
            return super().decode(data, keep)

    opened = open_source(tmp_path, items="series", decoder=Counting())
    item = opened.read(opened.entries[0])
    assert [item.values[at].shape for at in range(5)]
    assert len(decoded) == 2
