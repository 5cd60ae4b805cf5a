"""GET over HTTP from one server: credentials from the environment, bounded retries, redirects, sizes and times.

Opens connections to the server that it is given and to where that one redirects; writes, logs and remembers nothing of
what it sends or gets. RFC 9110 for statuses, Retry-After and content codings.
"""

from __future__ import annotations

import base64
import http.client
import os
import socket
import ssl
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import NamedTuple, TypeVar
from urllib.parse import SplitResult, quote, urljoin, urlsplit

from osler.errors import ServerError
from osler.sources.address import is_loopback

__all__ = ["Body", "Client", "CutShort", "Refused", "TooLarge", "check_credentials"]

_T = TypeVar("_T")

TOKEN, USER, PASSWORD = "OSLER_DICOMWEB_TOKEN", "OSLER_DICOMWEB_USER", "OSLER_DICOMWEB_PASSWORD"
_CREDENTIALS = f"set {TOKEN}, or {USER} and {PASSWORD}"

_CONNECT_SECONDS = 15
_SILENT_SECONDS = 60
# A body may take so long, and longer only as far as it comes at this many bytes a second.
_PATIENCE_SECONDS = 120
_SLOWEST_BYTES = 1_024
_ATTEMPTS = 5
# An error of the server's own may be of one file alone: it is asked for once more, not five times.
_ATTEMPTS_OF_500 = 2
_FIRST_WAIT_SECONDS = 0.5
_LONGEST_WAIT_SECONDS = 60
_REDIRECTS = 5
_PIECE_BYTES = 1 << 20
_REDIRECTED = (301, 302, 303, 307, 308)
_AGAIN = (408, 425, 429, 500, 502, 503, 504)


class Refused(Exception):
    """The server answered with another status than success, and would again."""

    def __init__(self, status: int) -> None:
        super().__init__(f"the server answered with status {status}")
        self.status = status


class TooLarge(Exception):
    """A body has more bytes than were to be read of it."""


class CutShort(Exception):
    """An answer did not come whole; asking again may help. Its text says what happened, as in "it is silent"."""


class _Origin(NamedTuple):
    """What credentials are for: scheme, host and port."""

    scheme: str
    host: str
    port: int


class _Again(NamedTuple):
    """Why an attempt failed that may succeed later, its status, how long it says to wait; an answer may be cut."""

    why: str
    status: int | None = None
    seconds: float | None = None
    cut: bool = False


def check_credentials() -> None:
    """Refuse credentials in the environment that cannot be sent.

    Raises
    ------
    ValueError
        Both kinds are set, a user without a password or the reverse, or a character cannot be in a header.
    """
    token, user, password = (name in os.environ for name in (TOKEN, USER, PASSWORD))
    if token and (user or password):
        raise ValueError(f"{TOKEN} is set, and {USER} or {PASSWORD} too; unset those that are not meant")
    if user != password:
        raise ValueError(f"only one of {USER} and {PASSWORD} is set; set both")
    if user and ":" in os.environ[USER]:
        raise ValueError(f"{USER} has a colon, which no user name can have; correct it")
    for name in (TOKEN, USER, PASSWORD):
        if not os.environ.get(name, "x").isprintable() or not os.environ.get(name, "x"):
            raise ValueError(f"{name} is empty or has a character that cannot be sent; set it anew, without a line end")
    if not os.environ.get(TOKEN, "x").isascii() or " " in os.environ.get(TOKEN, ""):
        raise ValueError(f"{TOKEN} has a character that no token can have; give the token alone, without 'Bearer'")


def _has_credentials() -> bool:
    return TOKEN in os.environ or USER in os.environ


def _credentials() -> bytes:
    """Return the value of the header Authorization."""
    if TOKEN in os.environ:
        return b"Bearer " + os.environ[TOKEN].encode("ascii")
    return b"Basic " + base64.b64encode(f"{os.environ[USER]}:{os.environ[PASSWORD]}".encode())


