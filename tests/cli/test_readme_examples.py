"""What README shows is what happens: its Python runs, its commands run, and its transcript is what the demo prints."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import osler
import pytest
from pydicom.data import get_testdata_file

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
KEY = re.compile(r"\b[0-9a-f]{32}\b")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def test_python_runs_from_top_to_bottom(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(pictures, tmp_path / "pictures")
    found = get_testdata_file("MR_small_bigendian.dcm", download=False)
    assert found is not None
    shutil.copy(found, tmp_path / "new.dcm")
    names: dict[str, object] = {}
    code = blocks("python")
    assert len(code) == 3
    for number, block in enumerate(code):
        exec(compile(block, f"README block {number}", "exec"), names)
    assert (tmp_path / "hits.html").stat().st_size > 1_000
    assert osler.curate.Decisions.load(tmp_path / "decisions.json").kept
    assert len(osler.Index.open(tmp_path / "vectors.index")) == 3_000
    assert KEY.search(capsys.readouterr().out)


def steps(transcript: str) -> list[tuple[str, list[str]]]:
    """Return each command of a transcript with the lines that follow it."""
    parts = re.split(r"^\$ ", transcript, flags=re.MULTILINE)[1:]
    return [(part.split("\n")[0], [line for line in part.split("\n")[1:] if line]) for part in parts]


def shape(line: str) -> str:
    """Return what of a line holds on every machine and with every release of the packages with the pictures.

    Pseudonyms and times differ from run to run, scores in their last digits between processors and so, among hits that
    are nearly as near, their order; how many files there are is up to the packages. A hit keeps its rank and modality.
    """
    words = KEY.sub("<key>", line).split()
    if words[0] == "rank" or words[1:2] == ["<key>"]:
        return " ".join(word if "." not in word else "<score>" for word in words[:4])
    return re.sub(r"\d[\d,]*", "<number>", " ".join(words))


@pytest.mark.slow
def test_the_transcript_is_what_the_demo_prints(tmp_path: Path) -> None:
    demo = ROOT / "tests" / "demo" / "demo.sh"
    done = subprocess.run(
        [demo, Path(sys.executable).parent, tmp_path / "demo"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    (shown,) = blocks("console")
    printed = steps(done.stdout.rsplit("\nOpen ", 1)[0])
    assert [command for command, _ in printed] == [command for command, _ in steps(shown)]
    for (_, lines), (_, expected) in zip(printed, steps(shown), strict=True):
        assert [shape(line) for line in lines] == [shape(line) for line in expected]
    assert (tmp_path / "demo" / "hits.html").stat().st_size > 10_000


@pytest.mark.parametrize("first", ["osler.load_encoder", "import onnxruntime"])
def test_the_order_of_imports_that_readme_names_works(first: str) -> None:
    assert f"`{first}`" in README
    call = f"{first}('minilm')" if first.startswith("osler") else first
    program = f"import osler; {call}; import usearch.index; osler.load_encoder('minilm').encode_texts(['a'])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


def test_the_screenshot_is_there_and_small() -> None:
    (name,) = re.findall(r"!\[[^\]]+\]\(([^)]+)\)", README)
    assert 10_000 < (ROOT / name).stat().st_size < 400_000


def test_every_command_that_readme_names_exists() -> None:
    from click import Context
    from osler.cli import app

    for command, _ in steps(blocks("console")[0]):
        words = command.split()[1:]
        found = app
        while hasattr(found, "get_command"):
            inner = found.get_command(Context(found), words.pop(0))
            assert inner is not None, command
            found = inner
        options = {option for parameter in found.params for option in parameter.opts}
        assert {word for word in words if re.match(r"--?[a-z]", word)} <= options
