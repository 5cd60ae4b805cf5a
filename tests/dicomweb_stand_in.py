"""A small DICOMweb server on this machine for tests: right by itself, and wrong in whatever way a test asks.

Listens on a free port of the loopback; keeps what it was asked.
"""

from __future__ import annotations

import json
import socket
import ssl
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

import numpy as np
import pydicom
from dicom_files import build

__all__ = ["Asked", "Reply", "StandIn", "multipart", "slices"]

BOUNDARY = "stand-in-boundary"
TAGS = {
    "StudyInstanceUID": ("0020000D", "UI"),
    "SeriesInstanceUID": ("0020000E", "UI"),
    "SOPInstanceUID": ("00080018", "UI"),
    "SOPClassUID": ("00080016", "UI"),
    "Modality": ("00080060", "CS"),
    "PatientID": ("00100020", "LO"),
    "StudyDate": ("00080020", "DA"),
    "Rows": ("00280010", "US"),
}
LEVELS = {
    "studies": ("StudyInstanceUID", "PatientID", "StudyDate"),
    "series": ("StudyInstanceUID", "SeriesInstanceUID", "Modality", "PatientID", "StudyDate"),
    "instances": tuple(TAGS),
}
KEYS = {"studies": "StudyInstanceUID", "series": "SeriesInstanceUID", "instances": "SOPInstanceUID"}


@dataclass(frozen=True)
class Asked:
    """One request."""

    path: str
    query: dict[str, str]
    headers: dict[str, str]

    @property
    def level(self) -> str:
        """What it searches: studies, series or instances; "file" where it asks for one instance."""
        pieces = self.path.strip("/").split("/")
        return pieces[-1] if pieces[-1] in LEVELS else "file"


@dataclass(frozen=True)
class Reply:
    """One answer; of the body only `sent` bytes are really sent, and then the connection is cut."""

    status: int = 200
    type: str = "application/dicom+json"
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    sent: int | None = None
    # "length" says how long it is, "chunked" says when it ends, "close" says nothing.
    framing: str = "length"

    def json(self) -> Any:
        """Return what a search would have answered."""
        return json.loads(self.body)

    def with_json(self, found: Any) -> Reply:
        """Return the same answer with another content."""
        return replace(self, body=json.dumps(found).encode())


def multipart(files: Sequence[bytes], type_: str = "application/dicom", boundary: str = BOUNDARY) -> bytes:
    """Return a multipart/related body."""
    head = f"\r\n--{boundary}\r\nContent-Type: {type_}\r\n\r\n".encode()
    return b"".join(head + file for file in files).removeprefix(b"\r\n") + f"\r\n--{boundary}--\r\n".encode()


def slices(count: int, series: str = "1.2.3", **elements: Any) -> list[bytes]:
    """Return the files of one CT series, against the order of their UIDs."""
    study = series.rpartition(".")[0]
    return [
        build(
            np.full((8, 8), 10 * i % 256, np.uint8),
            **{
                "SOPClassUID": "1.2.840.10008.5.1.4.1.1.2",
                "StudyInstanceUID": study,
                "SeriesInstanceUID": series,
                "SOPInstanceUID": f"{series}.{99 + count - i}",
                "ImageOrientationPatient": ["1", "0", "0", "0", "1", "0"],
                "ImagePositionPatient": ["0", "0", str(5 * i)],
                "InstanceNumber": i,
                "PatientID": f"zq-patient-{study}",
                "PatientName": "Zq^Canary",
                "StudyDate": "20240301",
                "Modality": "CT",
                **elements,
            },
        )
        for i in range(count)
    ]


