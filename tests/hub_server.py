"""A stand-in for a model hub: its HTTP interface over repositories in memory, on two ports of this machine.

One port is the hub, with the list of a commit's files and `resolve`; the other the storage that large files are
redirected to, and which refuses a request that carries the hub's token. Every request is written down; faults are
planted for the requests to come. Headers and codes are those that huggingface_hub reads.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import sys
import threading
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

__all__ = ["Fault", "HubServer", "Repository", "Request", "git_sha1", "hub_server"]


def git_sha1(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@dataclass
class Repository:
    """One model repository; a file is in large file storage if its name ends in one of `large`."""

    commits: dict[str, dict[str, bytes]]
    branches: dict[str, str]
    gated: str | bool = False
    licence: str | None = None
    large: tuple[str, ...] = (".onnx", ".onnx_data", ".bin", ".safetensors")

    def is_large(self, path: str) -> bool:
        return path.endswith(self.large)


@dataclass
class Fault:
    """What goes wrong with one request.

    Attributes
    ----------
    status, headers
        Answer with these and no content.
    cut : int or None
        Close the connection after so many bytes of the body.
    hold : threading.Event or None
        Wait for it after `cut` bytes, then send the rest, instead of closing.
    body : bytes or None
        Send this in place of the content, under the content's headers.
    ignore_range : bool
        Send everything though a part was asked for.
    etag : str or None
        Another ETag than the content's own.
    shift : int
        Send, and name, a range that begins so many bytes later than the one that was asked for.
    blind : bool
        Do not look at If-Range.
    open_end : bool
        Do not say how long the body is: it ends when the connection does.
    """

    status: int | None = None
    headers: dict[str, str] = field(default_factory=dict)
    cut: int | None = None
    hold: threading.Event | None = None
    body: bytes | None = None
    ignore_range: bool = False
    etag: str | None = None
    shift: int = 0
    blind: bool = False
    open_end: bool = False


@dataclass(frozen=True)
class Request:
    """One request as it came in; names of headers are in lower case."""

    host: str
    method: str
    path: str
    headers: dict[str, str]


class HubServer:
    """Repositories, tokens, planted faults, and what was asked.

    Attributes
    ----------
    repositories : dict of str to Repository
    tokens : dict of str to set of str
        Token to the gated repositories whose terms its account accepted.
    moved : dict of str to str
        Former names of repositories, from which the hub redirects.
    says : dict
        Replaces fields of the answer about a commit.
    blobs : bool
        False: the list of files has names only, as some mirrors answer.
    requests : list of Request
    """

    def __init__(self) -> None:
        self.repositories: dict[str, Repository] = {}
        self.tokens: dict[str, set[str]] = {}
        self.moved: dict[str, str] = {}
        self.says: dict[str, Any] = {}
        self.blobs = True
        self.requests: list[Request] = []
        self._faults: dict[tuple[str, str], list[Fault]] = defaultdict(list)
        self._lock = threading.Lock()
        self._servers = [self._serve("hub"), self._serve("storage")]
        self.endpoint, self.storage = (f"http://127.0.0.1:{server.server_port}" for server in self._servers)

    def plant(self, host: str, path: str, *faults: Fault) -> None:
        """Let the next requests to a host for a file (or for "api") go wrong, one after the other."""
        self._faults[host, path].extend(faults)

    def asked(self, host: str, ending: str = "") -> list[Request]:
        """Return the requests to a host whose path ends so."""
        return [one for one in self.requests if one.host == host and one.path.partition("?")[0].endswith(ending)]

    def close(self) -> None:
        for server in self._servers:
            server.shutdown()
            server.server_close()

    def fault(self, host: str, path: str) -> Fault:
        with self._lock:
            waiting = self._faults[host, path]
            return waiting.pop(0) if waiting else Fault()

    def _serve(self, host: str) -> ThreadingHTTPServer:
        handler = type(f"{host}Handler", (_Hub if host == "hub" else _Storage,), {"world": self, "host": host})
        server = _Server(("127.0.0.1", 0), handler)
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return server


@contextlib.contextmanager
def hub_server() -> Iterator[HubServer]:
    """Run a stand-in and stop it at the end."""
    server = HubServer()
    try:
        yield server
    finally:
        server.close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say what went wrong, unless the client went away, which is what many tests are about."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    world: HubServer
    host: str
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *arguments: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self._noted()

    def do_GET(self) -> None:
        self._noted()

    def _noted(self) -> None:
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.world.requests.append(Request(self.host, self.command, self.path, headers))
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self.answer(unquote(urlsplit(self.path).path))

    def answer(self, path: str) -> None:
        raise NotImplementedError

    def send(self, status: int, headers: dict[str, str], body: bytes = b"", fault: Fault | None = None) -> None:
        fault = fault or Fault()
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if not fault.open_end:
            self.send_header("Content-Length", str(len(body)))
        else:
            self.close_connection = True
        self.end_headers()
        if self.command == "HEAD":
            return
        if fault.cut is None:
            self.wfile.write(body)
            return
        self.wfile.write(body[: fault.cut])
        self.wfile.flush()
        self.close_connection = True
        if fault.hold is not None and fault.hold.wait(60):
            self.wfile.write(body[fault.cut :])

    def content(self, body: bytes, etag: str, headers: dict[str, str], fault: Fault) -> None:
        """Answer with a content or the part of it that is asked for, by the rules for Range and If-Range."""
        tag = f'"{fault.etag or etag}"'
        headers = {"ETag": tag, "Accept-Ranges": "bytes", **headers}
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        fits = fault.blind or self.headers.get("If-Range", tag) == tag
        if asked is None or fault.ignore_range or not fits:
            self.send(200, headers, body if fault.body is None else fault.body, fault)
            return
        start, total = int(asked[1]) + fault.shift, len(body)
        if start >= total:
            self.send(416, {**headers, "Content-Range": f"bytes */{total}"})
            return
        headers["Content-Range"] = f"bytes {start}-{total - 1}/{total}"
        self.send(206, headers, body[start:] if fault.body is None else fault.body, fault)


class _Hub(_Handler):
    def answer(self, path: str) -> None:
        api = re.fullmatch(r"/api/models/([^/]+/[^/]+)/revision/(.+)", path)
        file = re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path)
        match = api or file
        repository = self.world.repositories.get(match[1]) if match is not None else None
        fault = self.world.fault("hub", "api" if api else file[3] if file else "")
        if fault.status is not None:
            self.send(fault.status, fault.headers)
        elif match is not None and match[1] in self.world.moved:
            self.send(307, {"Location": self.path.replace(match[1], self.world.moved[match[1]])})
        elif match is None or repository is None:
            self._refuse(401 if "Authorization" not in self.headers else 404, "RepoNotFound")
        elif self._token() not in {None, *self.world.tokens}:
            self.send(401, {"X-Error-Message": "Invalid credentials in Authorization header"})
        else:
            revision = repository.branches.get(match[2], match[2])
            if revision not in repository.commits:
                self._refuse(404, "RevisionNotFound")
            elif api:
                self._commit(match[1], repository, revision, fault)
            else:
                self._file(match[1], repository, revision, match[3], fault)

    def _token(self) -> str | None:
        given = self.headers.get("Authorization")
        return None if given is None else given.removeprefix("Bearer ")

    def _refuse(self, status: int, code: str) -> None:
        self.send(status, {"X-Error-Code": code, "X-Error-Message": "see the code"}, b'{"error": "see the code"}')

    def _commit(self, name: str, repository: Repository, revision: str, fault: Fault) -> None:
        siblings: list[dict[str, Any]] = []
        for path, content in repository.commits[revision].items():
            one: dict[str, Any] = {"rfilename": path}
            if self.world.blobs and "blobs=" in self.path:
                one |= {"size": len(content), "blobId": git_sha1(content)}
                if repository.is_large(path):
                    sha256 = hashlib.sha256(content).hexdigest()
                    one["blobId"] = git_sha1(f"pointer to {sha256}".encode())
                    one["lfs"] = {"sha256": sha256, "size": len(content), "pointerSize": 134}
            siblings.append(one)
        card = {"license": repository.licence} if repository.licence else {}
        answer = {"id": name, "sha": revision, "gated": repository.gated, "cardData": card, "siblings": siblings}
        body = json.dumps({**answer, **self.world.says}).encode() if fault.body is None else fault.body
        self.send(200, {"Content-Type": "application/json; charset=utf-8"}, body, fault)

    def _file(self, name: str, repository: Repository, revision: str, path: str, fault: Fault) -> None:
        content = repository.commits[revision].get(path)
        if repository.gated and name not in self.world.tokens.get(self._token() or "", set()):
            self._refuse(401 if self._token() is None else 403, "GatedRepo")
        elif content is None:
            self._refuse(404, "EntryNotFound")
        elif repository.is_large(path):
            sha256 = hashlib.sha256(content).hexdigest()
            place = f"{self.world.storage}/objects/{name}/{revision}/{path}?signature=once"
            headers = {"X-Linked-Etag": f'"{sha256}"', "X-Linked-Size": str(len(content)), "X-Repo-Commit": revision}
            self.send(302, {**headers, "Location": place, **fault.headers})
        else:
            self.content(content, git_sha1(content), {"X-Repo-Commit": revision, **fault.headers}, fault)


class _Storage(_Handler):
    def answer(self, path: str) -> None:
        match = re.fullmatch(r"/objects/([^/]+/[^/]+)/([0-9a-f]{40})/(.+)", path)
        if match is None or "Authorization" in self.headers:
            self.send(400, {})
            return
        fault = self.world.fault("storage", match[3])
        if fault.status is not None:
            self.send(fault.status, fault.headers)
            return
        content = self.world.repositories[match[1]].commits[match[2]][match[3]]
        self.content(content, hashlib.sha256(content).hexdigest(), fault.headers, fault)