class Body:
    """The body of one answer, read in pieces, without its content coding, within a size and a time.

    Attributes
    ----------
    status : int
    type : str
        The header Content-Type as it is.
    framed : bool
        Its length is known, so that a body that was cut short cannot be taken for a whole one.
    ended : bool
        It was read to an end that was known.
    """

    def __init__(self, response: http.client.HTTPResponse, most: int) -> None:
        self.status = response.status
        self.type = response.getheader("Content-Type") or ""
        # Asked once: some versions of Python count it down while reading, and some do not.
        self._length = response.length
        self.framed = self._length is not None or bool(response.chunked)
        self._response = response
        self._most = most
        coding = (response.getheader("Content-Encoding") or "identity").strip().lower()
        if coding not in ("identity", "", "gzip", "x-gzip", "deflate"):
            raise ServerError("the server sends a content coding that was not asked for; turn its compression off")
        self._coded = coding not in ("identity", "")
        # So that the connection can be used again.
        self.ended = False
        if self._length is not None and self._length > most:
            raise TooLarge

    def pieces(self) -> Iterator[bytes]:
        """Yield the bytes as they come.

        Raises
        ------
        TooLarge, CutShort
        """
        count = 0
        for piece in self._decoded() if self._coded else self._raw():
            count += len(piece)
            if count > self._most:
                raise TooLarge
            yield piece

    def all(self) -> bytes:
        """Return all bytes; see `pieces`."""
        return b"".join(self.pieces())

    def _raw(self) -> Iterator[bytes]:
        start, count = time.monotonic(), 0
        while self._length is None or count < self._length:
            left = _PIECE_BYTES if self._length is None else min(_PIECE_BYTES, self._length - count)
            piece = self._response.read1(left)
            if not piece:
                break
            count += len(piece)
            if count > self._most:
                raise TooLarge
            if time.monotonic() - start > _PATIENCE_SECONDS + count / _SLOWEST_BYTES:
                raise CutShort("it sends too slowly")
            yield piece
        if self._length is not None and count < self._length:
            raise CutShort("it ended in the middle of an answer")
        self.ended = self.framed

    def _decoded(self) -> Iterator[bytes]:
        inflate = zlib.decompressobj(32 + zlib.MAX_WBITS)
        try:
            for piece in self._raw():
                rest = piece
                while rest and not inflate.eof:
                    yield inflate.decompress(rest, _PIECE_BYTES)
                    rest = inflate.unconsumed_tail
            yield inflate.flush()
        except zlib.error:
            raise CutShort("it sent a damaged answer") from None
        if not inflate.eof:
            raise CutShort("it ended in the middle of an answer")


