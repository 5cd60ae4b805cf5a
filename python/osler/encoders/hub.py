"""Speaks the HTTP of a model hub: the commit behind a name, what it declares of its files, and the bytes of one file.

Opens connections to the hub's endpoint and to where that redirects; writes nothing. Client, proxies, certificates,
endpoint and token are those of the package huggingface_hub. Its own requests are not used: they name the versions of
what is installed to the server, its download reads on past the declared size, and it compares no hash.
"""

from __future__ import annotations

import contextlib
import ipaddress
import json
import os
import re
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import quote, urljoin, urlsplit

from osler.config import settings
from osler.errors import EncoderError
from osler.progress import notice

__all__ = ["Commit", "Hub", "Remote", "Reply", "Transient", "patiently"]

_Result = TypeVar("_Result")
_ATTEMPTS = 5  # without progress
_BACKOFF = 0.5  # seconds before the second attempt; doubles with each
_LONGEST_WAIT = 60  # seconds that a server may ask for before the user is told instead
_PROGRESS = 1 << 20  # bytes after which attempts are counted anew
_REDIRECTS = 5
_SECONDS = 30.0  # without a byte
_LARGEST_ANSWER = 32 << 20  # bytes of JSON about one commit
_HEX40, _HEX64 = re.compile(r"[0-9a-f]{40}"), re.compile(r"[0-9a-f]{64}")


class Transient(Exception):
    """What may go away by itself; `wait` is how many seconds the server asks for."""

    def __init__(self, message: str, wait: float = 0.0) -> None:
        super().__init__(message)
        self.wait = wait


@dataclass(frozen=True, slots=True)
class Remote:
    """What a hub declares of one file of a commit.

    Attributes
    ----------
    path : str
        In the repository.
    size : int
        In bytes.
    sha256 : str or None
        Of the content, for files in large file storage.
    git_sha1 : str or None
        Of the content as a git blob, for the others.
    """

    path: str
    size: int
    sha256: str | None
    git_sha1: str | None


