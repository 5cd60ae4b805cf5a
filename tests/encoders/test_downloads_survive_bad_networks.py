"""A download ends with the right bytes under their name or with one sentence, whatever network, server or kill do."""

from __future__ import annotations

import errno
import gzip
import json
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hub_entry import FILES, HUB, REVISION, checkpoint_entry, enter, program, tiny_entry, tiny_hub
from hub_server import Fault, HubServer, hub_server
from osler import EncoderError
from osler.encoders import hub as client
from osler.encoders.fetch import plan_pull, pull_encoder
from osler.encoders.registry import home_folder
from tiny_encoder import TinyEncoder

pytestmark = pytest.mark.sockets

LARGE = "weights.bin"
SIZE = 300_000


@pytest.fixture
def hub(tiny: TinyEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    """A hub whose encoder is one checkpoint of some size, so that every fault hits it."""
    with tiny_hub(tiny, tmp_path / "home", monkeypatch) as server:
        content = os.urandom(SIZE)
        server.repositories[HUB].commits[REVISION][LARGE] = content
        enter(checkpoint_entry(), tiny.manifest["image"]["recipe"])
        monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
        yield server


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    seconds: list[float] = []
    monkeypatch.setattr(client, "_pause", seconds.append)
    return seconds


def pull() -> int:
    return pull_encoder(plan_pull("tiny-hub")).fetched


def arrived() -> bytes:
    return (home_folder("tiny-hub") / "checkpoint" / LARGE).read_bytes()


def content(hub: HubServer) -> bytes:
    return hub.repositories[HUB].commits[REVISION][LARGE]


def staged() -> dict[str, int]:
    folder = home_folder("tiny-hub") / "checkpoint" / ".pull"
    return {path.name: path.stat().st_size for path in folder.iterdir()} if folder.exists() else {}


def ranges(hub: HubServer) -> list[str | None]:
    return [one.headers.get("range") for one in hub.asked("storage", LARGE)]


def stop_after(hub: HubServer, count: int) -> None:
    """Let a first pull fail for good once `count` bytes have come."""
    refusals = [Fault(status=500) for _ in range(client._ATTEMPTS)]
    hub.plant("storage", LARGE, Fault(cut=count), *refusals)
    with pytest.raises(EncoderError, match="times in a row; run the same command again") as caught:
        pull()
    assert caught.value.code == "network"
    assert staged()[f"{LARGE}.part"] == count
    assert not (home_folder("tiny-hub") / "checkpoint" / LARGE).exists()
    hub._faults.clear()
    hub.requests.clear()


def test_a_connection_that_breaks_off_is_taken_up_within_the_same_pull(hub: HubServer) -> None:
    hub.plant("storage", LARGE, Fault(cut=100_000), Fault(cut=50_000), Fault(cut=1))
    assert pull() == 1 and arrived() == content(hub)
    assert ranges(hub) == [None, "bytes=100000-", "bytes=150000-", "bytes=150001-"]
    assert all("if-range" in one.headers for one in hub.asked("storage", LARGE)[1:])


def test_a_body_that_ends_early_without_having_told_its_length_is_noticed(hub: HubServer) -> None:
    hub.plant("storage", LARGE, Fault(cut=1000, open_end=True))
    assert pull() == 1 and arrived() == content(hub)


def test_a_later_pull_goes_on_where_the_first_one_stopped(hub: HubServer) -> None:
    stop_after(hub, 123_456)
    assert pull() == 1 and arrived() == content(hub)
    assert ranges(hub) == ["bytes=123456-"]
    assert staged() == {}


def test_a_server_that_ignores_the_range_gives_the_whole_file(hub: HubServer) -> None:
    stop_after(hub, 123_456)
    hub.plant("storage", LARGE, Fault(ignore_range=True))
    assert pull() == 1 and arrived() == content(hub)


@pytest.mark.parametrize(
    "fault",
    [
        Fault(shift=5),
        Fault(etag="another"),
        Fault(etag="another", blind=True, body=os.urandom(SIZE - 123_456)),
    ],
    ids=["begins later", "refused for its ETag", "of another content"],
)
def test_a_part_that_does_not_fit_is_never_joined(hub: HubServer, fault: Fault) -> None:
    stop_after(hub, 123_456)
    hub.plant("storage", LARGE, fault)
    assert pull() == 1 and arrived() == content(hub)


def test_a_range_of_compressed_bytes_is_no_range_of_the_file(hub: HubServer) -> None:
    stop_after(hub, 123_456)
    packed = gzip.compress(content(hub))
    faults = [Fault(headers={"Content-Encoding": "gzip"}, body=body) for body in (packed[123_456:], packed)]
    hub.plant("storage", LARGE, *faults)
    assert pull() == 1 and arrived() == content(hub)
    assert ranges(hub) == ["bytes=123456-", None]


def test_a_file_that_changed_between_two_attempts_begins_anew(hub: HubServer, tiny: TinyEncoder) -> None:
    stop_after(hub, 123_456)
    hub.repositories[HUB].commits[REVISION][LARGE] = os.urandom(SIZE)
    assert pull() == 1 and arrived() == content(hub)
    assert ranges(hub) == [None], "bytes of the former file were kept"


@pytest.mark.parametrize(
    "spoil",
    [
        lambda part, record: part.write_bytes(b"x" * (SIZE + 1)),
        lambda part, record: record.write_bytes(b"{"),
        lambda part, record: record.write_bytes(b"[1]"),
        lambda part, record: record.unlink(),
    ],
    ids=["longer than the file", "record cut", "record of another kind", "no record"],
)
def test_a_part_that_cannot_be_trusted_begins_anew(hub: HubServer, spoil: Callable[[Path, Path], Any]) -> None:
    stop_after(hub, 123_456)
    folder = home_folder("tiny-hub") / "checkpoint" / ".pull"
    spoil(folder / f"{LARGE}.part", folder / f"{LARGE}.part.json")
    assert pull() == 1 and arrived() == content(hub)
    assert ranges(hub) == [None]


def test_a_part_whose_bytes_rotted_is_found_by_its_hash_and_the_next_pull_succeeds(hub: HubServer) -> None:
    stop_after(hub, 123_456)
    part = home_folder("tiny-hub") / "checkpoint" / ".pull" / f"{LARGE}.part"
    part.write_bytes(b"y" + part.read_bytes()[1:])
    with pytest.raises(EncoderError, match=r"weights.bin does not have the SHA-256 that is expected"):
        pull()
    assert set(staged()) == {".lock"}, "something of it was kept"
    assert pull() == 1 and arrived() == content(hub)


def test_wrong_bytes_never_get_the_name(hub: HubServer) -> None:
    hub.plant("storage", LARGE, Fault(body=os.urandom(SIZE)))
    with pytest.raises(EncoderError, match=r"weights.bin does not have the SHA-256") as caught:
        pull()
    assert caught.value.code == "hash_mismatch" and "\n" not in str(caught.value)
    assert set(staged()) == {".lock"}
    assert not (home_folder("tiny-hub") / "checkpoint" / LARGE).exists()


@pytest.mark.parametrize("open_end", [False, True])
def test_more_bytes_than_declared_are_cut_off(hub: HubServer, open_end: bool) -> None:
    hub.plant("storage", LARGE, Fault(body=content(hub) + bytes(50_000_000), open_end=open_end))
    with pytest.raises(EncoderError, match=f"sends more than the {SIZE} bytes that were declared") as caught:
        pull()
    assert caught.value.code == "hash_mismatch"
    assert set(staged()) == {".lock"}


@pytest.mark.parametrize(
    "headers",
    [{"X-Linked-Etag": f'"{"0" * 64}"'}, {"X-Linked-Size": "7"}, {"X-Repo-Commit": "3" * 40}],
)
def test_another_content_than_the_list_declared_is_refused_before_its_first_byte(
    hub: HubServer, headers: dict[str, str]
) -> None:
    hub.plant("hub", LARGE, Fault(headers=headers))
    with pytest.raises(EncoderError, match="offers another content than the one that is expected") as caught:
        pull()
    assert caught.value.code == "hash_mismatch"


def test_a_server_that_asks_to_wait_is_obeyed(hub: HubServer, waits: list[float]) -> None:
    hub.plant("hub", "api", Fault(status=429, headers={"Retry-After": "7"}))
    hub.plant("storage", LARGE, Fault(status=503, headers={"Retry-After": "3"}), Fault(status=502))
    assert pull() == 1 and arrived() == content(hub)
    assert waits == [7, 3, 1.0]


def test_a_server_that_asks_to_wait_for_long_is_told_to_the_user(hub: HubServer, waits: list[float]) -> None:
    hub.plant("hub", "api", Fault(status=429, headers={"Retry-After": "3600"}))
    with pytest.raises(EncoderError, match="status 429 and asks to wait for 3600 seconds; run the same command again"):
        pull()
    assert waits == []


@pytest.mark.parametrize("where", ["api", LARGE])
@pytest.mark.parametrize("status", [408, 500, 503])
def test_a_server_that_stays_broken_is_given_up(hub: HubServer, waits: list[float], where: str, status: int) -> None:
    hub.plant("hub", where, *[Fault(status=status) for _ in range(9)])
    with pytest.raises(EncoderError, match=f"the hub answers with status {status}, 5 times in a row"):
        pull()
    assert waits == [0.5, 1, 2, 4]


def test_a_link_of_the_storage_that_expired_is_asked_for_again(hub: HubServer) -> None:
    hub.plant("storage", LARGE, Fault(status=403))
    assert pull() == 1 and arrived() == content(hub)
    assert len(hub.asked("hub", LARGE)) == 2


def test_a_hub_that_is_not_there_is_said(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.close()
    with pytest.raises(EncoderError, match=r"127.0.0.1 cannot be reached, or broke off, 5 times in a row") as caught:
        pull()
    assert caught.value.code == "network" and "\n" not in str(caught.value)
    monkeypatch.setenv("HF_ENDPOINT", "ftp://127.0.0.1")
    with pytest.raises(EncoderError, match="HF_ENDPOINT is not an address"):
        pull()


def test_a_server_that_does_not_answer_is_said(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "_SECONDS", 0.2)
    release = threading.Event()
    hub.plant("storage", LARGE, *[Fault(cut=0, hold=release) for _ in range(5)])
    try:
        with pytest.raises(EncoderError, match=r"127.0.0.1 does not answer, 5 times in a row"):
            pull()
    finally:
        release.set()


def test_the_token_goes_to_the_hub_and_nowhere_else(hub: HubServer, monkeypatch: pytest.MonkeyPatch, caplog) -> None:
    caplog.set_level("DEBUG")
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    hub.tokens["hf_secret"] = {HUB}
    hub.repositories[HUB].gated = "manual"
    pull_encoder(plan_pull("tiny-hub"), accept_licence=True)
    assert {one.headers.get("authorization") for one in hub.asked("hub")} == {"Bearer hf_secret"}
    assert hub.asked("storage") and not [one for one in hub.asked("storage") if "authorization" in one.headers]
    written = [path.read_bytes() for path in home_folder("tiny-hub").rglob("*") if path.is_file()]
    assert not [one for one in written if b"hf_secret" in one]
    assert "hf_secret" not in caplog.text


def test_the_token_of_a_login_is_used(hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    (tmp_path / "token").write_text("hf_login\n")
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    hub.tokens["hf_login"] = set()
    plan_pull("tiny-hub")
    assert hub.requests[0].headers["authorization"] == "Bearer hf_login"


def test_no_request_tells_what_is_installed(hub: HubServer) -> None:
    pull()
    names = {name for one in hub.requests for name in one.headers}
    assert names <= {"host", "accept", "accept-encoding", "connection", "user-agent", "x-amzn-trace-id"}
    assert {one.headers["user-agent"].partition("/")[0] for one in hub.requests} == {"osler"}
    assert {one.headers["accept-encoding"] for one in hub.requests} == {"identity"}, "ranges are of the plain bytes"
    assert {one.path.partition("/")[2].partition("/")[0] for one in hub.asked("hub")} == {"api", HUB.partition("/")[0]}


@pytest.mark.parametrize("target", ["http://storage.example/x", "ftp://127.0.0.1/x", "file:///etc/hostname", "//[x"])
def test_redirects_in_the_clear_or_to_other_protocols_are_refused(hub: HubServer, target: str) -> None:
    hub.plant("hub", LARGE, Fault(headers={"Location": target}))
    with pytest.raises(EncoderError, match=r"without https, and that was refused|does not answer as a model hub"):
        pull()
    assert not hub.asked("storage")


def test_redirects_in_a_circle_end(hub: HubServer) -> None:
    place = f"{hub.endpoint}/{HUB}/resolve/{REVISION}/{LARGE}"
    hub.plant("hub", LARGE, *[Fault(headers={"Location": place}) for _ in range(9)])
    with pytest.raises(EncoderError, match="redirects in a circle"):
        pull()


def test_a_hub_without_https_gets_no_token(monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    plain = client.Hub("http://user:pass@hub.example")
    assert plain._authorised({}) == {} and "your token is not sent" in capsys.readouterr().err
    assert plain.endpoint == "http://hub.example"
    assert client.Hub("https://hub.example")._authorised({}) == {"Authorization": "Bearer hf_secret"}


@pytest.mark.parametrize(
    ("token", "gated", "message", "code"),
    [
        (None, "auto", r"accounts that accepted its terms only; accept them at {page}, then set HF_TOKEN", "gated"),
        (
            "hf_new",
            "auto",
            r"the account of your token was not given osler-tests/tiny yet; accept .* at {page}",
            "gated",
        ),
        ("hf_bad", False, "the hub does not accept your token; set HF_TOKEN to a new one", "token"),
        (
            None,
            None,
            r"has no repository osler-tests/tiny, or shows it to some .*{page}.*HF_TOKEN",
            "repository_missing",
        ),
        ("hf_new", None, r"has no repository osler-tests/tiny, or shows it", "repository_missing"),
    ],
)
def test_who_may_not_read_is_told_the_page_and_the_token(
    hub: HubServer, monkeypatch: pytest.MonkeyPatch, token: str | None, gated: Any, message: str, code: str
) -> None:
    hub.tokens["hf_new"] = set()
    if token is not None:
        monkeypatch.setenv("HF_TOKEN", token)
    if gated is None:
        del hub.repositories[HUB]
    else:
        hub.repositories[HUB].gated = gated
    with pytest.raises(EncoderError, match=message.format(page=f"{hub.endpoint}/{HUB}")) as caught:
        pull_encoder(plan_pull("tiny-hub"), accept_licence=True)
    assert caught.value.code == code and "\n" not in str(caught.value)
    assert (token or "hf_") not in str(caught.value) or token is None


def test_commits_and_files_that_are_not_there_are_said(hub: HubServer) -> None:
    with pytest.raises(EncoderError, match=r"osler-tests/tiny has no commit, branch or tag 'v9'") as caught:
        plan_pull("tiny-hub", revision="v9")
    assert caught.value.code == "revision_missing"
    plan = plan_pull("tiny-hub")
    del hub.repositories[HUB].commits[REVISION][LARGE]
    with pytest.raises(EncoderError, match=r"has no file weights.bin at commit 111111111111") as caught:
        pull_encoder(plan)
    assert caught.value.code == "file_missing"


def test_too_little_space_is_said_before_a_byte_comes(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=SIZE - 1))
    with pytest.raises(EncoderError, match=r"0 MB are to be fetched and 0 MB are free; free some space") as caught:
        pull()
    assert caught.value.code == "disk_full" and not hub.asked("storage")


PULL = "from osler.encoders.fetch import plan_pull, pull_encoder\npull_encoder(plan_pull('tiny-hub'))"


@pytest.fixture
def start(tiny: TinyEncoder) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start a pull in a process of its own."""
    running = []

    def call(body: str = PULL, **options: Any) -> subprocess.Popen[str]:
        text = program(checkpoint_entry(), tiny.manifest["image"]["recipe"], body)
        process = subprocess.Popen(
            [sys.executable, "-c", text], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options
        )
        running.append(process)
        return process

    yield call
    for process in running:
        process.kill()
        process.communicate()


def wait_for(what: Callable[[], bool]) -> None:
    for _ in range(3000):
        if what():
            return
        time.sleep(0.01)
    raise AssertionError("it did not happen")


def test_a_killed_pull_is_gone_on_with(hub: HubServer, start: Callable[..., subprocess.Popen[str]]) -> None:
    release = threading.Event()
    hub.plant("storage", LARGE, Fault(cut=200_000, hold=release))
    process = start()
    wait_for(lambda: staged().get(f"{LARGE}.part") == 200_000)
    process.send_signal(signal.SIGKILL)
    process.wait()
    release.set()
    assert not (home_folder("tiny-hub") / "checkpoint" / LARGE).exists()
    assert pull() == 1 and arrived() == content(hub)
    assert ranges(hub) == [None, "bytes=200000-"]


def test_of_two_pulls_at_once_the_second_waits_and_fetches_nothing(
    hub: HubServer, start: Callable[..., subprocess.Popen[str]]
) -> None:
    release = threading.Event()
    hub.plant("storage", LARGE, Fault(cut=SIZE - 1, hold=release))
    first = start()
    wait_for(lambda: staged().get(f"{LARGE}.part") == SIZE - 1)
    second = start(PULL.replace("pull_encoder(plan", "print(pull_encoder(plan").replace("'))", "')).fetched)"))
    assert second.stderr is not None
    assert second.stderr.readline() == "osler: another pull of tiny-hub is at work; waiting for it\n"
    release.set()
    assert first.wait(60) == 0, first.communicate()
    out, err = second.communicate(timeout=60)
    assert (second.returncode, out, err) == (0, "0\n", "")
    assert arrived() == content(hub) and len(ranges(hub)) == 1 and staged() == {}


def test_a_full_disk_keeps_what_came_and_the_next_pull_goes_on(
    hub: HubServer, start: Callable[..., subprocess.Popen[str]]
) -> None:
    body = f"try:\n    {PULL.replace(chr(10), chr(10) + '    ')}\nexcept OSError as error: print(error.errno)"

    def limit() -> None:  # the kernel refuses to make any file longer
        resource.setrlimit(resource.RLIMIT_FSIZE, (150_000, 150_000))

    out, err = start(body, preexec_fn=limit).communicate(timeout=60)
    assert (out, err) == (f"{errno.EFBIG}\n", "")
    assert staged()[f"{LARGE}.part"] == 150_000
    hub.requests.clear()
    assert pull() == 1 and arrived() == content(hub)
    assert ranges(hub) == ["bytes=150000-"]


def test_a_stop_by_the_user_keeps_what_came(hub: HubServer) -> None:
    with pytest.raises(KeyboardInterrupt):
        pull_encoder(plan_pull("tiny-hub"), progress=lambda done, total: done == 0)
    assert 0 < staged()[f"{LARGE}.part"] <= SIZE
    assert pull() == 1 and arrived() == content(hub)


def test_progress_counts_every_byte_once(hub: HubServer) -> None:
    hub.plant("storage", LARGE, Fault(cut=100_000))
    seen: list[tuple[int, int]] = []
    pull_encoder(plan_pull("tiny-hub"), progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (SIZE, SIZE) and [done for done, _ in seen] == sorted(done for done, _ in seen)


def test_every_file_of_an_encoder_is_gone_on_with(hub: HubServer, tiny: TinyEncoder, tmp_path: Path) -> None:
    """Files that were whole when another failed are not fetched again, though nothing has its name yet."""
    enter(tiny_entry(), tiny.manifest["image"]["recipe"])
    hub.plant("storage", FILES[2], *[Fault(status=500) for _ in range(5)])
    with pytest.raises(EncoderError, match="times in a row"):
        pull()
    assert {path.name for path in home_folder("tiny-hub").iterdir()} == {".pull"}
    hub.requests.clear()
    assert pull() == 4
    assert {one.path.partition("?")[0].rpartition("/")[2] for one in hub.asked("storage")} == {"text.onnx"}
    record = json.loads((home_folder("tiny-hub") / "source.json").read_text())
    assert len(record["files"]) == 4


def test_two_servers_do_not_share_faults() -> None:
    """The stand-in itself: what is planted in one is not met in another."""
    with hub_server() as one, hub_server() as other:
        one.plant("hub", "api", Fault(status=500))
        assert other.fault("hub", "api") == Fault() and one.fault("hub", "api").status == 500