class Client:
    """Asks one server; any number of threads may ask at once.

    Parameters
    ----------
    root : str
        Address that all paths are below, without a slash at its end.
    insecure : bool
        Plain http may leave this machine.

    Examples
    --------
    >>> from osler.sources.web import Client
    >>> client = Client("https://pacs.example/dicom-web")
    >>> client
    <osler Client>
    >>> client.close()
    """

    def __init__(self, root: str, *, insecure: bool = False) -> None:
        self._root = root
        self._origin = _origin(urlsplit(root))
        self._insecure = insecure
        self._lock = threading.Lock()
        self._idle: list[http.client.HTTPConnection] = []
        self._busy: dict[http.client.HTTPConnection, _Origin] = {}
        self._closing = threading.Event()
        self._trust: ssl.SSLContext | None = None

    def __repr__(self) -> str:
        return "<osler Client>"

    def __del__(self) -> None:
        # Of a source that nobody closed; half-made ones have nothing to close.
        with suppress(AttributeError):
            self.close()

    def get(self, path: str, accept: str, read: Callable[[Body], _T], *, most: int, compressed: bool = False) -> _T:
        """Return what `read` makes of the body of an answer.

        Parameters
        ----------
        path : str
            What follows the root, with its query.
        accept : str
            Media types.
        read : callable
            Gets the `Body`, more than once where an answer does not come whole.
        most : int
            Bytes to be read at most.
        compressed : bool
            Ask for a compressed answer.

        Raises
        ------
        Refused
            The status is no success, and asking again is of no use.
        TooLarge
            There are more than `most` bytes.
        CutShort
            The answer does not come, or not as a whole, also when it is asked for again: of another path it may.
        ServerError
            There is no server, it is silent, it fails again and again, or it redirects to where it must not.
        """
        again = _Again("")
        for attempt in range(_ATTEMPTS):
            if attempt:
                self._wait(again, _FIRST_WAIT_SECONDS * 2 ** (attempt - 1))
            found = self._attempt(path, accept, read, most, compressed)
            if not isinstance(found, _Again):
                return found[0]
            if found.status == 500 and attempt + 1 >= _ATTEMPTS_OF_500:
                raise Refused(500)
            again = found
        if again.cut:
            raise CutShort(again.why)
        raise ServerError(
            f"the server fails: {again.why}, also when asked {_ATTEMPTS} times; check that it runs, and its address"
        )

    def close(self) -> None:
        """End all connections; what is under way in other threads fails."""
        self._closing.set()
        with self._lock:
            idle, self._idle = self._idle, []
            busy = list(self._busy)
        for connection in idle:
            connection.close()
        for connection in busy:
            if connection.sock is not None:
                # Past the TLS layer, which is another thread's: its reading ends, and it closes the connection.
                with suppress(OSError):
                    socket.socket.shutdown(connection.sock, socket.SHUT_RDWR)

    def _wait(self, again: _Again, seconds: float) -> None:
        if again.seconds is not None and again.seconds > _LONGEST_WAIT_SECONDS:
            raise ServerError(
                f"the server asks to come back in {again.seconds:,.0f} seconds; add the source again then"
            )
        self._closing.wait(max(seconds, again.seconds or 0.0))
        self._check_open()

    def _check_open(self) -> None:
        if self._closing.is_set():
            raise ServerError("the connection to the server was closed; open the source again")

    def _attempt(
        self, path: str, accept: str, read: Callable[[Body], _T], most: int, compressed: bool
    ) -> tuple[_T] | _Again:
        """Ask once, wherever that leads; errors of connections end here, with what was sent in their frames."""
        at = urlsplit(self._root + path)
        for _ in range(_REDIRECTS + 1):
            self._check_open()
            found = self._exchange(at, accept, compressed)
            if isinstance(found, _Again):
                return found
            connection, response = found
            whole = False
            why: str | None = None
            try:
                if response.status in _REDIRECTED:
                    at = self._redirected(at, response.getheader("Location"))
                    continue
                if response.status in _AGAIN:
                    return _Again(f"status {response.status}", response.status, _retry_after(response))
                if response.status not in (200, 204):
                    self._check_asked(at, response.status)
                    raise Refused(response.status)
                body = Body(response, most)
                value = read(body)
                whole = body.ended
                return (value,)
            except CutShort as error:
                why = str(error)
            except (OSError, http.client.HTTPException) as error:
                why = _why(error)
            finally:
                self._give_back(connection, response, whole)
            return _Again(why, cut=True)
        raise ServerError("the server redirects in a circle; give the address that it redirects to")

    def _exchange(
        self, at: SplitResult, accept: str, compressed: bool
    ) -> tuple[http.client.HTTPConnection, http.client.HTTPResponse] | _Again:
        """Send a request and return its answer; a connection that was kept and has ended meanwhile is none."""
        origin = _origin(at)
        target = quote(at.path or "/", safe="/%:@!$&'()*+,;=~") + (f"?{at.query}" if at.query else "")
        while True:
            connection, kept = self._taken(origin)
            met = False
            why: str | None = None
            try:
                if connection.sock is None:
                    connection.connect()
                    _be_patient(connection)
                met = True
                connection.putrequest("GET", target, skip_accept_encoding=True)
                connection.putheader("Accept", accept)
                connection.putheader("Accept-Encoding", "gzip" if compressed else "identity")
                connection.putheader("User-Agent", "osler")
                # Only the server that was named gets them, and no variable holds them.
                if origin == self._origin and _has_credentials():
                    connection.putheader("Authorization", _credentials())
                connection.endheaders()
                return connection, connection.getresponse()
            except (OSError, http.client.HTTPException, ValueError) as error:
                why = _why(error)
                met = met and not isinstance(error, TimeoutError)
                if isinstance(error, ssl.SSLCertVerificationError):
                    kept, why = False, None
            self._drop(connection)
            if why is None:
                raise ServerError(
                    "the certificate of the server is not trusted; name the file of its authority in SSL_CERT_FILE, or "
                    "correct the address"
                )
            self._check_open()
            if not kept:
                return _Again(why, cut=met)

    def _taken(self, origin: _Origin) -> tuple[http.client.HTTPConnection, bool]:
        """Return a connection that was kept, or a new one that is not yet open."""
        with self._lock:
            connection = self._idle.pop() if origin == self._origin and self._idle else None
            kept = connection is not None
            if connection is None:
                connection = self._made(origin)
            self._busy[connection] = origin
        return connection, kept

    def _made(self, origin: _Origin) -> http.client.HTTPConnection:
        if origin.scheme == "http":
            return http.client.HTTPConnection(origin.host, origin.port, timeout=_CONNECT_SECONDS)
        if self._trust is None:
            self._trust = ssl.create_default_context()
        proxy = _proxy(origin)
        if proxy is None:
            return http.client.HTTPSConnection(origin.host, origin.port, timeout=_CONNECT_SECONDS, context=self._trust)
        connection = http.client.HTTPSConnection(*proxy, timeout=_CONNECT_SECONDS, context=self._trust)
        connection.set_tunnel(origin.host, origin.port)
        return connection

    def _give_back(
        self, connection: http.client.HTTPConnection, response: http.client.HTTPResponse, whole: bool
    ) -> None:
        """Keep a connection whose answer was read to its end, and end any other."""
        response.close()
        with self._lock:
            own = self._busy.get(connection) == self._origin
            if whole and own and not response.will_close and not self._closing.is_set():
                del self._busy[connection]
                self._idle.append(connection)
                return
        self._drop(connection)

    def _drop(self, connection: http.client.HTTPConnection) -> None:
        with self._lock:
            self._busy.pop(connection, None)
        connection.close()

    def _redirected(self, at: SplitResult, location: str | None) -> SplitResult:
        """Return where a redirection leads, which may be another host and never one that is less private."""
        try:
            to = urlsplit(urljoin(at.geturl(), location or ""))
            usable = location and to.scheme in ("http", "https") and to.hostname and "@" not in to.netloc
            _ = to.port
        except ValueError:
            usable = False
        if not usable:
            raise ServerError("the server redirects to what is no address; give another address of it")
        if to.scheme == "http" and at.scheme == "https":
            raise ServerError("the server redirects from https to http, which is refused; mend the server")
        if to.scheme == "http" and not self._insecure and not is_loopback(to.hostname or ""):
            raise ServerError(
                "the server redirects to plain http on another machine, which is refused; mend the server"
            )
        return to

    def _check_asked(self, at: SplitResult, status: int) -> None:
        if status == 401 and _origin(at) != self._origin:
            raise ServerError(
                "the server redirects to another host, which asks for credentials, and those are sent to no other "
                "host; give the address that it redirects to"
            )
        if status == 401 and not _has_credentials():
            raise ServerError(f"the server asks for credentials; {_CREDENTIALS}, and add the source again")
        if status == 401:
            raise ServerError(
                "the server does not accept the credentials of the environment; set others, or new ones if they expired"
            )


