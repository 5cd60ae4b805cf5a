"""A process that decodes has given up what decoding does not need; where a system lacks the means, it still decodes."""

from __future__ import annotations

import io
import json
import os
import platform
import re
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import osler
import pytest
from dicom_files import package_files
from osler.errors import SourceError
from osler.sources import process, system_calls, worker
from osler.sources.decoder import Decoded, Here
from osler.sources.workers import Workers
from PIL import Image

HEADERS = (Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h"), Path("/usr/include/asm-generic/unistd.h"))
FILTERS = sys.platform == "linux" and platform.machine() in ("x86_64", "aarch64")
# A decoder that was taken over: it runs what is written here, and says what it got.
TAKEN = """
import ctypes, json, mmap, os, signal, sys
from osler.sources import worker
libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
libc.syscall.restype = ctypes.c_long
held = libc.mmap(None, ctypes.c_size_t(4096), 3, 0x22, -1, ctypes.c_size_t(0))
parent, path = os.getppid(), {path!r}.encode()
calls = {{
    "open": lambda: libc.open(path, 0),
    "unlink": lambda: libc.unlink(path),
    "rename": lambda: libc.rename(path, path + b"2"),
    "link": lambda: libc.link(path, path + b"2"),
    "symlink": lambda: libc.symlink(path, path + b"2"),
    "truncate": lambda: libc.truncate(path, ctypes.c_long(0)),
    "chmod": lambda: libc.chmod(path, 0o777),
    "chown": lambda: libc.chown(path, -1, -1),
    "mkdir": lambda: libc.mkdir(path + b"2", 0o700),
    "chdir": lambda: libc.chdir(b"/"),
    "utime": lambda: libc.utimes(path, None),
    "kill the parent": lambda: libc.kill(parent, 0),
    "kill itself": lambda: libc.kill(os.getpid(), 9),
    "kill a thread of the parent": lambda: libc.tgkill(parent, parent, 0),
    "fork": lambda: libc.fork(),
    "clone": lambda: libc.syscall(ctypes.c_long(56 if {x86} else 220), 17, None, None, None, None),
    "exec": lambda: libc.execl(b"/bin/true", b"true", None),
    "socket": lambda: libc.socket(2, 1, 0),
    "ptrace": lambda: libc.ptrace(ctypes.c_long(16), parent, None, None),
    "read the parent": lambda: libc.process_vm_readv(parent, None, 0, None, 0, 0),
    "limits of the parent": lambda: libc.prlimit(parent, 7, None, None),
    "priority of the parent": lambda: libc.setpriority(0, parent, 5),
    "shared memory": lambda: libc.shmget(0, ctypes.c_size_t(4096), 0o1600),
    "a file in memory": lambda: libc.memfd_create(b"x", 0),
    "dumps again": lambda: libc.prctl(4, 1, 0, 0, 0),
    "code": lambda: -1 if libc.mmap(None, ctypes.c_size_t(4096), 7, 0x22, -1, ctypes.c_size_t(0)) == 2**64 - 1 else 0,
    "data made code": lambda: libc.mprotect(ctypes.c_void_p(held), ctypes.c_size_t(4096), 5),
}}

def decode(self, data, keep=()):
    got = {{}}
    for name, call in calls.items():
        ctypes.set_errno(0)
        got[name] = [int(call()), ctypes.get_errno()]
    raise worker.SourceError(json.dumps(got), code="told")

worker.Here.decode = decode
worker.main(int(sys.argv[1]), sys.argv[2] == "dicom")
"""


def png(value: int = 7) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.full((8, 8), value, np.uint8)).save(stream, "PNG")
    return stream.getvalue()


@pytest.fixture
def decoder() -> Iterator[Workers]:
    made = Workers(1)
    yield made
    made.close()


