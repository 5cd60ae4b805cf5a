"""Credentials go from the environment to the server that was named, and nowhere else; what an address asks for is in no
message, log or file; what would send either in the open is refused before anything is sent."""

from __future__ import annotations

import base64
import gc
import logging
import pickle
import traceback
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

import osler
import pytest
from click.testing import CliRunner
from dicomweb_stand_in import Asked, Reply, StandIn, slices
from osler.cli import app
from osler.errors import Error, ServerError, SourceError
from osler.sources import open_source, web
from osler.sources.address import is_loopback, parse_address
from osler.sources.dicomweb import open_server, probe

pytestmark = [pytest.mark.sockets, pytest.mark.timeout(300)]

SECRET = "zqtoken7f3a9"
PATIENT = "zq-patient-1.2"
FILES = slices(3)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web, "_FIRST_WAIT_SECONDS", 0.0)
    for name in (web.TOKEN, web.USER, web.PASSWORD):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def server() -> Iterator[StandIn]:
    with StandIn(FILES) as one:
        yield one


def forms(secret: str) -> list[str]:
    basic = base64.b64encode(f"reader:{secret}".encode()).decode()
    return [secret, basic, basic[:-4]]


def test_a_token_is_sent_as_a_bearer(server: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(web.TOKEN, SECRET)
    source = open_server(server.root)
    source.content(source.entries[0])
    source.close()
    assert {asked.headers["authorization"] for asked in server.asked} == {f"Bearer {SECRET}"}


def test_a_user_and_a_password_are_sent_as_basic(server: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(web.USER, "reader")
    monkeypatch.setenv(web.PASSWORD, "pä:ss")
    open_server(server.root).close()
    basic = base64.b64encode("reader:pä:ss".encode()).decode()
    assert {asked.headers["authorization"] for asked in server.asked} == {f"Basic {basic}"}


def test_nothing_is_sent_where_nothing_is_set(server: StandIn) -> None:
    open_server(server.root).close()
    assert not any("authorization" in asked.headers or "cookie" in asked.headers for asked in server.asked)


def test_a_token_that_is_renewed_is_the_next_that_is_sent(server: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(web.TOKEN, "old")
    source = open_server(server.root)
    monkeypatch.setenv(web.TOKEN, "new")
    source.content(source.entries[0])
    source.close()
    assert server.asked[-1].headers["authorization"] == "Bearer new"


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({web.TOKEN: SECRET, web.USER: "u"}, "is set, and OSLER_DICOMWEB_USER or OSLER_DICOMWEB_PASSWORD too"),
        ({web.USER: SECRET}, "only one of OSLER_DICOMWEB_USER and OSLER_DICOMWEB_PASSWORD is set"),
        ({web.PASSWORD: SECRET}, "only one of"),
        ({web.USER: f"a:{SECRET}", web.PASSWORD: "x"}, "OSLER_DICOMWEB_USER has a colon"),
        ({web.TOKEN: f"{SECRET}\r\nX-Evil: 1"}, "OSLER_DICOMWEB_TOKEN is empty or has a character that cannot be sent"),
        ({web.TOKEN: ""}, "OSLER_DICOMWEB_TOKEN is empty"),
        ({web.USER: "u", web.PASSWORD: f"{SECRET}\n"}, "OSLER_DICOMWEB_PASSWORD is empty or has a character"),
        ({web.TOKEN: f"Bearer {SECRET}"}, "give the token alone"),
        ({web.TOKEN: f"{SECRET}é"}, "a character that no token can have"),
    ],
)
def test_credentials_that_cannot_be_sent_are_refused_first(
    server: StandIn, monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], said: str
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=said) as caught:
        open_server(server.root)
    assert SECRET not in str(caught.value) and not server.asked


@pytest.mark.parametrize(
    ("status", "token", "said"),
    [
        (
            401,
            None,
            "asks for credentials; set OSLER_DICOMWEB_TOKEN, or OSLER_DICOMWEB_USER and OSLER_DICOMWEB_PASSWORD",
        ),
        (401, SECRET, "does not accept the credentials of the environment"),
        (403, SECRET, "does not let this user search"),
    ],
)
def test_a_server_that_refuses_is_one_sentence(
    server: StandIn, monkeypatch: pytest.MonkeyPatch, status: int, token: str | None, said: str
) -> None:
    if token:
        monkeypatch.setenv(web.TOKEN, token)
    server.fault = lambda asked, right: Reply(status, headers={"WWW-Authenticate": "Basic"})
    with pytest.raises(ServerError, match=said):
        open_server(server.root)


