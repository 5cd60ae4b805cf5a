"""Whatever a DICOMweb server answers, reading an instance ends in the file, in an outcome, or in one sentence: bounded
in attempts, waits, bytes and redirections."""

from __future__ import annotations

import dataclasses
import email.utils
import gzip
import ssl
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import trustme
from dicomweb_stand_in import BOUNDARY, Asked, Reply, StandIn, multipart, slices
from osler.errors import ServerError, SourceError
from osler.sources import dicomweb, web
from osler.sources.dicomweb import ServerSource, open_server

pytestmark = [pytest.mark.sockets, pytest.mark.timeout(120)]

FILES = slices(3)
Fault = Callable[[Asked, Reply], Reply]


@pytest.fixture(autouse=True)
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The waits that were asked for; none is kept."""
    asked: list[float] = []
    monkeypatch.setattr(threading.Event, "wait", _without_waiting(threading.Event.wait, asked))
    return asked


def _without_waiting(real: Any, asked: list[float]) -> Any:
    def wait(self: threading.Event, timeout: float | None = None) -> bool:
        if threading.current_thread() is threading.main_thread() and timeout is not None:
            asked.append(timeout)
            return self.is_set()
        return bool(real(self, timeout))

    return wait


@pytest.fixture
def server() -> Iterator[StandIn]:
    with StandIn(FILES) as one:
        yield one


@pytest.fixture
def source(server: StandIn) -> Iterator[ServerSource]:
    opened = open_server(server.root)
    server.asked.clear()
    yield opened
    opened.close()


def first(fault: Reply, times: int = 1) -> Fault:
    """Answer with a fault for so many times, and rightly from then on."""
    left = [times]

    def answer(asked: Asked, right: Reply) -> Reply:
        left[0] -= 1
        return fault if left[0] >= 0 else right

    return answer


def fetch(source: ServerSource, at: int = 0) -> bytes:
    content = source.content(source.entries[at])
    assert content is not None
    return content


# The entries are in the order of their UIDs, which is against that of the slices.
WANTED = FILES[::-1]


@pytest.mark.parametrize("status", [408, 425, 429, 502, 503, 504])
def test_a_server_that_is_busy_is_asked_again(
    server: StandIn, source: ServerSource, waits: list[float], status: int
) -> None:
    server.fault = first(Reply(status), 4)
    assert fetch(source) == WANTED[0]
    assert len(server.asked) == 5
    assert waits == [0.5, 1.0, 2.0, 4.0]
    server.fault = lambda asked, right: Reply(status)
    with pytest.raises(ServerError, match=f"status {status}, also when asked 5 times"):
        fetch(source)
    assert len(server.asked) == 10


def test_the_server_says_how_long_to_wait(server: StandIn, source: ServerSource, waits: list[float]) -> None:
    server.fault = first(Reply(429, headers={"Retry-After": "7"}))
    assert fetch(source) == WANTED[0] and waits == [7.0]
    soon = email.utils.formatdate(time.time() + 30, usegmt=True)
    server.fault = first(Reply(503, headers={"Retry-After": soon}))
    assert fetch(source) == WANTED[0]
    assert 1.0 < waits[1] <= 31.0
    for text in ("-3", "soon", "1e9", "Mon, 99 Foo", "٣"):
        waits.clear()
        server.fault = first(Reply(503, headers={"Retry-After": text.encode().decode("latin-1")}))
        assert fetch(source) == WANTED[0] and waits == [0.5], text
    past = email.utils.formatdate(0, usegmt=True)
    server.fault = first(Reply(503, headers={"Retry-After": past}))
    assert fetch(source) == WANTED[0]


def test_a_long_wait_is_left_to_the_user(server: StandIn, source: ServerSource, waits: list[float]) -> None:
    server.fault = lambda asked, right: Reply(503, headers={"Retry-After": "86400"})
    with pytest.raises(ServerError, match="asks to come back in 86,400 seconds"):
        fetch(source)
    assert len(server.asked) == 1 and waits == []


def test_an_error_for_one_instance_is_its_outcome(server: StandIn, source: ServerSource) -> None:
    server.fault = lambda asked, right: Reply(500) if asked.path.endswith("100") else right
    with pytest.raises(SourceError, match=r"does not give the instance as a DICOM file \(status 500\)") as caught:
        fetch(source)
    assert caught.value.code == "not_served" and len(server.asked) == 2
    assert fetch(source, 1) == WANTED[1]


@pytest.mark.parametrize(
    ("status", "code"),
    [(404, "missing"), (410, "missing"), (403, "no_permission"), (406, "not_served"), (418, "not_served")],
)
def test_a_refusal_is_an_outcome(server: StandIn, source: ServerSource, status: int, code: str) -> None:
    server.fault = lambda asked, right: Reply(status)
    with pytest.raises(SourceError) as caught:
        fetch(source)
    assert caught.value.code == code
    server.fault = None
    assert fetch(source) == WANTED[0]


def test_one_failure_after_the_other_is_the_servers(server: StandIn, source: ServerSource) -> None:
    server.fault = lambda asked, right: Reply(500)
    for _ in range(dicomweb._FAILURES_IN_A_ROW - 1):
        with pytest.raises(SourceError):
            fetch(source)
    with pytest.raises(ServerError, match="status 500, for 16 instances in a row"):
        fetch(source)
    server.fault = None
    fetch(source)
    server.fault = lambda asked, right: Reply(500)
    with pytest.raises(SourceError):
        fetch(source)


def test_a_server_that_is_gone_is_one_sentence(server: StandIn, source: ServerSource) -> None:
    fetch(source)
    server.stop()
    with pytest.raises(ServerError, match="the connection is refused, also when asked 5 times; check that it runs"):
        fetch(source, 1)


@pytest.mark.parametrize("framing", ["length", "chunked", "close"])
@pytest.mark.parametrize("sent", [0, 1, 60, 300, -1, -20])
def test_an_answer_that_is_cut_is_asked_for_again(
    server: StandIn, source: ServerSource, framing: str, sent: int
) -> None:
    def cut(asked: Asked, right: Reply) -> Reply:
        body = right.body.rstrip(b"\r\n").removesuffix(b"--")
        return dataclasses.replace(
            right, framing=framing, body=right.body, sent=(sent if sent >= 0 else len(body) + sent)
        )

    count = [0]

    def once(asked: Asked, right: Reply) -> Reply:
        count[0] += 1
        return cut(asked, right) if count[0] == 1 else dataclasses.replace(right, framing=framing)

    server.fault = once
    assert fetch(source) == WANTED[0]
    assert len(server.asked) == 2
    server.fault = cut
    with pytest.raises(SourceError, match="does not come whole from the server: it ended in the middle") as caught:
        fetch(source)
    assert caught.value.code == "cut_short" and len(server.asked) == 7
    server.fault = None
    assert fetch(source, 1) == WANTED[1]


@pytest.mark.parametrize("coding", ["gzip", "x-gzip", "deflate"])
@pytest.mark.parametrize("framing", ["length", "chunked", "close"])
def test_content_codings_are_undone(server: StandIn, source: ServerSource, coding: str, framing: str) -> None:
    pack = zlib.compress if coding == "deflate" else gzip.compress

    def packed(asked: Asked, right: Reply) -> Reply:
        return dataclasses.replace(right, body=pack(right.body), framing=framing, headers={"Content-Encoding": coding})

    server.fault = packed
    assert fetch(source) == WANTED[0]
    again = open_server(server.root)
    assert len(again) == 3
    again.close()
    assert {asked.headers["accept-encoding"] for asked in server.asked if asked.level == "file"} == {"identity"}
    assert {asked.headers["accept-encoding"] for asked in server.asked if asked.level != "file"} == {"gzip"}
    for broken in (lambda body: body[:-9], lambda body: body[:50], lambda body: body[:40] + bytes(30) + body[70:]):
        server.fault = lambda asked, right, broken=broken: dataclasses.replace(
            packed(asked, right), body=broken(packed(asked, right).body)
        )
        with pytest.raises(SourceError) as caught:
            fetch(source)
        assert caught.value.code == "cut_short"


def test_another_coding_is_refused(server: StandIn, source: ServerSource) -> None:
    server.fault = lambda asked, right: dataclasses.replace(right, headers={"Content-Encoding": "br"})
    with pytest.raises(ServerError, match="a content coding that was not asked for"):
        fetch(source)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> int:
    most = 100_000
    monkeypatch.setattr(dicomweb, "LIMITS", dataclasses.replace(dicomweb.LIMITS, bytes_per_file=most))
    return most + dicomweb._AROUND_BYTES


def test_a_body_that_is_too_large_is_not_read(server: StandIn, source: ServerSource, small: int) -> None:
    # It says so, and the rest would never come.
    server.fault = lambda asked, right: dataclasses.replace(right, headers={"Content-Length": str(small + 1)}, body=b"")
    with pytest.raises(SourceError, match="more than 100000 bytes, which is the limit") as caught:
        fetch(source)
    assert caught.value.code == "too_large" and len(server.asked) == 1
    for framing in ("chunked", "close"):
        server.fault = lambda asked, right, framing=framing: dataclasses.replace(
            right, body=bytes(small + 1), framing=framing
        )
        with pytest.raises(SourceError) as caught:
            fetch(source)
        assert caught.value.code == "too_large"


def test_a_body_that_swells_is_given_up_at_the_limit(
    server: StandIn, source: ServerSource, small: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    bomb = gzip.compress(bytes(300_000_000))
    assert len(bomb) < 400_000
    monkeypatch.setattr(dicomweb, "LIMITS", dataclasses.replace(dicomweb.LIMITS, bytes_per_file=1_000_000))
    largest = [0]
    real = web.Body.pieces

    def pieces(self: web.Body) -> Iterator[bytes]:
        for piece in real(self):
            largest[0] += len(piece)
            yield piece

    monkeypatch.setattr(web.Body, "pieces", pieces)
    server.fault = lambda asked, right: dataclasses.replace(right, body=bomb, headers={"Content-Encoding": "gzip"})
    with pytest.raises(SourceError) as caught:
        fetch(source)
    assert caught.value.code == "too_large" and largest[0] <= 1_000_000 + dicomweb._AROUND_BYTES


def test_a_body_that_drips_is_given_up(server: StandIn, source: ServerSource, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web, "_PATIENCE_SECONDS", -1)
    monkeypatch.setattr(web, "_SLOWEST_BYTES", 1 << 40)
    with pytest.raises(SourceError, match="it sends too slowly"):
        fetch(source)


def test_a_silent_server_is_given_up(server: StandIn, source: ServerSource, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web, "_SILENT_SECONDS", 0.2)
    over = threading.Event()

    def silent(asked: Asked, right: Reply) -> Reply:
        over.wait(20)
        return right

    server.fault = silent
    fresh = open_server(f"{server.root}/studies/1.2/series/1.2.3/instances/1.2.3.100")
    with pytest.raises(ServerError, match="it does not answer, also when asked 5 times"):
        fetch(fresh)
    over.set()
    fresh.close()


def test_closing_ends_what_is_under_way(server: StandIn, source: ServerSource) -> None:
    asked_for, over = threading.Event(), threading.Event()

    def silent(asked: Asked, right: Reply) -> Reply:
        asked_for.set()
        over.wait(100)
        return right

    server.fault = silent
    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit(fetch, source)
        # Another than the main thread would wait no longer than it must.
        while not asked_for.is_set():
            time.sleep(0.01)
        source.close()
        with pytest.raises(ServerError, match="the connection to the server was closed"):
            reading.result(timeout=60)
        over.set()


@pytest.mark.parametrize(
    "accepted",
    [
        'multipart/related; type="application/dicom"',
        "application/dicom; transfer-syntax=*",
        "application/dicom",
    ],
)
@pytest.mark.parametrize("status", [400, 406, 415])
def test_a_server_is_asked_in_the_way_that_it_takes(
    server: StandIn, source: ServerSource, accepted: str, status: int
) -> None:
    def picky(asked: Asked, right: Reply) -> Reply:
        if asked.headers["accept"] != accepted:
            return Reply(status)
        return (
            right if accepted.startswith("multipart") else Reply(200, "application/dicom", WANTED[int(asked.path[-1])])
        )

    server.fault = picky
    assert [fetch(source, at) for at in range(3)] == WANTED
    # The way is looked for once.
    tried = [asked.headers["accept"] for asked in server.asked]
    assert tried[0].endswith("transfer-syntax=*") and tried[-2:] == [accepted] * 2 and len(tried) <= 6


@pytest.mark.parametrize("type_", ["application/octet-stream", "text/html", "image/jpeg", "", "multipart/mixed"])
def test_wrong_media_types_are_not_believed(server: StandIn, source: ServerSource, type_: str) -> None:
    server.fault = lambda asked, right: dataclasses.replace(right, type=type_)
    assert fetch(source) == WANTED[0]
    server.fault = lambda asked, right: Reply(200, type_, WANTED[0])
    assert fetch(source) == WANTED[0]


def test_a_page_in_place_of_a_file_is_an_outcome(server: StandIn, source: ServerSource) -> None:
    for reply in (Reply(200, "text/html", b"<html>" + bytes(300)), Reply(200, "application/json", b"[]"), Reply(204)):
        server.fault = lambda asked, right, reply=reply: reply
        with pytest.raises(SourceError) as caught:
            fetch(source)
        assert caught.value.code in ("not_served", "empty")
    # What calls itself a file is one for the decoder to judge.
    server.fault = lambda asked, right: Reply(200, "application/dicom", b"\0" * 400)
    with pytest.raises(SourceError):
        source.read(source.entries[0])


def test_several_files_for_one_are_refused(server: StandIn, source: ServerSource) -> None:
    server.fault = lambda asked, right: dataclasses.replace(right, body=multipart(FILES))
    with pytest.raises(SourceError, match="answers with 3 DICOM files for one instance"):
        fetch(source)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirections_are_followed(server: StandIn, source: ServerSource, status: int) -> None:
    def moved(asked: Asked, right: Reply) -> Reply:
        if asked.query.get("moved"):
            return right
        return Reply(status, headers={"Location": f"{'/dicom-web' + asked.path}?moved=1"})

    server.fault = moved
    assert fetch(source) == WANTED[0]
    with StandIn(FILES) as other:
        server.fault = lambda asked, right: Reply(status, headers={"Location": other.root + asked.path})
        assert fetch(source) == WANTED[0] and len(other.asked) == 1
        # Its connection is not taken for one of the server that was named.
        server.fault = None
        assert fetch(source, 1) == WANTED[1] and len(other.asked) == 1


@pytest.mark.parametrize(
    ("location", "said"),
    [
        ("{root}{path}", "redirects in a circle"),
        ("http://pacs.example/x", "redirects to plain http on another machine"),
        ("http://a:b@127.0.0.1/x", "redirects to what is no address"),
        ("ftp://127.0.0.1/x", "redirects to what is no address"),
        ("file:///etc/passwd", "redirects to what is no address"),
        ("http://[::1", "redirects to what is no address"),
        ("http://127.0.0.1:99999/", "redirects to what is no address"),
        (None, "redirects to what is no address"),
    ],
)
def test_redirections_that_lead_nowhere_are_refused(
    server: StandIn, source: ServerSource, location: str | None, said: str
) -> None:
    def moved(asked: Asked, right: Reply) -> Reply:
        if location is None:
            return Reply(302)
        return Reply(302, headers={"Location": location.format(root=server.root, path=asked.path)})

    server.fault = moved
    with pytest.raises(ServerError, match=said):
        fetch(source)
    assert len(server.asked) <= 6


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def secure(authority: trustme.CA) -> Iterator[StandIn]:
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(tls)
    with StandIn(FILES, tls) as one:
        yield one


def test_https_needs_a_certificate_that_is_trusted(
    secure: StandIn, authority: trustme.CA, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, waits: list[float]
) -> None:
    with pytest.raises(
        ServerError, match="the certificate of the server is not trusted; name the file of its authority"
    ):
        open_server(secure.root)
    assert not secure.asked and not waits
    authority.cert_pem.write_to_path(str(tmp_path / "authority.pem"))
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "authority.pem"))
    source = open_server(secure.root)
    assert [fetch(source, at) for at in range(3)] == WANTED
    source.close()
    source = open_server(secure.root.replace("https", "dicomweb"))
    assert source.root == secure.root and len(source) == 3
    source.close()
    with pytest.raises(ServerError, match="not trusted"):
        open_server(secure.root.replace("127.0.0.1", "localhost"))


def test_https_is_never_left_for_http(
    secure: StandIn, server: StandIn, authority: trustme.CA, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority.cert_pem.write_to_path(str(tmp_path / "authority.pem"))
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "authority.pem"))
    monkeypatch.setenv("OSLER_DICOMWEB_INSECURE", "1")
    source = open_server(secure.root)
    secure.fault = lambda asked, right: Reply(302, headers={"Location": server.root + asked.path})
    with pytest.raises(ServerError, match="redirects from https to http, which is refused"):
        fetch(source)
    assert not server.asked
    # The other way round is a gain.
    plain = open_server(server.root)
    secure.fault = None
    server.fault = lambda asked, right: Reply(302, headers={"Location": secure.root + asked.path})
    assert fetch(plain) == WANTED[0]
    for one in (source, plain):
        one.close()


def test_connections_are_used_again(server: StandIn, source: ServerSource, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    real = web.http.client.HTTPConnection.connect

    def connect(self: Any) -> None:
        opened.append("one")
        real(self)

    monkeypatch.setattr(web.http.client.HTTPConnection, "connect", connect)
    for _ in range(3):
        assert [fetch(source, at) for at in range(3)] == WANTED
    assert len(opened) <= 1
    # One that the server has ended meanwhile is replaced, without an attempt that counts.
    server.fault = lambda asked, right: dataclasses.replace(right, headers={"Connection": "close"})
    assert [fetch(source, at) for at in range(3)] == WANTED
    assert len(server.asked) == 12


def test_what_is_left_of_one_answer_is_not_the_next(server: StandIn, source: ServerSource) -> None:
    planted = multipart([slices(1, "9.9.9")[0]])
    head = f"HTTP/1.1 200 OK\r\nContent-Type: application/dicom\r\nContent-Length: {len(planted)}\r\n\r\n"
    server.fault = lambda asked, right: Reply(404, "text/plain", head.encode() + planted)
    with pytest.raises(SourceError):
        fetch(source)
    server.fault = None
    assert fetch(source, 1) == WANTED[1]


def test_garbage_in_place_of_http_is_one_sentence(tmp_path: Path) -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as listening:
        stop = threading.Event()

        def talk() -> None:
            listening.settimeout(0.1)
            while not stop.is_set():
                try:
                    peer, _ = listening.accept()
                except TimeoutError:
                    continue
                with peer:
                    peer.recv(1000)
                    peer.sendall(b"SSH-2.0-OpenSSH_9\r\n" * 3)

        speaker = threading.Thread(target=talk)
        speaker.start()
        try:
            with pytest.raises(ServerError, match="does not answer a search as a whole: it does not speak HTTP"):
                open_server(f"http://127.0.0.1:{listening.getsockname()[1]}/dicom-web")
        finally:
            stop.set()
            speaker.join()


def test_nothing_more_than_the_boundary_is_asked_of_a_stand_in() -> None:
    assert BOUNDARY.encode() in multipart([b"x"]) and len(WANTED) == 3