@pytest.mark.skipif(not FILTERS, reason="filters of system calls are those of Linux on x86-64 and aarch64")
def test_a_decoder_that_is_taken_over_is_refused_every_call(
    decoder: Workers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    victim = tmp_path / "victim"
    victim.write_text("kept")
    victim.chmod(0o600)
    program = TAKEN.format(path=str(victim), x86=platform.machine() == "x86_64")
    monkeypatch.setattr(process, "PROGRAM", program)
    monkeypatch.setattr(process, "_MESSAGE_LENGTH", 1 << 20)
    with pytest.raises(SourceError) as caught:
        decoder.decode(png())
    got = json.loads(str(caught.value))
    assert len(got) == 27
    assert {name: answer for name, answer in got.items() if answer != [-1, 1]} == {}
    assert (victim.read_text(), victim.stat().st_mode & 0o777) == ("kept", 0o600)
    assert os.listdir(tmp_path) == ["victim"]
    # The same calls are not refused to a process that has no filter: the test can fail.
    bare = program.replace(
        "from osler.sources import worker\n", "from osler.sources import worker\nworker.only_decoding = bool\n"
    )
    for dangerous in ("kill itself", "fork", "clone", "exec", "ptrace", "priority of the parent", "dumps again"):
        bare = re.sub(rf'    "{dangerous}": .*\n', "", bare)
    monkeypatch.setattr(process, "PROGRAM", bare)
    with closing(Workers(1)) as other, pytest.raises(SourceError) as caught:
        other.decode(png())
    got = json.loads(str(caught.value))
    assert {"unlink", "chmod", "kill the parent", "code", "data made code"} <= {
        name for name, answer in got.items() if answer != [-1, 1]
    }


@pytest.mark.skipif(not FILTERS, reason="filters of system calls are those of Linux on x86-64 and aarch64")
def test_every_format_is_decoded_under_the_filter(decoder: Workers) -> None:
    """What a decoder needs is allowed, or it would answer otherwise than one without a filter."""
    here, seen = Here(), 0
    for path in package_files():
        data = Path(path).read_bytes()
        if len(data) > 2 << 20:
            continue
        assert outcome(decoder.decode, data) == outcome(here.decode, data), path
        seen += 1
    assert seen > 100
    process = decoder._idle.get()
    assert process is not None and process.filtered
    decoder._idle.put(process)


def outcome(decode: Callable[[bytes], Decoded], data: bytes) -> object:
    try:
        found = decode(data)
        return found.columns, [frame.tobytes() for frame in found.frames]
    except SourceError as error:
        return error.code


@pytest.mark.skipif(not all(path.exists() for path in HEADERS), reason="no headers of Linux here")
def test_numbers_are_those_of_the_kernel() -> None:
    names = {
        **system_calls._ALLOWED,
        "mmap": system_calls._MMAP,
        "mprotect": system_calls._MPROTECT,
        "tgkill": system_calls._TGKILL,
        "prlimit64": system_calls._PRLIMIT,
    }
    for column, header in enumerate(HEADERS):
        found = dict(re.findall(r"#define __NR(?:3264)?_(\w+)\s+(\d+)", header.read_text()))
        assert {name: str(numbers[column]) for name, numbers in names.items()}.items() <= found.items()
        install = [number for _, number, of in system_calls._MACHINES.values() if of == column]
        assert [found["seccomp"]] == [str(number) for number in install]


def test_without_a_filter_files_are_decoded_all_the_same(decoder: Workers, monkeypatch: pytest.MonkeyPatch) -> None:
    other = "import platform; platform.machine = lambda: 'riscv64'; from osler.sources.worker import main; "
    monkeypatch.setattr(process, "PROGRAM", worker.PROGRAM.replace("from osler.sources.worker import main; ", other))
    assert decoder.decode(png(3)).frames[0][0, 0] == 3
    started = decoder._idle.get()
    assert started is not None and not started.filtered
    decoder._idle.put(started)


def test_a_system_that_tells_nothing_of_processes_will_do(decoder: Workers, monkeypatch: pytest.MonkeyPatch) -> None:
    """No /proc: memory is not limited, time is, and no peak is known."""
    hidden = (
        "import os, builtins; _os, _io = os.open, builtins.open\n"
        "def _of(real):\n"
        "    def opened(path, *args, **named):\n"
        "        if str(path).startswith('/proc'): raise FileNotFoundError(path)\n"
        "        return real(path, *args, **named)\n"
        "    return opened\n"
        "os.open, builtins.open = _of(_os), _of(_io)\n"
    )
    monkeypatch.setattr(process, "PROGRAM", hidden + worker.PROGRAM)
    assert decoder.decode(png(4)).frames[0][0, 0] == 4
    assert decoder.peak == 0 and decoder.broken == 0


def test_a_module_path_longer_than_arguments_may_be(decoder: Workers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path, *(f"/no/such/folder/{number:0200}" for number in range(20_000))])
    assert decoder.decode(png(5)).frames[0][0, 0] == 5


def test_one_that_is_killed_from_outside_costs_its_file(decoder: Workers) -> None:
    assert decoder.decode(png(5)).frames[0][0, 0] == 5
    (process,) = decoder._running
    os.kill(process._process.pid, signal.SIGKILL)
    with pytest.raises(SourceError, match="was killed, as systems do when memory runs out") as caught:
        decoder.decode(png())
    assert caught.value.code == "crashed"
    assert decoder.decode(png(6)).frames[0][0, 0] == 6


def test_one_that_dies_while_it_starts_is_started_again(
    decoder: Workers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    marks = tmp_path / "starts"
    dies = f"import os\nif not os.path.exists({str(marks)!r}):\n    os.mkdir({str(marks)!r})\n    os._exit(1)\n"
    monkeypatch.setattr(process, "PROGRAM", dies + worker.PROGRAM)
    assert decoder.decode(png(8)).frames[0][0, 0] == 8
    assert marks.exists() and decoder.broken == 0
    monkeypatch.setattr(process, "PROGRAM", "import os; os._exit(1)")
    with closing(Workers(1)) as other, pytest.raises(osler.Error) as caught:
        other.decode(png())
    assert caught.value.code == "no_worker"