class StandIn:
    """The server.

    Attributes
    ----------
    root : str
        Address of the service.
    asked : list of Asked
        All requests so far.
    fault : callable, optional
        Gets a request and the right answer to it, and returns the answer to give.
    most : int
        Records that a page has at most, whatever is asked for.
    takes_limit, takes_offset : bool
    """

    def __init__(self, files: Sequence[bytes], tls: ssl.SSLContext | None = None, port: int = 0) -> None:
        self.asked: list[Asked] = []
        self.fault: Callable[[Asked, Reply], Reply] | None = None
        self.most = 10**9
        self.takes_limit = self.takes_offset = True
        self._files: dict[str, bytes] = {}
        self._records: list[dict[str, str]] = []
        for content in files:
            self._store(content)
        self.connections: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", port), _handler(self))
        if tls is not None:
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True)
        self.port: int = self._server.server_address[1]
        self.root = f"{'https' if tls else 'http'}://127.0.0.1:{self.port}/dicom-web"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    def __enter__(self) -> StandIn:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Listen no longer, and end all connections."""
        self._server.shutdown()
        with self._lock:
            connections = list(self.connections)
        for one in connections:
            with suppress(OSError):
                socket.socket.shutdown(one, socket.SHUT_RDWR)
        self._server.server_close()
        self._thread.join()

    def count(self, level: str) -> int:
        """Return how many requests of a level there were."""
        return sum(asked.level == level for asked in self.asked)

    def _store(self, content: bytes) -> None:
        dataset = pydicom.dcmread(BytesIO(content), stop_before_pixels=True)
        record = {name: str(dataset.get(name, "")) for name in TAGS}
        path = "/studies/{StudyInstanceUID}/series/{SeriesInstanceUID}/instances/{SOPInstanceUID}".format(**record)
        self._files[path] = content
        self._records.append(record | {"path": path})

    def answer(self, asked: Asked) -> Reply:
        """Return what is right, or wrong as a test asks for."""
        with self._lock:
            self.asked.append(asked)
        right = self._file(asked) if asked.level == "file" else self._search(asked)
        return self.fault(asked, right) if self.fault else right

    def _file(self, asked: Asked) -> Reply:
        content = self._files.get(asked.path)
        if content is None:
            return Reply(404)
        kind = f'multipart/related; type="application/dicom"; boundary={BOUNDARY}'
        return Reply(200, kind, multipart([content]))

    def _search(self, asked: Asked) -> Reply:
        level = asked.level
        above = asked.path.rpartition("/")[0]
        found: dict[str, dict[str, str]] = {}
        for record in self._records:
            if record["path"].startswith(f"{above}/") and all(
                record.get(name, value) == value for name, value in asked.query.items()
            ):
                found.setdefault(record[KEYS[level]], record)
        limit = int(asked.query.get("limit", self.most)) if self.takes_limit else self.most
        offset = int(asked.query.get("offset", 0)) if self.takes_offset else 0
        page = list(found.values())[offset:][: min(limit, self.most)]
        return Reply().with_json(
            [
                {
                    TAGS[name][0]: {"vr": TAGS[name][1], "Value": [record[name]]}
                    for name in LEVELS[level]
                    if record[name]
                }
                for record in page
            ]
        )


def _handler(owner: StandIn) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        timeout = 30

        def setup(self) -> None:
            super().setup()
            owner.connections.add(self.connection)

        def finish(self) -> None:
            owner.connections.discard(self.connection)
            with suppress(OSError):
                super().finish()

        def do_GET(self) -> None:
            parts = urlsplit(self.path)
            headers = {name.lower(): value for name, value in self.headers.items()}
            path = unquote(parts.path).removeprefix("/dicom-web")
            reply = owner.answer(Asked(path, dict(parse_qsl(parts.query)), headers))
            with suppress(ConnectionError, ssl.SSLError):
                self._send(reply)

        def _send(self, reply: Reply) -> None:
            self.send_response(reply.status)
            self.send_header("Content-Type", reply.type)
            framing = {"length": ("Content-Length", str(len(reply.body))), "chunked": ("Transfer-Encoding", "chunked")}
            if reply.framing in framing and "Content-Length" not in reply.headers:
                self.send_header(*framing[reply.framing])
            for name, value in reply.headers.items():
                self.send_header(name, value)
            self.end_headers()
            body = reply.body if reply.sent is None else reply.body[: reply.sent]
            if reply.framing == "chunked":
                for start in range(0, len(body), 1000):
                    piece = body[start : start + 1000]
                    self.wfile.write(f"{len(piece):x}\r\n".encode() + piece + b"\r\n")
                if reply.sent is None:
                    self.wfile.write(b"0\r\n\r\n")
            else:
                self.wfile.write(body)
            self.close_connection = reply.sent is not None or reply.framing == "close"

        def log_message(self, *_: Any) -> None:
            pass

    return Handler