@dataclass(frozen=True, slots=True)
class Commit:
    """A commit of a repository, what it declares of the files that were asked for, and its terms.

    Attributes
    ----------
    repository, revision : str
        ``owner/name`` and 40 hexadecimal digits.
    files : dict of str to Remote
    gated : bool
        The hub hands its files to accounts that accepted its terms only.
    licence : str or None
        As the repository's own page states it.
    """

    repository: str
    revision: str
    files: dict[str, Remote]
    gated: bool
    licence: str | None


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer whose body is still to be read.

    Attributes
    ----------
    status : int
        200, 206 or 416.
    headers : mapping of str to str
        Of the host that has the content.
    declared : mapping of str to str
        Of the hub itself, before it redirected.
    chunks : callable
        Yields the content, decoded, as it comes in.
    """

    status: int
    headers: Mapping[str, str]
    declared: Mapping[str, str]
    chunks: Callable[[], Iterator[bytes]]


class Hub:
    """A model hub; nothing is opened before the first request.

    Raises
    ------
    EncoderError
        ``offline``: OSLER_OFFLINE or HF_HUB_OFFLINE is set; ``package_missing``: huggingface_hub is not installed.

    Examples
    --------
    >>> from osler.encoders.hub import Hub
    >>> Hub(endpoint="http://127.0.0.1:8080/").page("owner/name")
    'http://127.0.0.1:8080/owner/name'
    """

    def __init__(self, endpoint: str | None = None) -> None:
        if settings().offline:
            raise EncoderError(
                "OSLER_OFFLINE or HF_HUB_OFFLINE is set, so nothing is downloaded; unset it, or copy the encoder's "
                "folder from a machine that has it",
                code="offline",
            )
        try:
            import huggingface_hub
            from huggingface_hub import constants
        except ImportError:
            raise EncoderError(
                'downloading needs the package huggingface_hub; pip install "osler[hub]"', code="package_missing"
            ) from None
        given = endpoint or os.environ.get("HF_ENDPOINT") or constants.ENDPOINT
        parts = urlsplit(given)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise EncoderError("HF_ENDPOINT is not an address; set it as in https://HOST, or unset it", code="endpoint")
        self._endpoint = given.rstrip("/")
        token = None if constants.HF_HUB_DISABLE_IMPLICIT_TOKEN else huggingface_hub.get_token()
        self._token = token if _is_private(given) else None
        if token and self._token is None:
            notice("osler: HF_ENDPOINT is not https, so your token is not sent")

    def __repr__(self) -> str:
        return f"Hub({self.endpoint!r})"

    @property
    def endpoint(self) -> str:
        """Address of the hub, without the user and password that may be in it."""
        return _without_user(self._endpoint)

    def page(self, repository: str) -> str:
        """Return the page of a repository, for a person."""
        return f"{self.endpoint}/{repository}"

    def commit(self, repository: str, revision: str, paths: tuple[str, ...]) -> Commit:
        """Ask which commit a revision stands for, and what it declares of some files.

        Parameters
        ----------
        repository : str
        revision : str
            A commit, branch or tag.
        paths : tuple of str
            Files of the repository.

        Returns
        -------
        Commit

        Raises
        ------
        EncoderError
            ``gated``, ``repository_missing``, ``revision_missing``, ``file_missing``, ``token``, ``network``, or the
            answer is not one of a hub.
        """
        url = f"{self._endpoint}/api/models/{quote(repository)}/revision/{quote(revision, safe='')}?blobs=true"
        answer = patiently(lambda: self._json(url, repository, revision))
        found = answer.get("sha")
        if not isinstance(found, str) or not _HEX40.fullmatch(found):
            raise self._foreign()
        if _HEX40.fullmatch(revision) and found != revision:
            raise EncoderError(f"{repository}: the hub answers for another commit than {revision}", code="network")
        listed = answer.get("siblings")
        if not isinstance(listed, list):
            raise self._foreign()
        siblings = {one.get("rfilename"): one for one in listed if isinstance(one, dict)}
        files = {}
        for path in paths:
            if path not in siblings:
                raise self._no_file(repository, found, path)
            files[path] = self._remote(repository, found, path, siblings[path])
        card = answer.get("cardData")
        licence = card.get("license") if isinstance(card, dict) else None
        gated = answer.get("gated") not in (None, False)
        return Commit(repository, found, files, gated, licence if isinstance(licence, str) else None)

    @contextlib.contextmanager
    def content(self, repository: str, revision: str, path: str, headers: Mapping[str, str]) -> Iterator[Reply]:
        """Ask for the bytes of a file; `headers` may name a range.

        Raises
        ------
        EncoderError
            As `commit`.
        Transient
            It may succeed another time, also while the content is read.
        """
        url = self._file_url(repository, revision, path)
        with self._open("GET", url, repository, revision, path, headers) as reply:
            yield reply

    def _file_url(self, repository: str, revision: str, path: str) -> str:
        return f"{self._endpoint}/{quote(repository)}/resolve/{quote(revision, safe='')}/{quote(path)}"

    def _json(self, url: str, repository: str, revision: str) -> dict[str, Any]:
        body = bytearray()
        with self._open("GET", url, repository, revision, None, {}) as reply:
            for chunk in reply.chunks():
                body += chunk
                if len(body) > _LARGEST_ANSWER:
                    raise self._foreign()
        try:
            answer = json.loads(body)
        except (ValueError, RecursionError):
            raise self._foreign() from None
        if not isinstance(answer, dict):
            raise self._foreign()
        return answer

    def _remote(self, repository: str, revision: str, path: str, sibling: dict[str, Any]) -> Remote:
        """Read what the list says of a file; a mirror may say less there than in the headers of the file."""
        lfs = sibling.get("lfs")
        size, sha256, git = _size(sibling.get("size")), None, sibling.get("blobId")
        if isinstance(lfs, dict):
            size, sha256, git = _size(lfs.get("size", size)), lfs.get("sha256"), None
        if size is None or not (_is_hash(sha256, _HEX64) or _is_hash(git, _HEX40)):
            declared = patiently(lambda: self._head(repository, revision, path))
            tag = _tag(declared.get("x-linked-etag") or declared.get("etag"))
            length = declared.get("x-linked-size") or declared.get("content-length") or ""
            size = int(length) if length.isascii() and length.isdigit() else None
            sha256, git = (tag, None) if _is_hash(tag, _HEX64) else (None, tag)
        sha256, git = sha256 if _is_hash(sha256, _HEX64) else None, git if _is_hash(git, _HEX40) else None
        if size is None:
            raise EncoderError(f"{repository}: the hub does not say how large {path} is", code="network")
        return Remote(path, size, sha256, git)

    def _head(self, repository: str, revision: str, path: str) -> Mapping[str, str]:
        """Return what the hub itself says of a file; its redirect is not followed."""
        url = self._file_url(repository, revision, path)
        with self._send("HEAD", url, self._authorised({})) as response:
            if response.status_code >= 400:
                raise self._refusal(response, repository, revision, path)
            return dict(response.headers)

    @contextlib.contextmanager
    def _open(
        self, method: str, url: str, repository: str, revision: str, path: str | None, headers: Mapping[str, str]
    ) -> Iterator[Reply]:
        """Follow redirects by hand, so that a token never leaves the endpoint and nothing is read in the clear."""
        declared: dict[str, str] = {}
        for _ in range(_REDIRECTS + 1):
            at_home = _origin(url) == _origin(self._endpoint)
            with self._send(method, url, self._authorised(headers) if at_home else dict(headers)) as response:
                if at_home:
                    declared.update(response.headers)
                target = response.headers.get("location")
                if response.status_code not in (301, 302, 303, 307, 308) or target is None:
                    if response.status_code not in (200, 206, 416):
                        if not at_home:  # a link of the hub's storage expires
                            raise Transient(
                                f"the hub's storage answers with status {response.status_code}",
                                _seconds(response.headers.get("retry-after")),
                            )
                        raise self._refusal(response, repository, revision, path)
                    yield Reply(response.status_code, response.headers, declared, response.iter_bytes)
                    return
                url = self._next(url, target)
        raise EncoderError(f"{repository}: the hub redirects in a circle", code="network")

    def _next(self, url: str, target: str) -> str:
        try:
            found = urljoin(url, target)
            origin = _origin(found)
        except ValueError:
            raise self._foreign() from None
        if origin != _origin(url) and not _is_private(found):
            raise EncoderError(
                "the hub redirects to another host without https, and that was refused; ask whoever runs the mirror",
                code="network",
            )
        return found

    def _authorised(self, headers: Mapping[str, str]) -> dict[str, str]:
        return {**headers, **({"Authorization": f"Bearer {self._token}"} if self._token else {})}

    @contextlib.contextmanager
    def _send(self, method: str, url: str, headers: Mapping[str, str]) -> Iterator[Any]:
        from huggingface_hub import get_session
        from huggingface_hub.errors import HTTPError

        from osler import __version__

        library = sys.modules[HTTPError.__module__.partition(".")[0]]  # httpx, or httpx2 from huggingface_hub 2.2 on
        fixed = {"User-Agent": f"osler/{__version__}", "Accept-Encoding": "identity", **headers}
        host = urlsplit(url).hostname or "the hub"
        try:
            with get_session().stream(
                method, url, headers=fixed, follow_redirects=False, timeout=library.Timeout(_SECONDS)
            ) as response:
                yield response
        except (HTTPError, library.InvalidURL) as error:
            if "CERTIFICATE_VERIFY_FAILED" in str(error):
                raise EncoderError(
                    f"the certificate of {host} is not trusted here; set SSL_CERT_FILE to your network's authority",
                    code="network",
                ) from None
            late = isinstance(error, library.TimeoutException)
            raise Transient(f"{host} {'does not answer' if late else 'cannot be reached, or broke off'}") from None

    def _refusal(self, response: Any, repository: str, revision: str, path: str | None) -> Exception:
        """Turn a status and the hub's own code into one sentence, or into something to try again."""
        status, code = response.status_code, response.headers.get("x-error-code", "")
        if status == 429 or status == 408 or status >= 500:
            return Transient(f"the hub answers with status {status}", _seconds(response.headers.get("retry-after")))
        if code == "GatedRepo":
            page = self.page(repository)
            if self._token is None:
                return EncoderError(
                    f"{repository} is given to accounts that accepted its terms only; accept them at {page}, then set "
                    "HF_TOKEN to a token of your account",
                    code="gated",
                )
            return EncoderError(
                f"the account of your token was not given {repository} yet; accept its terms at {page}, or wait until "
                "its owners answer, then run the same command again",
                code="gated",
            )
        if code == "RevisionNotFound":
            return EncoderError(f"{repository} has no commit, branch or tag {revision!r:.60}", code="revision_missing")
        if code == "EntryNotFound" and path is not None:
            return self._no_file(repository, revision, path)
        if status == 401 and self._token is not None and code != "RepoNotFound":
            return EncoderError("the hub does not accept your token; set HF_TOKEN to a new one", code="token")
        if code == "RepoNotFound" or status in (401, 403, 404):
            return EncoderError(
                f"the hub has no repository {repository}, or shows it to some accounts only; see "
                f"{self.page(repository)}, and set HF_TOKEN to a token of an account that may read it",
                code="repository_missing",
            )
        return EncoderError(f"{repository}: the hub answers with status {status}", code="network")

    @staticmethod
    def _no_file(repository: str, revision: str, path: str) -> EncoderError:
        return EncoderError(
            f"{repository} has no file {path} at commit {revision[:12]}; name another with --revision",
            code="file_missing",
        )

    def _foreign(self) -> EncoderError:
        host = urlsplit(self._endpoint).hostname
        return EncoderError(
            f"{host} does not answer as a model hub does; check HF_ENDPOINT and the proxy", code="network"
        )