def _be_patient(connection: http.client.HTTPConnection) -> None:
    if connection.sock is not None:
        connection.sock.settimeout(_SILENT_SECONDS)


def _origin(address: SplitResult) -> _Origin:
    return _Origin(address.scheme, address.hostname or "", address.port or (443 if address.scheme == "https" else 80))


def _proxy(origin: _Origin) -> tuple[str, int] | None:
    """Return the proxy that the environment names for a host, as other programs take it."""
    if is_loopback(origin.host):
        return None
    from urllib.request import getproxies, proxy_bypass

    named = getproxies().get(origin.scheme)
    if not named or proxy_bypass(f"{origin.host}:{origin.port}"):
        return None
    proxy = urlsplit(named if "//" in named else f"//{named}")
    return (proxy.hostname, proxy.port or 80) if proxy.hostname else None


def _retry_after(response: http.client.HTTPResponse) -> float | None:
    """Return how many seconds the server asks to wait, as it says by a number or a date."""
    text = (response.getheader("Retry-After") or "").strip()
    if text.isascii() and text.isdigit() and len(text) < 10:
        return float(text)
    try:
        date = parsedate_to_datetime(text)
    except (ValueError, TypeError):
        return None
    date = date if date.tzinfo else date.replace(tzinfo=UTC)
    return max(0.0, (date - datetime.now(UTC)).total_seconds())


def _why(error: Exception) -> str:
    """Return what happened to a connection, in words of our own: those of the error may quote what was sent."""
    if isinstance(error, TimeoutError):
        return "it does not answer"
    if isinstance(error, socket.gaierror):
        return "its name is not known"
    if isinstance(error, ConnectionRefusedError):
        return "the connection is refused"
    if isinstance(error, ssl.SSLError):
        return "it does not speak TLS as it should"
    if isinstance(error, http.client.IncompleteRead):
        return "it ended in the middle of an answer"
    if isinstance(error, OSError):
        return "the proxy refuses" if "Tunnel" in str(error) else "the connection is cut"
    return "it does not speak HTTP as it should"
