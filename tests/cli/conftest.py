"""One small collection, built once by the command line itself, and a runner that keeps stdout and stderr apart."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from osler.cli import app
from PIL import Image
from pydicom.data import get_testdata_file

DICOM = ("CT_small.dcm", "MR_small.dcm", "MR_small_RLE.dcm", "JPEG2000.dcm", "emri_small.dcm", "rtplan.dcm")
Run = Callable[..., Result]


def copy_dicom(name: str, folder: Path) -> Path:
    found = get_testdata_file(name, download=False)
    assert found is not None
    return Path(shutil.copy(found, folder / name))


@pytest.fixture(scope="session")
def run() -> Run:
    """Run the command line in this process; the result has `exit_code`, `stdout` and `stderr`."""

    def call(*arguments: Any, **environment: str) -> Result:
        result = CliRunner(env=environment).invoke(app, [str(one) for one in arguments])
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
        return result

    return call


@pytest.fixture(scope="session")
def spawn() -> Callable[..., subprocess.Popen[str]]:
    """Start the command line in a process of its own; `before` is Python that runs first."""

    def start(*arguments: Any, before: str = "pass", **options: Any) -> subprocess.Popen[str]:
        program = f"{before}\nfrom osler.cli import main\nmain()"
        environment = {**os.environ, **options.pop("env", {})}
        return subprocess.Popen(
            [sys.executable, "-c", program, *map(str, arguments)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
            **options,
        )

    return start


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five DICOM files with pixels, one without, two PNG, and a text."""
    folder = tmp_path_factory.mktemp("pictures")
    for name in DICOM:
        copy_dicom(name, folder)
    grey = np.random.default_rng(0).integers(0, 255, size=(32, 48), dtype=np.uint8)
    Image.fromarray(grey).save(folder / "grey.png")
    Image.fromarray(255 - grey).save(folder / "inverse.png")
    (folder / "notes.txt").write_text("nothing to see")
    return folder


@pytest.fixture(scope="session")
def built(run: Run, pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Result]:
    """The collection of `pictures` with the default encoder, and what building it said."""
    out = tmp_path_factory.mktemp("built") / "cases.osler"
    result = run("index", "build", pictures, "--out", out)
    assert result.exit_code == 0, result.stderr
    return out, result


@pytest.fixture(scope="session")
def cases(built: tuple[Path, Result]) -> Path:
    """The collection to ask; no test changes it."""
    return built[0]


@pytest.fixture
def copy(cases: Path, tmp_path: Path) -> Path:
    """A copy of the collection, to be changed."""
    shutil.copytree(cases, tmp_path / "copy.osler")
    shutil.copy(cases.with_name("cases.secret"), tmp_path / "copy.secret")
    return tmp_path / "copy.osler"
