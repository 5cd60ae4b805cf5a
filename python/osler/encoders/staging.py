"""A folder that is made whole or not at all: beside its place first, and moved there at the end.

Writes below the parent of the folder that it is given.
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Collection, Iterator
from pathlib import Path

__all__ = ["check_free", "staged"]


def check_free(target: Path, but: Collection[str] = ()) -> None:
    """Raise if there is something where a folder is to be made, other than an empty folder or what is named in `but`.

    Raises
    ------
    FileExistsError

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> from osler.encoders.staging import check_free
    >>> check_free(Path(tempfile.mkdtemp()))
    """
    if target.exists() and (not target.is_dir() or any(path.name not in but for path in target.iterdir())):
        raise FileExistsError("the folder to make exists and is not empty; name another, or remove it first")


@contextlib.contextmanager
def staged(target: Path, keep: Collection[str] = ()) -> Iterator[Path]:
    """Give a folder beside the target that becomes it at the end, or goes where an error comes first.

    Parameters
    ----------
    target : Path
        Not there, or a folder with nothing but `keep`.
    keep : collection of str
        Folders of the target that stay.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> from osler.encoders.staging import staged
    >>> target = Path(tempfile.mkdtemp()) / "made"
    >>> with staged(target) as folder:
    ...     _ = (folder / "a.txt").write_text("a")
    >>> (target / "a.txt").read_text()
    'a'
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        yield folder
        folder.chmod(0o755)
        for name in keep:
            if (target / name).is_dir():
                (target / name).rename(folder / name)
        with contextlib.suppress(FileNotFoundError):
            target.rmdir()
        folder.rename(target)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
