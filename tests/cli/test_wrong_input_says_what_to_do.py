"""Wrong input ends in one line that says what to do, the right exit code, nothing on stdout, and nothing half done."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import osler
import pytest


def failed(result: Any, code: int, *said: str) -> None:
    """Assert one line of error with these words."""
    lines = result.stderr.splitlines()
    assert result.exit_code == code, result.stderr
    assert result.stdout == ""
    assert len(lines) == 1 and lines[0].startswith("error: "), result.stderr
    for words in said:
        assert words in lines[0]
    assert not lines[0].endswith(".") and "Traceback" not in result.stderr


BUILD: dict[str, tuple[list[Any], list[str]]] = {
    "no source": ([], ["SOURCE is missing"]),
    "missing folder": (["no/such/folder"], ['no such file or folder: "no/such/folder"']),
    "no out": (["{pictures}", "--out"], ["--out", "requires an argument"]),
    "unknown encoder": (["{pictures}", "--encoder", "refrence"], ['no encoder "refrence"', 'did you mean "reference"']),
    "encoder folder": (["{pictures}", "--encoder", "{pictures}"], ["has no manifest.json", "osler encoder list"]),
    "missing metadata": (["{pictures}", "--metadata", "no.csv"], ['no such file or folder: "no.csv"']),
    "unknown tag": (["{pictures}", "--keep", "PatientNme"], ["PatientNme"]),
    "unknown device": (["{pictures}", "--device", "tpu"], ["--device", "tpu"]),
    "unknown option": (["{pictures}", "--metdata", "x"], ['no option "--metdata" (did you mean "--metadata"?)']),
    "folder of out": (["{pictures}", "--out", "no/such/a.osler"], ['the folder of "no/such/a.osler" does not exist']),
    "empty folder": (["{empty}"], ["no file in", "pictures or DICOM"]),
}


@pytest.mark.parametrize("name", BUILD)
def test_index_build(run: Any, pictures: Path, tmp_path: Path, name: str) -> None:
    arguments, said = BUILD[name]
    empty = tmp_path / "empty"
    empty.mkdir()
    filled = [str(one).format(pictures=pictures, empty=empty) for one in arguments]
    out = [] if "--out" in filled else ["--out", str(tmp_path / "a.osler")]
    failed(run("index", "build", *filled, *out), 2, *said)
    assert [path.name for path in tmp_path.iterdir()] == ["empty"]


def test_index_build_without_out_and_onto_something(run: Any, pictures: Path, cases: Path) -> None:
    failed(run("index", "build", pictures), 2, "--out is missing")
    before = sorted(path.name for path in cases.rglob("*"))
    failed(run("index", "build", pictures, "--out", cases), 2, "exists; go on with --resume")
    assert sorted(path.name for path in cases.rglob("*")) == before


def test_a_folder_of_pdfs_leaves_nothing(run: Any, tmp_path: Path) -> None:
    folder = tmp_path / "papers"
    folder.mkdir()
    for name in ("a.pdf", "b.pdf"):
        (folder / name).write_bytes(b"%PDF-1.7\n1 0 obj\n<<>>\nendobj\n")
    result = run("index", "build", folder, "--out", tmp_path / "a.osler", "--encoder", "efficientnet-lite0")
    failed(result, 1, "none of the 2 files could be read as a picture", "give PNG, JPEG, TIFF or DICOM files")
    assert [path.name for path in tmp_path.iterdir()] == ["papers"]


def test_what_lies_in_the_place_of_a_secret_stops_dicom_alone(run: Any, pictures: Path, tmp_path: Path) -> None:
    """Pictures need none; DICOM files do, and what was added before them stays."""
    folder, target = tmp_path / "files", tmp_path / "a.osler"
    folder.mkdir()
    shutil.copy(pictures / "grey.png", folder)
    (tmp_path / "a.secret").mkdir()
    result = run("index", "build", folder, "--out", target, "--encoder", "efficientnet-lite0")
    assert result.exit_code == 0, result.stderr
    shutil.copy(pictures / "CT_small.dcm", folder)
    failed(run("index", "add", target, folder), 1, "a.secret cannot be made (is a directory); mend that and call again")
    (tmp_path / "a.secret").rmdir()
    result = run("index", "add", target, folder)
    assert result.exit_code == 0, result.stderr
    assert (tmp_path / "a.secret").stat().st_size == 48
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.osler", "a.secret", "files"]
    with osler.Collection.open(target) as cases:
        assert len(cases) == 2


QUERY: dict[str, tuple[list[Any], list[str]]] = {
    "nothing asked": ([], ["give exactly one of --image, --text, --vector and --like; there is none"]),
    "two things": (["--text", "x", "--like", "y"], ["there is --text and --like"]),
    "k = 0": (["--text", "x", "-k", 0], ["-k is 0; ask for at least 1 hit"]),
    "k = x": (["--text", "x", "-k", "x"], ["-k", "not a valid integer"]),
    "blank text": (["--text", " "], ["--text is empty"]),
    "missing image": (["--image", "no.dcm"], ['no such file or folder: "no.dcm"']),
    "missing vector": (["--vector", "no.npy"], ['no such file or folder: "no.npy"']),
    "unknown key": (["--like", "nobody"], ['has the key "nobody"']),
    "unknown column": (["--text", "x", "--where", "modalty = 'MR'"], ["column 'modalty'", "did you mean 'modality'"]),
    "broken where": (["--text", "x", "--where", "modality ="], ["--where"]),
    "unknown group": (["--text", "x", "--group-by", "patient"], ['no column "patient"', 'did you mean "patient_id"']),
    "unknown exclude of a text": (["--text", "x", "--exclude", "foo"], ['--exclude: no column "foo"']),
    "folder": (["--image", "{pictures}"], ["is a folder; give one picture or DICOM file"]),
    "table": (["--image", "{table}"], ["is a table; give one picture or DICOM file"]),
    "exclude of a text": (["--text", "x", "--exclude", "sex"], ["--text has none, ask with --image or --like"]),
    "unknown exclude": (
        ["--like", "grey.png", "--exclude", "stdy_id"],
        ['no column "stdy_id"', 'did you mean "study_id"'],
    ),
    "html name": (["--text", "x", "--html", "hits.pdf"], ['"hits.pdf" ends in none of .html, .htm']),
    "html folder": (["--text", "x", "--html", "no/such/hits.html"], ["does not exist; make it first"]),
    "two formats": (["--text", "x", "--json", "--format", "csv"], ["--json and --format csv exclude each other"]),
    "unknown option": (["--txt", "x"], ['no option "--txt" (did you mean "--text"?)']),
}


@pytest.mark.parametrize("name", QUERY)
def test_query(
    run: Any, cases: Path, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    arguments, said = QUERY[name]
    table = tmp_path / "list.csv"
    table.write_text("path\na.png\n")
    arguments = [str(one).format(pictures=pictures, table=table) for one in arguments]
    from osler.encoders import Encoder

    def refuse(*_: Any, **__: Any) -> Any:
        raise AssertionError("something was encoded before the options were checked")

    monkeypatch.setattr(Encoder, "encode_texts", refuse)
    monkeypatch.setattr(Encoder, "encode_images", refuse)
    failed(run("query", cases, *arguments), 2, *said)


@pytest.mark.parametrize(
    ("array", "code", "said"),
    [
        (np.full(640, np.nan), 2, ["holds NaN or infinity; give finite numbers"]),
        (np.zeros(640), 2, ["zeros only", "give another vector"]),
        (np.ones(12), 2, ["holds 12 numbers", "have 640", "the encoder that it was made with"]),
        (np.ones((3, 2, 2)), 2, ["shape (3, 2, 2)"]),
        (np.array(["a", "b"]), 2, ["does not hold one array of numbers"]),
        (np.array([{}], dtype=object), 2, ["no .npy file of numbers"]),
    ],
)
def test_vectors(run: Any, cases: Path, tmp_path: Path, array: Any, code: int, said: list[str]) -> None:
    np.save(tmp_path / "q.npy", array, allow_pickle=True)
    failed(run("query", cases, "--vector", tmp_path / "q.npy"), code, *said)


def test_a_vector_file_of_something_else(run: Any, cases: Path, pictures: Path) -> None:
    failed(run("query", cases, "--vector", pictures / "notes.txt"), 2, "is no .npy file of numbers")


def test_a_picture_without_pixels(run: Any, cases: Path, pictures: Path) -> None:
    failed(run("query", cases, "--image", pictures / "rtplan.dcm"), 1, "without pixels")


def test_what_is_no_collection(run: Any, pictures: Path, cases: Path) -> None:
    failed(run("query", pictures, "--text", "x"), 2, "is not a collection", "osler index build")
    failed(run("query", pictures / "notes.txt", "--text", "x"), 2, "is a file, not a collection")
    failed(run("query", cases.with_name("case.osler"), "--text", "x"), 2, 'did you mean "cases.osler"')
    failed(run("index", "info", "no.osler"), 2, 'no such file or folder: "no.osler"')


def test_names_of_pictures_are_never_offered(run: Any, cases: Path, pictures: Path) -> None:
    result = run("query", cases, "--image", pictures / "CT_smal.dcm")
    failed(result, 2, "no such file or folder")
    assert "did you mean" not in result.stderr


COMMANDS: dict[str, tuple[list[Any], list[str]]] = {
    "command": (["querry"], ['no command "querry" (did you mean "query"?)']),
    "subcommand": (["index", "buidl"], ['no command "buidl" (did you mean "build"?)']),
    "unlike any": (["zzz"], ['no command "zzz"; there are index, query, classify, filter, encoder']),
    "no collection": (["query"], ["COLLECTION"]),
    "delete nothing": (["index", "delete", "{cases}"], ["give either --key, once or more, or --where"]),
    "labels and prompts": (["classify", "{cases}"], ["give either --prompts, or --label"]),
    "one label": (["classify", "{cases}", "--label", "a=b"], ["give a second --label"]),
    "label form": (["classify", "{cases}", "--label", "a"], ["is not of the form LABEL=TEXT"]),
    "pairs of labels": (["classify", "{cases}", "--label", "a=b", "--mode", "pairs"], ["give them with --prompts"]),
    "prompt set": (["classify", "{cases}", "--prompts", "modalty"], ['did you mean "modality"']),
    "prompt file": (["classify", "{cases}", "--prompts", "no.json"], ['no such file: "no.json"']),
    "scale": (["classify", "{cases}", "--prompts", "modality", "--scale", 0], ["--scale is 0"]),
    "classify where": (["classify", "{cases}", "--prompts", "modality", "--where", "sx = 'F'"], ["did you mean 'sex'"]),
    "no rule": (["filter", "score", "{cases}"], ["give either --threshold or --fraction"]),
    "both rules": (["filter", "score", "{cases}", "--threshold", 0, "--fraction", 0], ["either --threshold or"]),
    "threshold": (["filter", "score", "{cases}", "--threshold", 28], ["a cosine lies in [-1, 1]"]),
    "fraction": (["filter", "score", "{cases}", "--fraction", 30], ["a share in [0, 1]"]),
    "decisions": (["filter", "score", "{cases}", "--fraction", 0.3, "--out", "kept.csv"], [".json, .parquet"]),
    "duplicates": (["filter", "duplicates", "{cases}", "--threshold", 2], ["not above 1"]),
    "apply": (["filter", "apply", "{cases}", "no.json"], ['no such file or folder: "no.json"']),
    "export name": (["index", "export", "{cases}", "-o", "a.txt"], ["ends in none of .usearch, .faiss, .hnswlib"]),
    "import": (["index", "import", "no.usearch", "-o", "a.osler"], ['no such file or folder: "no.usearch"']),
    "encoder": (["encoder", "info", "minlm"], ['no encoder "minlm"', 'did you mean "minilm"']),
    "part of an encoder": (["encoder", "info", "lite0"], ['no encoder "lite0"', 'did you mean "efficientnet-lite0"']),
    "nothing like it": (["encoder", "info", "zzzzzz"], ['no encoder "zzzzzz"; "osler encoder list" names them all']),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_other_commands(run: Any, cases: Path, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments, said = COMMANDS[name]
    monkeypatch.chdir(tmp_path)
    failed(run(*[str(one).format(cases=cases) for one in arguments]), 2, *said)
    assert not list(tmp_path.iterdir())


def test_a_filter_without_texts_says_how_to_give_one(run: Any, cases: Path) -> None:
    failed(run("filter", "score", cases, "--threshold", 0), 2, "pass --text")


def test_files_that_do_not_fit(run: Any, cases: Path, pictures: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.json").write_text('{"name": "x"}')
    failed(run("classify", cases, "--prompts", tmp_path / "mine.json"), 2, "mine.json is no prompt set: labels")
    failed(run("filter", "apply", cases, tmp_path / "mine.json"), 2, "holds no decisions")
    shutil.copy(pictures / "notes.txt", tmp_path / "a.usearch")
    failed(run("index", "import", tmp_path / "a.usearch", "-o", tmp_path / "a.osler"), 1, "is not a usearch index")
    for ending in ("faiss", "hnswlib"):
        shutil.copy(pictures / "notes.txt", tmp_path / f"a.{ending}")
        said = f"is not a{'n' * (ending == 'hnswlib')} {ending} index; give a file that"
        failed(run("index", "import", tmp_path / f"a.{ending}", "-o", tmp_path / "a.osler"), 1, said)
    assert run("index", "export", cases, "-o", tmp_path / "b.faiss").exit_code == 0
    whole = (tmp_path / "b.faiss").read_bytes()
    (tmp_path / "c.faiss").write_bytes(whole[:-4])
    cut = run("index", "import", tmp_path / "c.faiss", "-o", tmp_path / "a.osler")
    failed(cut, 1, "c.faiss is damaged in its vectors", "get a whole copy")
    assert not (tmp_path / "a.osler").exists()


def test_a_collection_of_another_encoder(run: Any, cases: Path, pictures: Path) -> None:
    result = run("index", "build", pictures, "-o", cases, "--resume", "--encoder", "efficientnet-lite0")
    failed(result, 1, "reference", "efficientnet-lite0")


def test_a_collection_of_ones_own_vectors(run: Any, tmp_path: Path) -> None:
    osler.Collection.create(tmp_path / "own.osler", dim=3).close()
    failed(run("query", tmp_path / "own.osler", "--text", "x"), 2, "has vectors only; ask with --vector or --like")


def test_an_encoder_that_takes_no_text(run: Any, tmp_path: Path, pictures: Path) -> None:
    osler.Collection.create(tmp_path / "a.osler", encoder="efficientnet-lite0").close()
    failed(run("query", tmp_path / "a.osler", "--text", "x"), 2, "--text needs an encoder of texts")
    failed(run("classify", tmp_path / "a.osler", "--prompts", "modality"), 2, "--prompts needs an encoder of texts")
    failed(
        run("classify", tmp_path / "a.osler", "--label", "a=b", "--label", "c=d"),
        2,
        "--label needs an encoder of texts, and efficientnet-lite0 is none; use a collection whose encoder takes",
    )
    filtered = run("filter", "score", tmp_path / "a.osler", "--threshold", 0.1, "--text", "x")
    failed(filtered, 2, "--text needs an encoder of texts", "; use a collection")


def test_an_encoder_that_takes_no_pictures(run: Any, tmp_path: Path, pictures: Path) -> None:
    said = ("minilm takes no pictures", "choose an encoder of images, such as efficientnet-lite0 or reference")
    for more in ([], ["--dry-run"]):
        result = run("index", "build", pictures, "-o", tmp_path / "a.osler", "--encoder", "minilm", *more)
        failed(result, 2, *said)
        assert not list(tmp_path.iterdir())
    osler.Collection.create(tmp_path / "a.osler", encoder="minilm").close()
    failed(run("index", "build", pictures, "-o", tmp_path / "a.osler", "--resume"), 2, *said)
    failed(run("index", "add", tmp_path / "a.osler", pictures), 2, *said)
    osler.Collection.create(tmp_path / "own.osler", dim=3).close()
    failed(run("index", "add", tmp_path / "own.osler", pictures), 2, "has vectors only", "osler index build")


@pytest.mark.parametrize("command", ["info", "verify"])
def test_a_file_that_is_no_index(run: Any, cases: Path, pictures: Path, tmp_path: Path, command: str) -> None:
    foreign = tmp_path / "a.usearch"
    assert run("index", "export", cases, "-o", foreign).exit_code == 0
    said = "is no collection and no index of Osler; give what `osler index build` made"
    failed(run("index", command, foreign), 2, said, f"osler index import {foreign} -o cases.osler")
    (tmp_path / "empty").touch()
    for path in (pictures / "grey.png", pictures / "CT_small.dcm", tmp_path / "empty"):
        failed(run("index", command, path), 2, said, "with: osler index import")
    ours = tmp_path / "a.index"
    osler.Index.build(np.eye(4, dtype=np.float32)).save(ours)
    assert run("index", command, ours).exit_code == 0
    whole = ours.read_bytes()
    ours.write_bytes(whole[:4] + b"\n" + whole[6:])
    result = run("index", command, ours)
    assert result.exit_code == 1 and "damaged" in result.stderr


def test_a_damaged_collection(run: Any, copy: Path) -> None:
    (segment, *_) = copy.glob("segments/*.segment")
    data = bytearray(segment.read_bytes())
    with osler.Collection.open(copy) as cases:
        own = cases.part_vectors(["grey.png"]).vectors[0].tobytes()
    data[data.index(own)] ^= 1
    segment.write_bytes(data)
    failed(run("query", copy, "--like", "grey.png"), 1, segment.name, "damaged")
    result = run("index", "verify", copy)
    assert result.exit_code == 1 and segment.name in result.stdout
    assert result.stderr.startswith("error: ") and "1 of" in result.stderr


def test_another_writer(run: Any, copy: Path, pictures: Path) -> None:
    with osler.Collection.open(copy, "a"):
        failed(run("index", "add", copy, pictures), 1, "copy.osler")


def test_without_onnx_runtime(spawn: Callable[..., Any], pictures: Path, tmp_path: Path) -> None:
    """Both ways in which it is missing: its distribution is not found, and its module cannot be imported."""
    hide = """