def patiently(work: Callable[[], _Result], arrived: Callable[[], int] = lambda: 0) -> _Result:
    """Do work again while it fails in a way that may go away by itself.

    Parameters
    ----------
    work : callable
        Raises `Transient`.
    arrived : callable
        How many bytes came so far; while they grow, failures are not counted.

    Raises
    ------
    EncoderError
        ``network``: it failed too often, or the server asks to wait for long.

    Examples
    --------
    >>> from osler.encoders.hub import patiently
    >>> patiently(lambda: "done")
    'done'
    """
    failures, seen = 0, arrived()
    while True:
        try:
            return work()
        except Transient as error:
            now = arrived()
            failures, seen = (1, now) if now - seen >= _PROGRESS else (failures + 1, seen)
            if error.wait > _LONGEST_WAIT:
                raise EncoderError(
                    f"{error} and asks to wait for {error.wait:.0f} seconds; run the same command again then",
                    code="network",
                ) from None
            if failures >= _ATTEMPTS:
                raise EncoderError(
                    f"{error}, {failures} times in a row; run the same command again later, it goes on from there",
                    code="network",
                ) from None
            _pause(max(error.wait, _BACKOFF * 2 ** (failures - 1)))


def _pause(seconds: float) -> None:
    time.sleep(seconds)


def _origin(url: str) -> tuple[str, str, int | None]:
    parts = urlsplit(url)
    return parts.scheme, (parts.hostname or "").lower(), parts.port or {"http": 80, "https": 443}.get(parts.scheme)


def _is_private(url: str) -> bool:
    """Tell whether nobody on the way can read what is sent: https, or this machine."""
    parts = urlsplit(url)
    if parts.scheme == "https":
        return True
    try:
        loopback = ipaddress.ip_address(parts.hostname or "").is_loopback
    except ValueError:
        loopback = parts.hostname == "localhost"
    return parts.scheme == "http" and loopback


def _without_user(url: str) -> str:
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


def _size(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def _is_hash(value: Any, form: re.Pattern[str]) -> bool:
    return isinstance(value, str) and form.fullmatch(value) is not None


def _tag(value: str | None) -> str | None:
    return None if value is None else value.removeprefix("W/").strip('"')


def _seconds(value: str | None) -> float:
    return float(value) if value is not None and value.isascii() and value.isdigit() else 0.0
