"""Opens the files that a manifest names and no other: in its folder or an installed package, no link, hash checked.

Reads files and the metadata of installed packages; imports no package that it looks into.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import stat
from pathlib import Path

from osler.encoders.manifest import AnyFile, FolderFile, JoinedFile, PackageFile
from osler.errors import EncoderError

__all__ = ["locate", "parts_of", "read_checked"]


def _hint(file: PackageFile) -> str:
    usual = f'"osler[models]" (or {file.package}=={file.version})'
    return f"pip install {file.install or usual}"


def parts_of(file: AnyFile) -> tuple[FolderFile | PackageFile, ...]:
    """Return what lies on the disk: the parts of a joined file, or the file itself."""
    return file.parts if isinstance(file, JoinedFile) else (file,)


def locate(file: FolderFile | PackageFile, folder: Path) -> Path:
    """Return where the file lies, its kind and size being right; its bytes are not read.

    Parameters
    ----------
    file : FolderFile or PackageFile
    folder : Path
        Where the manifest lies.

    Returns
    -------
    Path

    Raises
    ------
    EncoderError
        The package is not installed, or the file is missing, a link, not a plain file, or of another size.
    """
    if isinstance(file, PackageFile):
        try:
            distribution = importlib.metadata.distribution(file.package)
        except importlib.metadata.PackageNotFoundError:
            raise EncoderError(
                f"the package {file.package} with the weights is not installed; {_hint(file)}", code="package_missing"
            ) from None
        root = Path(str(distribution.locate_file("")))
        where, advice = f"package {file.package} {distribution.version}", f"reinstall it: {_hint(file)}"
    else:
        root, where, advice = folder, "the encoder's folder", "restore it, or correct manifest.json"
    path = root / file.path
    if path.is_symlink() or path.resolve() != root.resolve() / file.path:
        raise EncoderError(f"{file.path} in {where} is or lies behind a symbolic link; put the file itself there")
    try:
        status = path.stat()
    except OSError:
        raise EncoderError(f"{file.path} is missing from {where}; {advice}", code="file_missing") from None
    if not stat.S_ISREG(status.st_mode):
        raise EncoderError(f"{file.path} in {where} is not a plain file; {advice}")
    if status.st_size != file.size:
        raise EncoderError(
            f"{file.path} in {where} has {status.st_size} bytes, the manifest says {file.size}; {advice}",
            code="hash_mismatch",
        )
    return path


def read_checked(file: AnyFile, folder: Path) -> bytes:
    """Return the bytes of the file; what was hashed is what is returned, so nothing can change in between.

    Parameters
    ----------
    file : FolderFile, PackageFile or JoinedFile
        Parts are checked one by one, then as a whole.
    folder : Path
        Where the manifest lies.

    Returns
    -------
    bytes

    Raises
    ------
    EncoderError
        As `locate`; the file cannot be read, or its SHA-256 is not the manifest's.
    """
    if isinstance(file, JoinedFile):
        content = b"".join(read_checked(part, folder) for part in file.parts)
    else:
        content = _read(file, folder)
    if hashlib.sha256(content).hexdigest() != file.sha256:
        raise EncoderError(
            f"{file.path} does not have the SHA-256 of the manifest; it is damaged or another version: install or "
            "export it again",
            code="hash_mismatch",
        )
    return content


def _read(file: FolderFile | PackageFile, folder: Path) -> bytes:
    path = locate(file, folder)
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        with os.fdopen(descriptor, "rb") as stream:
            return stream.read(file.size + 1)
    except OSError as error:
        reason = (error.strerror or "input/output error").lower()
        raise EncoderError(f"{file.path} cannot be read: {reason}; check its permissions") from None
