"""The wheel, installed into an empty environment, is whole: vectors without extras, the demo with them.

Builds into a temporary folder with the checkout's target directory, so that only what changed is compiled; pip fetches
the dependencies as it would for a user.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import venv
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
pytestmark = [pytest.mark.slow, pytest.mark.sockets, pytest.mark.timeout(900)]


def run(*command: object, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    clean = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "VIRTUAL_ENV")}
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env={**clean, "PIP_DISABLE_PIP_VERSION_CHECK": "1", **environment},
        capture_output=True,
        text=True,
        timeout=850,
    )
    assert done.returncode == 0, (
        f"{command[0]} ended with {done.returncode}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
    )
    return done


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("wheel")
    maturin = shutil.which("maturin", path=str(Path(sys.executable).parent)) or "maturin"
    run(maturin, "build", "--release", "--quiet", "--interpreter", sys.executable, "--out", out, cwd=ROOT)
    (built,) = out.glob("osler-*.whl")
    return built


@pytest.fixture(scope="module")
def environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """An environment with the wheel and its hard dependencies only; gives the folder of its programs."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=True, symlinks=True)
    bin_folder = folder / "bin"
    run(bin_folder / "python", "-m", "pip", "install", "--quiet", "--no-compile", wheel, cwd=folder)
    yield bin_folder
    shutil.rmtree(folder)


def test_contents(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        tag = next(name for name in names if name.endswith(".dist-info/WHEEL"))
        assert "cp311-abi3" in archive.read(tag).decode()
    for name in ("osler/py.typed", "osler/_native.pyi", "osler/__init__.py", "osler/collection/__init__.py"):
        assert name in names
    assert any(name.startswith("osler/_native") and name.endswith(".so") for name in names)
    shipped = {path.parent.name for path in (ROOT / "models").glob("*/manifest.json")}
    assert {f"osler/_models/{name}/manifest.json" for name in shipped} <= names
    prompts = {path.name for path in (ROOT / "models" / "prompts").glob("*.json")}
    assert {f"osler/_models/prompts/{name}" for name in prompts} <= names
    assert any(name.endswith("licenses/LICENSE") for name in names)
    unwanted = [
        name
        for name in names
        if name.endswith((".pyc", ".rs", ".dcm")) or name.split("/")[0] in ("tests", "bench", "models", "rust")
    ]
    assert not unwanted
    assert len(names) == len({name.lower() for name in names})


def test_vectors_need_no_extra(environment: Path, tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(
        "import importlib.util, numpy as np, osler\n"
        "assert importlib.util.find_spec('onnxruntime') is None, 'the environment is not empty'\n"
        "index = osler.Index.build(np.eye(4, dtype=np.float32))\n"
        "assert index.search(np.eye(4, dtype=np.float32)[2], 1).keys.tolist() == [2]\n"
        "cases = osler.Collection.create('cases.osler', dim=4)\n"
        "cases.add_vectors(['a', 'b'], np.eye(4)[:2], metadata=[{'age': 61}, {'age': 40}])\n"
        "print([hit.key for hit in cases.search(vector=[1, 0, 0, 0], k=2, where='age > 50')])\n"
        "cases.close()\n"
        "try:\n"
        "    osler.load_encoder('minilm')\n"
        "except osler.EncoderError as error:\n"
        "    print(error)\n"
    )
    done = run(environment / "python", program, cwd=tmp_path, OSLER_HOME=str(tmp_path / "home"))
    lines = done.stdout.splitlines()
    assert lines[0] == "['a']"
    assert "pip install" in lines[1]
    assert "osler[" in lines[1]


def test_the_command_without_extras_says_what_to_install(environment: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [environment / "osler", "index", "build", "tests", "--out", str(tmp_path / "cases.osler")],
        cwd=ROOT,
        env={"OSLER_HOME": str(tmp_path / "home"), "PATH": ""},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 1
    assert "pip install" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "cases.osler").exists()


def test_the_demo_runs_from_the_wheel(environment: Path, wheel: Path, tmp_path: Path) -> None:
    run(
        environment / "python",
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-compile",
        f"{wheel}[all]",
        "pydicom-data",
        cwd=tmp_path,
    )
    demo = ROOT / "tests" / "demo" / "demo.sh"
    done = run("sh", demo, environment, tmp_path / "demo", cwd=tmp_path, OSLER_HOME=str(tmp_path / "home"))
    assert done.stdout.count("$ osler query") == 3
    assert done.stdout.count("rank") == 3
    page = (tmp_path / "demo" / "hits.html").read_text()
    assert page.count("data:image/") >= 3
    assert "http://" not in page.replace("http://www.w3.org/", "")
    assert run(environment / "osler", "--version", cwd=tmp_path).stdout.startswith("osler")