def test_no_credentials_follow_a_redirection_to_another_host(server: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(web.TOKEN, SECRET)
    with StandIn(FILES) as other:
        source = open_server(server.root)
        server.fault = lambda asked, right: Reply(307, headers={"Location": other.root + asked.path})
        assert source.content(source.entries[0]) == FILES[2]
        assert len(other.asked) == 1 and "authorization" not in other.asked[0].headers
        assert SECRET not in repr(other.asked)
        # Another name of the same machine is another host.
        server.fault = lambda asked, right: (
            right
            if asked.headers["host"].startswith("localhost")
            else _to(asked, f"http://localhost:{server.port}/dicom-web")
        )
        server.asked.clear()
        assert source.content(source.entries[0]) == FILES[2]
        assert ["authorization" in asked.headers for asked in server.asked] == [True, False]
        other.fault = lambda asked, right: Reply(401)
        server.fault = lambda asked, right: _to(asked, other.root)
        with pytest.raises(ServerError, match="redirects to another host, which asks for credentials"):
            source.content(source.entries[0])
        source.close()


def _to(asked: Asked, root: str) -> Reply:
    return Reply(302, headers={"Location": root + asked.path})


def _spoken(error: BaseException) -> Iterator[str]:
    """Yield all that an error says and holds: its text, its whole chain, and what the frames have in variables."""
    seen: set[int] = set()
    waiting: list[BaseException | None] = [error]
    while waiting:
        one = waiting.pop()
        if one is None or id(one) in seen:
            continue
        seen.add(id(one))
        waiting += [one.__cause__, one.__context__]
        yield from (str(one), repr(one), repr(one.args), repr(vars(one)))
        yield "".join(traceback.format_exception(one))
        frames: TracebackType | None = one.__traceback__
        while frames is not None:
            if "/osler/" in frames.tb_frame.f_code.co_filename or "/http/" in frames.tb_frame.f_code.co_filename:
                for value in frames.tb_frame.f_locals.values():
                    yield repr(value)
                    yield repr(getattr(value, "__dict__", ""))
            frames = frames.tb_next


FAULTS: dict[str, Any] = {
    "refused": lambda asked, right: Reply(401),
    "forbidden": lambda asked, right: Reply(403),
    "failing": lambda asked, right: Reply(503),
    "cut": lambda asked, right: Reply(200, sent=0, body=b"x" * 50),
    "html": lambda asked, right: Reply(200, "text/html", b"<html>"),
    "circle": lambda asked, right: _to(asked, "/dicom-web"),
    "leaving": lambda asked, right: Reply(302, headers={"Location": "http://pacs.example/"}),
    "coding": lambda asked, right: Reply(200, headers={"Content-Encoding": "br"}),
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("kind", ["token", "basic"])
@pytest.mark.parametrize("when", ["listing", "reading"])
def test_no_error_holds_a_secret_or_what_was_asked(
    server: StandIn, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, fault: str, kind: str, when: str
) -> None:
    if kind == "token":
        monkeypatch.setenv(web.TOKEN, SECRET)
    else:
        monkeypatch.setenv(web.USER, "reader")
        monkeypatch.setenv(web.PASSWORD, SECRET)
    caplog.set_level(logging.DEBUG)
    address = f"{server.root}?PatientID={PATIENT}&Modality=CT"
    source = open_server(address) if when == "reading" else None
    server.fault = FAULTS[fault]
    with pytest.raises(Error) as caught:
        if source is None:
            open_server(address)
        else:
            source.content(source.entries[0])
    for text in _spoken(caught.value):
        assert not any(form in text for form in forms(SECRET))
    said = "".join(
        [str(caught.value), caplog.text, repr(source), repr(parse_address(address)), repr(source and vars(source))]
    )
    assert PATIENT not in said and SECRET not in said
    if source is not None:
        source.close()


def test_a_server_that_cannot_be_met_leaves_no_secret_in_the_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(web.TOKEN, SECRET)
    with StandIn(FILES) as gone:
        address = f"{gone.root}?PatientID={PATIENT}"
    with pytest.raises(ServerError, match="the connection is refused") as caught:
        open_server(address)
    for text in _spoken(caught.value):
        assert not any(form in text for form in forms(SECRET))
    assert PATIENT not in str(caught.value)


def test_nothing_that_is_alive_keeps_a_secret(server: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(web.TOKEN, SECRET)
    source = open_server(f"{server.root}?PatientID={PATIENT}")
    source.content(source.entries[0])
    monkeypatch.delenv(web.TOKEN)
    gc.collect()
    reached, waiting = set(), [source]
    while waiting:
        one: Any = waiting.pop()
        if id(one) in reached or isinstance(one, type) or type(one).__name__ in ("module", "function", "frame"):
            continue
        reached.add(id(one))
        if isinstance(one, str | bytes):
            assert SECRET not in (one if isinstance(one, str) else one.decode("latin-1"))
        if len(reached) < 20_000:
            waiting.extend(gc.get_referents(one))
    assert len(reached) > 50
    source.close()


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("https://zquser:zqpass@pacs.example/dicom-web", "holds a user name or a password; take them out of it"),
        ("https://zquser@pacs.example/dicom-web", "holds a user name or a password"),
        ("http://pacs.example/dicom-web", "plain http on another machine"),
        ("http://10.0.0.1/dicom-web?PatientID=zq", "plain http on another machine"),
        ("http://127.0.0.1.zq.example/", "plain http on another machine"),
        ("http://localhost.zq.example/", "plain http on another machine"),
        ("https:///dicom-web", "cannot be read; give it as https://host/dicom-web"),
        ("https://pacs.example:zq/", "cannot be read"),
        ("https://pacs.example/dicom-web#zq", "cannot be read"),
        ("https://pacs.example/dicom web/zq", "cannot be read"),
        ("https://pacs.example/\r\nzq", "cannot be read"),
        ("https://[::zq]/", "cannot be read"),
        ("https://pacs.example/studies/..%2fzq", "is no UID"),
        ("https://pacs.example/studies/1/series/zq^", "is no UID"),
        ("https://pacs.example/?zqzq=1", "asks for no attribute of DICOM that there is; use keywords"),
        ("https://pacs.example/?Modalty=zq", "did you mean Modality"),
        ("https://pacs.example/?Modality=", "gives no value for Modality"),
        ("https://pacs.example/?PatientID=%0Azq", "gives no value for PatientID"),
        ("https://pacs.example/?PatientID=zq&00100020=zq", "asks twice for PatientID"),
        ("https://pacs.example/?limit=10", "has limit=, which Osler sets itself"),
        ("https://pacs.example/?offset=10", "has offset="),
        ("https://pacs.example/?includefield=all", "has includefield="),
        ("https://pacs.example/?" + "a=zq&" * 200, "too many parts"),
    ],
)
def test_an_address_that_cannot_be_used_is_refused_without_being_repeated(address: str, said: str) -> None:
    for call in (open_server, open_source, probe):
        with pytest.raises(ValueError, match=said) as caught:
            call(address)
        assert "zq" not in str(caught.value)
        assert caught.value.__cause__ is None


def test_plain_http_elsewhere_must_be_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    met: list[str] = []

    def connect(self: Any) -> None:
        met.append(f"{self.host}:{self.port}")
        raise ConnectionRefusedError

    monkeypatch.setattr(web.http.client.HTTPConnection, "connect", connect)
    with pytest.raises(ServerError):
        open_server("http://pacs.example/dicom-web", insecure=True)
    monkeypatch.setenv("OSLER_DICOMWEB_INSECURE", "1")
    with pytest.raises(ServerError):
        open_source("http://pacs.example:8042/dicom-web")
    with pytest.raises(ValueError, match="plain http on another machine"):
        open_server("http://pacs.example/dicom-web", insecure=False)
    assert set(met) == {"pacs.example:80", "pacs.example:8042"}


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "::1", "localhost", "LOCALHOST"])
def test_this_machine_may_be_asked_over_http(host: str) -> None:
    assert is_loopback(host)
    named = f"[{host}]" if ":" in host else host
    assert parse_address(f"http://{named}:8042/dicom-web").root.startswith("http://")