import importlib.metadata as m, sys
sys.modules["onnxruntime"] = None
found = m.distribution
def distribution(name):
    if name.startswith("onnxruntime"):
        raise m.PackageNotFoundError(name)
    return found(name)
m.distribution = distribution
m.version = lambda name: distribution(name).version
m.distributions = lambda **_: [found(name) for name in ("numpy", "pydicom")]
"""
    process = spawn("index", "build", pictures, "-o", tmp_path / "a.osler", before=hide)
    stdout, stderr = process.communicate(timeout=120)
    assert process.returncode == 1 and stdout == "", stderr
    assert stderr.splitlines()[-1].startswith("error: ") and "pip install" in stderr and "osler[cpu]" in stderr
    assert "Traceback" not in stderr and not list(tmp_path.iterdir())


@pytest.mark.parametrize(("module", "package"), [("usearch", "usearch"), ("PIL", "pillow")])
def test_without_a_base_package(
    spawn: Callable[..., Any], cases: Path, pictures: Path, tmp_path: Path, module: str, package: str
) -> None:
    hide = f"""
import sys
class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == {module!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Hidden())
"""
    command = ("index", "export", cases, "-o", tmp_path / "a.usearch")
    if module == "PIL":
        command = ("query", cases, "--image", pictures / "grey.png")
    process = spawn(*command, before=hide)
    stdout, stderr = process.communicate(timeout=120)
    assert process.returncode == 1 and stdout == ""
    assert stderr == f"error: the package {module} is missing; pip install {package}\n"


def test_a_full_disk_leaves_nothing(spawn: Callable[..., Any], pictures: Path, tmp_path: Path) -> None:
    limit = "import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
    limit += "resource.setrlimit(resource.RLIMIT_FSIZE, (16_000, 16_000))"
    process = spawn("index", "build", pictures, "-o", tmp_path / "a.osler", before=limit)
    stdout, stderr = process.communicate(timeout=120)
    assert process.returncode == 1 and stdout == "", stderr
    last = stderr.splitlines()[-1]
    assert last.startswith("error: ") and "disk is full" in last and "free some space" in last
    assert "Traceback" not in stderr and not list(tmp_path.iterdir())


def test_a_full_disk_keeps_what_was_there(
    spawn: Callable[..., Any], copy: Path, pictures: Path, tmp_path: Path
) -> None:
    more = tmp_path / "more"
    more.mkdir()
    shutil.copy(pictures / "grey.png", more / "again.png")
    limit = "import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
    limit += "resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))"
    process = spawn("index", "add", copy, more, before=limit)
    stdout, stderr = process.communicate(timeout=120)
    assert process.returncode == 1 and stdout == "" and "disk is full" in stderr
    with osler.Collection.open(copy) as cases:
        assert len(cases) == 7 and "again.png" not in cases
        cases.verify()


def test_a_traceback_only_on_request(run: Any, copy: Path) -> None:
    (segment, *_) = copy.glob("segments/*.segment")
    segment.write_bytes(b"")
    plain = run("index", "info", copy)
    assert plain.exit_code == 1 and "Traceback" not in plain.stderr
    asked = run("index", "info", copy, OSLER_DEBUG="1")
    assert asked.exit_code == 1 and "Traceback" in asked.stderr and asked.stderr.splitlines()[-1].startswith("error: ")


def test_a_fault_of_ours_is_one_line_too(run: Any, cases: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fault(*_: Any, **__: Any) -> Any:
        raise AssertionError("patient Doe")

    monkeypatch.setattr(osler.Collection, "info", fault)
    failed(run("index", "info", cases), 1, "a fault in osler (AssertionError)", "OSLER_DEBUG=1")
    assert os.environ.get("OSLER_DEBUG") is None
