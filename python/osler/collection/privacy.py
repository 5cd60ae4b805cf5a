"""What may be stored of a file: allow-listed columns, and keyed pseudonyms in place of identifiers.

Touches the secret beside a collection and nothing else; knows no DICOM library. Rules: PS3.15 Annex E for the names,
BLAKE3 in keyed mode for the pseudonyms.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from osler import _native
from osler.errors import Error

__all__ = ["ALLOWED", "IDENTIFIERS", "Secret", "content_digest", "policy", "secret_path", "stored_columns"]

POLICY_VERSION = 1

# The columns of a DICOM file that are stored without being named.
ALLOWED = (
    "modality",
    "body_part",
    "view",
    "laterality",
    "photometric",
    "rows",
    "columns",
    "frames",
    "spacing",
    "slice_thickness",
    "manufacturer",
    "year",
    "age",
    "sex",
    "encoding",
)
# Identifiers that are stored as keyed pseudonyms only.
IDENTIFIERS = ("patient_id", "study_id", "series_id", "instance_id")

_SECRET_BYTES = 32
_OWNER_BYTES = 16
_PSEUDONYM_BYTES = 16


class Secret:
    """The key of a collection's pseudonyms; its bytes never leave this object.

    Parameters
    ----------
    key : bytes
        32 random bytes.
    owner : str
        Random id, 16 bytes in hex, of the collection that the key was made for; it lies in the file behind the key, so
        that no other collection takes the file for its own.
    """

    __slots__ = ("_key", "owner")

    def __init__(self, key: bytes, owner: str) -> None:
        if len(key) != _SECRET_BYTES or len(owner) != 2 * _OWNER_BYTES:
            raise Error("the collection's secret is damaged; restore the file that was made with it", code="secret")
        self._key = key
        self.owner = owner

    @classmethod
    def make(cls, path: Path, owner: str) -> Secret:
        """Return the secret at `path`, made with mode 0600 for a collection where there was none; it lasts from now."""
        return cls(secrets.token_bytes(_SECRET_BYTES), owner)._kept(path)

    def _kept(self, path: Path) -> Secret:
        content = self._key + bytes.fromhex(self.owner)
        with _clear_errors(path, "made"):
            return self._of(_native.keep_private(path, content))

    @classmethod
    def _of(cls, content: bytes) -> Secret:
        return cls(content[:_SECRET_BYTES], content[_SECRET_BYTES:].hex())

    @classmethod
    def shared(cls, source: Path) -> Secret:
        """Read the secret of another collection, which this one shall share."""
        try:
            return cls.read(source)
        except FileNotFoundError:
            raise Error(
                f"{source.name} is not there; it is needed so that one patient keeps one pseudonym", code="secret"
            ) from None

    @classmethod
    def adopt(cls, path: Path, source: Path, owner: str) -> Secret:
        """Make the secret at `path`, for a collection where there is none, of the key of another one."""
        made = cls(cls.shared(source)._key, owner)
        kept = made._kept(path)
        if kept._key != made._key:
            raise Error(f"another secret lies at {path.name}; move it away", code="secret")
        return kept

    @classmethod
    def read(cls, path: Path) -> Secret:
        """Read the secret at `path`; FileNotFoundError where there is none."""
        with _clear_errors(path, "read"):
            return cls._of(_native.read_private(path))

    @staticmethod
    def lies_at(path: Path) -> bool:
        """Say whether there is something at `path`, which need not be a secret."""
        try:
            _native.read_private(path)
        except FileNotFoundError:
            return False
        except OSError:
            return True
        return True

    @staticmethod
    def remove(path: Path) -> None:
        """Remove the secret of a collection that came to nothing."""
        _native.remove_private(path)

    def pseudonym(self, domain: str, value: bytes) -> str:
        """Return 128 bits in hex that stand for `value`; equal values of different domains have nothing in common."""
        digest: bytes = _native.blake3_keyed(self._key, domain.encode() + b"\0" + value)
        return digest[:_PSEUDONYM_BYTES].hex()

    def identifier(self, column: str, value: str) -> str:
        """Return the pseudonym of an identifier such as a patient's; blanks around it do not count."""
        return self.pseudonym(column, value.strip().encode("utf-8", "surrogatepass"))

    def check(self) -> str:
        """Return a value that tells two secrets apart and reveals neither."""
        return self.pseudonym("check", b"")

    def __repr__(self) -> str:
        return "<osler Secret>"

    def __reduce__(self) -> Any:
        raise TypeError("a secret is not pickled; open the collection again where it is needed")


@contextmanager
def _clear_errors(path: Path, what: str) -> Iterator[None]:
    """Turn the system's refusal into one sentence, but for that of a file that is not there."""
    try:
        yield
    except FileNotFoundError:
        raise
    except OSError as error:
        reason = os.strerror(error.errno).lower() if error.errno else "input/output error"
        raise Error(f"{path.name} cannot be {what} ({reason}); mend that and call again", code="secret") from None


def secret_path(collection: Path) -> Path:
    """Return where the secret of the collection at this path lies: beside it, never in it.

    Two names can give one path, ``q`` and ``q.osler``: the second collection that needs a secret is refused it.
    """
    return collection.with_name(collection.name.removesuffix(".osler") + ".secret")


def content_digest(content: bytes) -> str:
    """Return 128 bits of BLAKE3 in hex, by which equal files of a plain folder are recognised."""
    digest: bytes = _native.blake3(content)
    return digest[:_PSEUDONYM_BYTES].hex()


def policy(keep: Iterable[str] = ()) -> dict[str, Any]:
    """Return the policy in force, as it is written into a manifest."""
    return {"version": POLICY_VERSION, "allow": list(ALLOWED), "pseudonyms": list(IDENTIFIERS), "keep": sorted(keep)}


def stored_columns(
    metadata: Mapping[str, Any], identifiers: Mapping[str, str], secret: Secret | None
) -> dict[str, Any]:
    """Return the columns of one item as they may be stored: its metadata, and a pseudonym for each identifier."""
    columns = {name: value for name, value in metadata.items() if name not in IDENTIFIERS}
    for name, value in identifiers.items():
        if name not in IDENTIFIERS or not value.strip():
            continue
        if secret is None:
            raise Error(f"column {name!r} is kept as a pseudonym, which needs the collection's secret", code="secret")
        columns[name] = secret.identifier(name, value)
    return columns
