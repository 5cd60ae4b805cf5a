"""Files are decoded in processes of their own: what a decoder does there costs one file and reaches nothing else."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import evil_decoder
import pytest
from osler.errors import Error, SourceError
from osler.sources import workers
from osler.sources.decoder import Here
from osler.sources.workers import Workers
from pydicom.data import get_testdata_file


@pytest.fixture
def evil() -> Iterator[Workers]:
    with evil_decoder.evil():
        found = Workers(2)
        yield found
        found.close()


@pytest.mark.parametrize(
    ("what", "code", "words"),
    [
        ("segv", "crashed", "SIGSEGV"),
        ("abort", "crashed", "SIGABRT"),
        ("exit", "crashed", "status 3"),
        ("memory", "too_large", "OSLER_LIMIT_DECODE_BYTES"),
        ("leak", "too_large", "OSLER_LIMIT_DECODE_BYTES"),
        ("spin", "too_slow", "OSLER_LIMIT_DECODE_SECONDS"),
        ("sleep", "too_slow", "OSLER_LIMIT_DECODE_SECONDS"),
        ("columns", "crashed", "no right answer"),
        ("identifiers", "crashed", "no right answer"),
        ("format", "crashed", "no right answer"),
        ("none", "crashed", "no right answer"),
        ("objects", "crashed", "no right answer"),
        ("deep", "crashed", "no right answer"),
        ("garbage", "crashed", "no right answer"),
        ("cut", "crashed", "ended"),
        ("error", "decode_failed", "is his name"),
        ("fault", "decode_failed", "cannot be decoded"),
    ],
)
def test_a_file_costs_itself_alone(evil: Workers, what: str, code: str, words: str) -> None:
    assert evil.decode(evil_decoder.picture(value=7)).frames[0][0, 0] == 7
    with pytest.raises(SourceError, match=words) as failure:
        evil.decode(evil_decoder.picture(what))
    assert failure.value.code == code
    assert "\n" not in str(failure.value)
    assert what == "error" or "Doe" not in str(failure.value)
    assert evil.decode(evil_decoder.picture(value=9)).frames[0][0, 0] == 9


def test_what_is_printed_is_not_heard_and_files_and_sockets_are_out_of_reach(
    evil: Workers, capfd: pytest.CaptureFixture[str]
) -> None:
    for what in ("print", "files"):
        assert evil.decode(evil_decoder.picture(what)).frames[0].shape == (4, 5)
    assert capfd.readouterr() == ("", "")
    assert evil.broken == 0


def test_a_decoder_in_another_process_gives_what_one_in_this_gives() -> None:
    found = Workers(2)
    try:
        for name in ("CT_small.dcm", "color3d_jpeg_baseline.dcm", "JPEG2000.dcm", "examples_overlay.dcm"):
            path = get_testdata_file(name, download=False)
            if path is None:
                continue
            data = Path(str(path)).read_bytes()
            here, there = Here().decode(data, ["StudyDate"]), found.decode(data, ["StudyDate"])
            assert (here.format, here.columns, here.identifiers) == (there.format, there.columns, there.identifiers)
            assert len(here.frames) == len(there.frames)
            for one, other in zip(here.frames, there.frames, strict=True):
                assert one.dtype == other.dtype and (one == other).all() and not other.flags.writeable
            assert Here().header(data) == found.header(data)
        assert found.header(b"no file at all") is None
        with pytest.raises(SourceError) as failure:
            found.decode(evil_decoder.picture()[:40])
        with pytest.raises(SourceError) as same:
            Here().decode(evil_decoder.picture()[:40])
        assert (failure.value.code, str(failure.value)) == (same.value.code, str(same.value))
        assert found.broken == 0 and 0 < found.peak < 512 << 20
    finally:
        found.close()


def test_frames_that_are_too_large_to_be_kept_are_decoded_when_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    data = Path(str(get_testdata_file("color3d_jpeg_baseline.dcm", download=False))).read_bytes()
    here = Here().decode(data)
    small = workers.PROGRAM.replace(
        "from osler.sources.worker", "import osler.sources.worker as w; w.KEPT_BYTES = 9; from osler.sources.worker"
    )
    monkeypatch.setattr(workers, "PROGRAM", small)
    monkeypatch.setattr(workers, "KEPT_BYTES", 9)
    found = Workers(1)
    try:
        there = found.decode(data)
        assert not isinstance(there.frames, tuple) and len(there.frames) == len(here.frames)
        for at in (3, 0, 3, len(here.frames) - 1):
            assert (there.frames[at] == here.frames[at]).all()
    finally:
        found.close()


def test_any_number_of_threads_may_ask() -> None:
    found = Workers(3)
    answers: list[tuple[int, int]] = []

    def ask(first: int) -> None:
        for value in range(first, first + 20):
            answers.append((value, int(found.decode(evil_decoder.picture(value=value)).frames[0][1, 1])))

    threads = [threading.Thread(target=ask, args=(20 * at,)) for at in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found.close()
    assert sorted(answers) == [(value, value) for value in range(160)]
    with pytest.raises(Error) as failure:
        found.decode(evil_decoder.picture())
    assert failure.value.code == "closed"


SCRIPT = """
import sys, threading, time
from osler.sources import workers
workers.PROGRAM = {evil!r}
found = workers.Workers(2)
threads = [threading.Thread(target=lambda: found.decode({data!r}), daemon=True) for _ in range(2)]
for thread in threads: thread.start()
while len(found._running) < 2 or not all(process._ready for process in found._running): time.sleep(0.01)
print(*(process._process.pid for process in found._running), flush=True)
time.sleep(600)
"""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_no_process_outlives_the_program(how: signal.Signals) -> None:
    script = SCRIPT.format(evil=evil_decoder.PROGRAM, data=evil_decoder.picture("sleep"))
    command = [sys.executable, "-c", script]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as program:
        assert program.stdout is not None
        children = [int(number) for number in program.stdout.readline().split()]
        assert len(children) == 2
        os.kill(program.pid, how)
        program.wait(timeout=60)
    for child in children:
        wait_for(lambda child=child: not is_running(child))


def is_running(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def wait_for(done: Callable[[], bool]) -> None:
    # A limit that only stops a hang.
    end = time.monotonic() + 60
    while not done():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_closing_ends_what_is_under_way(evil: Workers) -> None:
    caught: list[BaseException] = []

    def ask() -> None:
        try:
            evil.decode(evil_decoder.picture("sleep"))
        except (SourceError, Error) as error:
            caught.append(error)

    thread = threading.Thread(target=ask)
    thread.start()
    wait_for(lambda: any(process._ready for process in evil._running))
    children = [process._process.pid for process in evil._running]
    evil.close()
    thread.join(timeout=60)
    assert caught and not any(is_running(child) for child in children)


def test_secrets_of_the_environment_stay_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_TOKEN", "1234")
    assert "SECRET_TOKEN" not in workers._environment()
    assert workers._environment()["OSLER_LIMIT_FRAMES"] == str(workers.LIMITS.frames)