@pytest.mark.parametrize(
    "host", ["0.0.0.0", "10.0.0.1", "128.0.0.1", "::", "::2", "localhost.example", "", "127.0.0.256"]
)
def test_other_machines_are_not_this_one(host: str) -> None:
    assert not is_loopback(host)


def test_a_proxy_is_asked_as_the_environment_says(monkeypatch: pytest.MonkeyPatch) -> None:
    client = web.Client("https://pacs.example/dicom-web")
    origin = web._Origin("https", "pacs.example", 443)
    for name in ("https_proxy", "HTTPS_PROXY", "no_proxy", "NO_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    assert client._made(origin).host == "pacs.example"
    monkeypatch.setenv("https_proxy", "http://proxy.example:3128")
    made = client._made(origin)
    assert (made.host, made.port, made._tunnel_host) == ("proxy.example", 3128, "pacs.example")  # type: ignore[attr-defined]
    monkeypatch.setenv("no_proxy", "pacs.example")
    assert client._made(origin).host == "pacs.example"
    assert client._made(web._Origin("https", "localhost", 443)).host == "localhost"


@pytest.mark.parametrize("name", ["OSLER_OFFLINE", "HF_HUB_OFFLINE"])
def test_offline_means_that_no_server_is_asked(server: StandIn, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "1")
    for call in (open_server, open_source, probe):
        with pytest.raises(ServerError, match="OSLER_OFFLINE is set, and the source is a server") as caught:
            call(server.root)
        assert caught.value.code == "offline"
    assert not server.asked


def test_a_query_and_a_contact_sheet_ask_no_server(server: StandIn, tmp_path: Path) -> None:
    with osler.Collection.create(tmp_path / "cases.osler", encoder="efficientnet-lite0") as cases:
        cases.add(server.root, progress=False)
        count = len(server.asked)
        cases.search(vector=cases.vectors()[0]).to_html(tmp_path / "hits.html")
        with pytest.raises((FileNotFoundError, ValueError, SourceError)):
            cases.search(image=f"{server.root}/studies/1.2")
        assert len(server.asked) == count
        assert "or on a server" in (tmp_path / "hits.html").read_text()


def test_a_session_leaves_neither_secrets_nor_what_was_asked(
    server: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Everything the command line says and writes, with a token and with a patient in the address."""
    monkeypatch.setenv(web.TOKEN, SECRET)
    monkeypatch.setenv("OSLER_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    caplog.set_level(logging.DEBUG)
    said = []
    for arguments, code in (
        (["index", "build", f"{server.root}?PatientID={PATIENT}&PatientName=Zq*", "-o", "a.osler", "--json"], 0),
        (["index", "build", f"{server.root}?PatientID={PATIENT}", "-o", "a.osler", "--resume"], 0),
        (["index", "build", f"{server.root}?PatientID={PATIENT}", "-o", "b.osler", "--dry-run"], 0),
        (["index", "add", "a.osler", f"{server.root}/studies/1.2?PatientID={PATIENT}", "--items", "series"], 0),
        (["index", "build", f"{server.root}?PatientID={PATIENT}x", "-o", "b.osler"], 2),
        (["index", "build", f"{server.root}?PatientID={PATIENT}&Modalty=CT", "-o", "b.osler"], 2),
        (["index", "build", f"http://127.0.0.1:1/dicom-web?PatientID={PATIENT}", "-o", "b.osler"], 1),
        (["index", "info", "a.osler"], 0),
        (["index", "audit", "a.osler"], 0),
    ):
        done = CliRunner().invoke(app, arguments)
        assert done.exit_code == code, done.stderr
        said += [done.stdout, done.stderr]
    said.append(caplog.text)
    assert "has nothing of what the address asks for" in "".join(said)
    written = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    assert len(written) > 5
    for text in [*said, *(content.decode("latin-1") for content in written)]:
        assert SECRET not in text and "zq-patient" not in text.lower() and "Zq^Canary" not in text
    # Where an instance lies on its server is kept as where a file lies is: in files of its own, for their owner alone.
    with osler.Collection.open(tmp_path / "a.osler") as cases:
        snapshot = cases._handle.snapshot
        places = [snapshot.locator(row) for row in snapshot.live_rows.tolist()]
    series = "studies/1.2/series/1.2.3"
    assert sorted(places) == [
        *((server.root, [f"{series}/instances/1.2.3.{100 + i}"]) for i in range(3)),
        (f"{server.root}/{series}", [f"instances/1.2.3.{100 + i}" for i in range(3)]),
    ]
    assert {path.stat().st_mode & 0o777 for path in tmp_path.rglob("*.locators")} == {0o600}


def test_what_holds_a_connection_is_not_pickled(server: StandIn) -> None:
    source = open_server(server.root)
    with pytest.raises((TypeError, pickle.PicklingError)):
        pickle.dumps(source)
    source.close()
