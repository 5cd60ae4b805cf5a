"""What `pull` leaves is an encoder: each file checked, its origin told, its graphs run, no network needed any more."""

from __future__ import annotations

import hashlib
import json
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import osler
import pytest
from hub_entry import (
    FILES,
    HUB,
    NEWER,
    REVISION,
    checkpoint_entry,
    enter,
    tiny_entry,
    tiny_hub,
    with_hashes,
)
from hub_server import Fault, HubServer, Repository, git_sha1
from onnx import TensorProto, helper, numpy_helper
from osler import EncoderError
from osler.encoders import fetch, ready
from osler.encoders.entry import Entry, entries
from osler.encoders.fetch import plan_pull, pull_encoder
from osler.encoders.registry import home_folder, what_to_do
from osler.items import Volume
from PIL import Image
from pydantic import ValidationError
from tiny_encoder import TinyEncoder, image_model

pytestmark = pytest.mark.sockets


@pytest.fixture
def hub(tiny: TinyEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    with tiny_hub(tiny, tmp_path / "home", monkeypatch) as server:
        yield server


def exported(tiny: TinyEncoder, name: str, out: Path) -> None:
    """Leave what an export of the tiny encoder under a name would."""
    tiny.manifest |= {"name": name, "entry": name}
    tiny.save()
    for path in tiny.folder.iterdir():
        shutil.copy(path, out)


def again(tiny: TinyEncoder, entry: dict[str, Any]) -> None:
    enter(entry, tiny.manifest["image"]["recipe"])


def pull(**options: Any) -> fetch.Pulled:
    return pull_encoder(plan_pull("tiny-hub", **options), accept_licence=True)


def contents(hub: HubServer, revision: str = REVISION) -> dict[str, bytes]:
    return hub.repositories[HUB].commits[revision]


def expected(picture: np.ndarray, weights: np.ndarray) -> np.ndarray:
    small = np.asarray(Image.fromarray(picture).resize((4, 4), Image.Resampling.BILINEAR))
    row = ((small.transpose(2, 0, 1) / 255 - 0.5) / 0.25).ravel() @ weights
    return row / np.linalg.norm(row)


def test_name_and_folder_load_at_once_and_every_number_is_right(hub: HubServer, tiny: TinyEncoder, rng) -> None:
    pulled = pull()
    assert (pulled.state, pulled.fetched, pulled.folder) == ("ready", 4, home_folder("tiny-hub"))
    picture = rng.integers(0, 256, (9, 7, 3), dtype=np.uint8)
    for address in ("tiny-hub", pulled.folder):
        encoder = osler.load_encoder(address)
        found = encoder.encode_images([picture])[0]
        np.testing.assert_allclose(found, expected(picture, tiny.image_weights), atol=1e-5)
        row = tiny.token_weights[[2, 4, 3]].mean(axis=0)
        np.testing.assert_allclose(encoder.encode_texts(["lung"])[0], row / np.linalg.norm(row), atol=1e-5)
        assert encoder.fingerprint == pulled.fingerprint
        assert (encoder.manifest.entry, encoder.manifest.logit_scale, encoder.manifest.licence.id) == (
            "tiny-hub",
            None,
            "MIT",
        )
    assert {info.name: info.state for info in osler.list_encoders()}["tiny-hub"] == "ready"


def test_a_repository_that_moved_is_followed(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    hub.tokens["hf_secret"] = set()
    hub.moved[HUB], hub.repositories["new/tiny"] = "new/tiny", hub.repositories.pop(HUB)
    assert pull().state == "ready"
    assert {one.headers.get("authorization") for one in hub.asked("hub")} == {"Bearer hf_secret"}
    assert home_folder("tiny-hub").parents[1].stat().st_mode & 0o777 == 0o700, "others may look into OSLER_HOME"


def test_the_folder_tells_repository_commit_and_hash_of_every_file(hub: HubServer) -> None:
    folder = pull().folder
    record = json.loads((folder / "source.json").read_text())
    assert [one["path"] for one in record["files"]] == list(FILES)
    for one in record["files"]:
        content = (folder / one["path"]).read_bytes()
        assert content == contents(hub)[one["from"]]
        assert one["sha256"] == hashlib.sha256(content).hexdigest() and one["size"] == len(content)
        assert (one["repository"], one["revision"], one["revision_from"]) == (HUB, REVISION, "registry")
    assert (record["entry"], record["endpoint"]) == ("tiny-hub", hub.endpoint)
    assert sorted(path.name for path in folder.iterdir()) == ["manifest.json", "onnx", "source.json", "tokenizer.json"]
    assert not [path for path in folder.rglob("*") if path.is_symlink() or ".part" in path.name]


def test_a_copy_works_elsewhere_without_any_socket(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rng
) -> None:
    folder = pull(out=tmp_path / "out").folder
    picture = rng.integers(0, 256, (9, 7, 3), dtype=np.uint8)
    before = osler.load_encoder(folder).encode_images([picture])
    hub.close()
    shutil.move(folder, tmp_path / "carried")

    def refuse(*arguments: Any, **options: Any) -> Any:
        raise AssertionError("a socket was asked for")

    for name in ("socket", "create_connection", "getaddrinfo"):
        monkeypatch.setattr(socket, name, refuse)
    monkeypatch.setenv("OSLER_OFFLINE", "1")
    monkeypatch.delitem(entries(), "tiny-hub")
    encoder = osler.load_encoder(tmp_path / "carried")
    np.testing.assert_array_equal(encoder.encode_images([picture]), before)
    assert encoder.encode_texts(["heart"]).shape == (1, 5)


@pytest.mark.parametrize(
    ("pinned", "asked", "found", "how"),
    [
        (REVISION, None, REVISION, "registry"),
        (None, None, NEWER, "newest"),
        (REVISION, "main", NEWER, "asked"),
        (None, "v1", REVISION, "asked"),
        (REVISION, NEWER, NEWER, "asked"),
    ],
)
def test_which_commit_comes(hub: HubServer, tiny: TinyEncoder, pinned: Any, asked: Any, found: str, how: str) -> None:
    entry = tiny_entry()
    entry["sources"][0]["revision"] = pinned
    again(tiny, entry)
    plan = plan_pull("tiny-hub", revision=asked)
    assert plan.chosen == {HUB: how} and {file.revision for file in plan.files} == {found}
    folder = pull_encoder(plan).folder
    assert (folder / "onnx/image.onnx_data").read_bytes() == contents(hub, found)["onnx/image.onnx_data"]
    record = json.loads((folder / "source.json").read_text())
    assert {(one["revision"], one["revision_from"]) for one in record["files"]} == {(found, how)}
    files = [one for one in hub.requests if "/resolve/" in one.path]
    assert files and all(f"/resolve/{found}/" in one.path for one in files), "a file was asked for by a branch's name"


def test_a_newer_commit_replaces_the_older_and_only_what_changed_is_fetched(hub: HubServer) -> None:
    first = pull()
    second = pull(revision="main")
    assert second.fetched == 1 and second.fingerprint != first.fingerprint
    assert osler.load_encoder("tiny-hub").encode_texts(["lung"]).shape == (1, 5)
    record = json.loads((second.folder / "source.json").read_text())
    assert {one["revision"] for one in record["files"]} == {NEWER}


def test_a_second_pull_fetches_nothing_and_a_damaged_file_comes_again(hub: HubServer) -> None:
    folder = pull().folder
    hub.requests.clear()
    assert (pull().fetched, len(hub.requests)) == (0, 1), "only the list of the commit is asked for"
    (folder / "onnx/text.onnx").write_bytes(b"x" * len(contents(hub)["onnx/text.onnx"]))
    assert pull().fetched == 1
    assert osler.load_encoder("tiny-hub").encode_texts(["lung"]).shape == (1, 5)


def test_hashes_of_the_registry_are_compared(hub: HubServer, tiny: TinyEncoder) -> None:
    right = with_hashes(tiny_entry(), hub.repositories[HUB])
    again(tiny, right)
    assert {file.checked for file in plan_pull("tiny-hub").files} == {"registry"}
    assert pull().state == "ready"
    # a small file, of which the hub declares no SHA-256: known to be another only once it is here
    small = right["sources"][0]["files"][3]
    small["sha256"] = hashlib.sha256(b"another").hexdigest()
    again(tiny, right)
    with pytest.raises(EncoderError, match=r"tokenizer.json does not have the SHA-256 that is expected") as caught:
        pull(out=home_folder("other"))
    assert caught.value.code == "hash_mismatch"
    assert not list(home_folder("other").rglob("tokenizer.json*")), "nothing of it was kept"
    assert not (home_folder("other") / "manifest.json").exists()


@pytest.mark.parametrize("field", ["sha256", "size"])
def test_a_hub_that_contradicts_the_registry_is_not_asked_for_the_file(
    hub: HubServer, tiny: TinyEncoder, field: str
) -> None:
    entry = with_hashes(tiny_entry(), hub.repositories[HUB])
    entry["sources"][0]["files"][0][field] = 17 if field == "size" else "0" * 64
    again(tiny, entry)
    with pytest.raises(EncoderError, match=r"declares another onnx/image.onnx at commit 111111111111") as caught:
        plan_pull("tiny-hub")
    assert caught.value.code == "hash_mismatch" and len(hub.requests) == 1
    assert plan_pull("tiny-hub", revision="main").files[0].checked == "hub", "hashes are of the registry's commit"


def test_small_files_are_compared_with_their_name_in_git(hub: HubServer) -> None:
    plan = plan_pull("tiny-hub")
    declared = {file.place: (file.remote.sha256, file.remote.git_sha1) for file in plan.files}
    assert declared["tokenizer.json"] == (None, git_sha1(contents(hub)["tokenizer.json"]))
    assert declared["onnx/text.onnx"][0] == hashlib.sha256(contents(hub)["onnx/text.onnx"]).hexdigest()
    wrong = contents(hub)["tokenizer.json"].replace(b"lung", b"lunk")
    hub.plant("hub", "tokenizer.json", Fault(body=wrong))
    with pytest.raises(EncoderError, match=r"tokenizer.json does not have the git hash that is expected"):
        pull_encoder(plan)


def test_a_mirror_that_lists_names_only_is_asked_for_headers(hub: HubServer) -> None:
    hub.blobs = False
    assert pull().state == "ready"
    assert [one.method for one in hub.asked("hub", "image.onnx")] == ["HEAD", "GET"]
    assert {one.method for one in hub.asked("storage")} == {"GET"}


def test_nothing_is_taken_that_no_hash_speaks_for(hub: HubServer) -> None:
    hub.says["siblings"] = [{"rfilename": path, "size": 5, "blobId": "not a hash"} for path in FILES]
    hub.plant("hub", FILES[0], Fault(status=200, headers={"X-Linked-Size": "5"}))
    with pytest.raises(EncoderError, match=r"neither the hub nor the registry has a hash of onnx/image.onnx"):
        plan_pull("tiny-hub")


def test_names_of_the_server_are_never_paths(hub: HubServer, tmp_path: Path) -> None:
    good = [
        {"rfilename": path, "size": len(contents(hub)[path]), "blobId": git_sha1(contents(hub)[path])} for path in FILES
    ]
    hub.repositories[HUB].large = ()
    hub.says["siblings"] = [*good, {"rfilename": "../../escaped"}, {"rfilename": "/etc/escaped"}, {"rfilename": 7}, "x"]
    pull(out=tmp_path / "a" / "b" / "out")
    assert not list(tmp_path.rglob("escaped"))
    assert {one.path.rpartition("/")[2] for one in hub.requests if "/resolve/" in one.path} == {
        Path(path).name for path in FILES
    }


@pytest.mark.parametrize(
    ("says", "message"),
    [
        ({"sha": None}, "does not answer as a model hub does"),
        ({"sha": "main"}, "does not answer as a model hub does"),
        ({"sha": "3" * 40}, "answers for another commit than 1111"),
        ({"siblings": {}}, "does not answer as a model hub does"),
        ({"siblings": []}, "has no file onnx/image.onnx at commit 111111111111"),
        ({"siblings": [{"rfilename": "onnx/image.onnx", "size": -1, "blobId": "a" * 40}]}, "has no file onnx/image"),
    ],
)
def test_answers_that_are_not_a_hubs(hub: HubServer, says: dict[str, Any], message: str) -> None:
    hub.says |= says
    with pytest.raises(EncoderError, match=message):
        plan_pull("tiny-hub")
    assert not home_folder("tiny-hub").exists()


@pytest.mark.parametrize("body", [b"<html>", b"[" * 100_000, b"[]", b"\xff\xfe"])
def test_answers_that_are_no_json_object(hub: HubServer, body: bytes) -> None:
    hub.plant("hub", "api", Fault(body=body))
    with pytest.raises(EncoderError, match="does not answer as a model hub does"):
        plan_pull("tiny-hub")


def changed(tiny: TinyEncoder, part: str, **fields: Any) -> dict[str, Any]:
    entry = tiny_entry()
    entry["sources"][0][part].update(fields)
    return entry


@pytest.mark.parametrize(
    ("part", "fields", "message"),
    [
        ("image", {"external": []}, r"takes tensors from 1 file\(s\) that the manifest does not list"),
        ("image", {"input": "photo"}, "the model takes .'pixels'."),
        ("text", {"pooling": "none"}, "does not fit the pooling"),
        ("image", {"file": "tokenizer.json"}, "not an ONNX file, or is damaged"),
    ],
)
def test_graphs_that_do_not_fit_are_no_encoder(
    hub: HubServer, tiny: TinyEncoder, part: str, fields: dict[str, Any], message: str
) -> None:
    again(tiny, changed(tiny, part, **fields))
    with pytest.raises(EncoderError, match=message):
        pull()
    assert not (home_folder("tiny-hub") / "manifest.json").exists()


def test_an_encoder_of_volumes_is_proved_on_a_volume(hub: HubServer, rng) -> None:
    def side(*shape: int | str) -> Any:
        return helper.make_tensor_value_info("scan" if len(shape) == 5 else "vector", TensorProto.FLOAT, list(shape))

    nodes = [
        helper.make_node("Flatten", ["scan"], ["flat"], axis=1),
        helper.make_node("MatMul", ["flat", "weights"], ["vector"]),
    ]
    weights = numpy_helper.from_array(rng.standard_normal((512, 5)).astype(np.float32), "weights")
    graph = helper.make_graph(nodes, "tiny", [side("batch", 1, 8, 8, 8)], [side("batch", 5)], [weights])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    contents(hub)["scan.onnx"] = model.SerializeToString()
    source = {
        "kind": "onnx",
        "hub": HUB,
        "revision": REVISION,
        "files": [{"path": "scan.onnx"}],
        "image": {"file": "scan.onnx", "input": "scan", "output": "vector"},
    }
    steps = [
        {"op": "orient"},
        {"op": "intensity", "low": -1000, "high": 1000},
        {"op": "resize_volume", "shape": [8, 8, 8], "rule": "area"},
    ]
    enter(tiny_entry(sources=[source], text=None), steps)
    assert pull().state == "ready"
    scan = Volume(rng.integers(-1000, 1000, (16, 12, 10)).astype(np.int16), np.diag([-1.0, -1.0, 2.0, 1.0]), units="HU")
    assert osler.load_encoder("tiny-hub").encode_images([scan]).shape == (1, 5)


def test_another_length_of_vectors_is_found_and_what_was_there_stays(hub: HubServer, tiny: TinyEncoder) -> None:
    folder = pull().folder
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    bad = image_model(tiny.image_weights).SerializeToString()
    contents(hub, NEWER)["onnx/text.onnx"] = bad
    with pytest.raises(EncoderError, match=r"the model takes .'pixels'., the manifest names .'ids'."):
        pull(revision="main")
    again(tiny, tiny_entry(dim=6))
    with pytest.raises(EncoderError, match="gives 5 numbers, its manifest says 6"):
        pull()
    again(tiny, tiny_entry())
    assert {path: path.read_bytes() for path in before} == before
    assert osler.load_encoder("tiny-hub").encode_texts(["lung"]).shape == (1, 5)
    assert pull().fetched == 0


def test_a_recipe_that_was_corrected_is_taken_over_without_a_download(hub: HubServer, tiny: TinyEncoder) -> None:
    first = pull()
    steps = json.loads(json.dumps(tiny.manifest["image"]["recipe"]))
    steps[-1]["std"] = [0.5]
    enter(tiny_entry(), steps)
    second = pull()
    assert (second.fetched, second.state) == (0, "ready") and second.fingerprint != first.fingerprint
    assert osler.load_encoder("tiny-hub").manifest.image.recipe[-1].std == (0.5,)


def test_without_the_runtime_it_is_fetched_looked_through_and_said(
    hub: HubServer, tiny: TinyEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ready, "missing_runtime", lambda manifest: "onnxruntime")
    monkeypatch.setattr(fetch, "missing_runtime", lambda manifest: "onnxruntime")
    again(tiny, changed(tiny, "image", external=[]))
    with pytest.raises(EncoderError, match=r"takes tensors from 1 file\(s\) that the manifest does not list"):
        pull()
    again(tiny, tiny_entry())
    assert pull().state == "not run"


def test_a_folder_of_something_else_is_left_alone(hub: HubServer, tmp_path: Path, tiny: TinyEncoder) -> None:
    place = tmp_path / "mine"
    place.mkdir()
    (place / "tokenizer.json").write_text("mine")
    for entry in (tiny_entry(), checkpoint_entry()):
        again(tiny, entry)
        with pytest.raises(EncoderError, match="holds files that no pull of it put there") as caught:
            plan_pull("tiny-hub", place)
        assert caught.value.code == "folder"
    assert [path.name for path in place.iterdir()] == ["tokenizer.json"] and not hub.requests
    (tmp_path / "file").write_text("mine")
    with pytest.raises(EncoderError, match="is a file or a link"):
        plan_pull("tiny-hub", tmp_path / "file")


@pytest.mark.parametrize(
    ("changes", "hub_licence", "why"),
    [
        ({}, "mit", None),
        ({}, None, None),
        ({"licence": {"id": "Apache-2.0 AND MIT"}}, None, None),
        ({"licence": {"id": "CC-BY-NC-4.0"}}, None, "has the licence CC-BY-NC-4.0"),
        ({"licence": {"id": "MIT AND LicenseRef-x"}}, None, "has the licence MIT AND LicenseRef-x"),
        ({"gate": "ask its owners"}, None, r"is gated \(ask its owners\)"),
        ({"uncertain": {"licence.id": "from memory"}}, None, "was not checked"),
        ({"uncertain": {"gate": "from memory"}}, None, "was not checked"),
        ({}, "cc-by-nc-4.0", "states the licence 'cc-by-nc-4.0', not MIT"),
    ],
)
def test_terms_must_be_accepted(
    hub: HubServer, tiny: TinyEncoder, changes: dict[str, Any], hub_licence: str | None, why: str | None
) -> None:
    hub.repositories[HUB].licence = hub_licence
    again(tiny, tiny_entry(**changes))
    plan = plan_pull("tiny-hub")
    assert (plan.must_accept is None) == (why is None)
    if why is not None:
        with pytest.raises(EncoderError, match=why) as caught:
            pull_encoder(plan)
        assert caught.value.code == "licence"
        assert not home_folder("tiny-hub").exists() and len(hub.requests) == 1
    folder = pull_encoder(plan, accept_licence=why is not None).folder
    assert json.loads((folder / "source.json").read_text())["accepted"] == (why is not None)


def test_a_repository_that_its_hub_gates_is_told_even_where_the_registry_knows_of_none(hub: HubServer) -> None:
    hub.repositories[HUB].gated = "auto"
    plan = plan_pull("tiny-hub")
    assert plan.gate == f"accept the terms at {hub.endpoint}/{HUB}" and plan.must_accept is not None


def test_a_checkpoint_lies_apart_and_the_next_command_is_told(
    hub: HubServer, tiny: TinyEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    again(tiny, checkpoint_entry("tokenizer.json"))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    pulled = pull()
    place = home_folder("tiny-hub") / "checkpoint"
    assert pulled.state == "checkpoint" and pulled.next == f"osler encoder export tiny-hub --checkpoint {place}"
    assert (place / "weights.bin").read_bytes() == contents(hub)["weights.bin"]
    assert sorted(path.name for path in place.iterdir()) == ["source.json", "tokenizer.json", "weights.bin"]
    assert json.loads((place / "source.json").read_text())["files"][0]["sha256"] == pulled.sha256["weights.bin"]
    apart = pull(out=tmp_path / "a folder")
    assert apart.next is not None and apart.next.endswith(f"/checkpoint' --out '{tmp_path}/a folder'")


def test_a_checkpoint_is_exported_where_that_is_installed(
    hub: HubServer, tiny: TinyEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import osler.encoders.export

    again(tiny, checkpoint_entry("tokenizer.json"))
    calls = []

    def export(name: str, checkpoint: Path, out: Path) -> None:
        assert [path.name for path in out.iterdir()] == ["checkpoint"], "export takes an empty folder but for this"
        calls.append((name, (checkpoint / "weights.bin").read_bytes()))
        exported(tiny, name, out)

    monkeypatch.setattr(osler.encoders.export, "export_encoder", export)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    pulled = pull()
    assert (pulled.state, pulled.fetched, calls) == ("ready", 2, [("tiny-hub", contents(hub)["weights.bin"])])
    assert osler.load_encoder("tiny-hub").fingerprint == pulled.fingerprint
    assert (pull().fetched, len(calls)) == (0, 1)
    with pytest.raises(EncoderError, match="holds an export of another commit") as caught:
        pull(revision="main")
    assert caught.value.code == "folder"


def test_a_tokenizer_of_another_repository_comes_too(hub: HubServer, tiny: TinyEncoder) -> None:
    vocabulary = {"vocab.txt": b"[PAD]\nlung\n"}
    hub.repositories["osler-tests/words"] = Repository({NEWER: vocabulary}, {"main": NEWER})
    entry = checkpoint_entry()
    entry["text"]["tokenizer"] = {"kind": "wordpiece", "files": ["vocab.txt"], "hub": "osler-tests/words"}
    again(tiny, entry)
    plan = plan_pull("tiny-hub")
    assert plan.chosen == {HUB: "registry", "osler-tests/words": "newest"}
    pull_encoder(plan)
    assert (home_folder("tiny-hub") / "checkpoint/vocab.txt").read_bytes() == vocabulary["vocab.txt"]


WORDS = "osler-tests/words"
VOCABULARY = {REVISION: {"vocab.txt": b"[PAD]\nheart\n"}, NEWER: {"vocab.txt": b"[PAD]\nlung\n"}}


def words_entry(**fields: Any) -> dict[str, Any]:
    """Return the entry of a checkpoint whose tokenizer lies in a repository of its own."""
    entry = checkpoint_entry()
    entry["text"]["tokenizer"] = {"kind": "wordpiece", "files": ["vocab.txt"], "hub": WORDS, **fields}
    return entry


@pytest.mark.parametrize("asked", [None, "main"])
def test_a_tokenizer_comes_from_the_commit_that_the_registry_pins(
    hub: HubServer, tiny: TinyEncoder, asked: str | None
) -> None:
    hub.repositories[WORDS] = Repository(dict(VOCABULARY), {"main": NEWER})
    again(tiny, words_entry(revision=REVISION))
    plan = plan_pull("tiny-hub", revision=asked)
    assert plan.chosen == {HUB: "asked" if asked else "registry", WORDS: "registry"}
    root = pull_encoder(plan).folder / "checkpoint"
    assert (root / "vocab.txt").read_bytes() == VOCABULARY[REVISION]["vocab.txt"]
    recorded = {one["path"]: one for one in json.loads((root / "source.json").read_text())["files"]}["vocab.txt"]
    assert (recorded["revision"], recorded["revision_from"]) == (REVISION, "registry")
    assert {one.path for one in hub.asked("hub", "vocab.txt")} == {f"/{WORDS}/resolve/{REVISION}/vocab.txt"}


def test_the_hash_of_a_tokenizer_is_compared(hub: HubServer, tiny: TinyEncoder) -> None:
    hub.repositories[WORDS] = Repository(dict(VOCABULARY), {"main": NEWER})
    right = hashlib.sha256(VOCABULARY[REVISION]["vocab.txt"]).hexdigest()
    again(tiny, words_entry(revision=REVISION, sha256={"vocab.txt": right}))
    plan = plan_pull("tiny-hub")
    assert {file.place: file.checked for file in plan.files}["vocab.txt"] == "registry"
    assert pull_encoder(plan).sha256["vocab.txt"] == right
    again(tiny, words_entry(revision=NEWER, sha256={"vocab.txt": right}))
    with pytest.raises(EncoderError, match=r"vocab.txt does not have the SHA-256 that is expected") as caught:
        pull(out=home_folder("other"))
    assert caught.value.code == "hash_mismatch"


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"hub": None, "revision": REVISION}, "are of a repository in hub"),
        ({"hub": None, "sha256": {"vocab.txt": "0" * 64}}, "are of a repository in hub"),
        ({"revision": "main"}, "revision"),
        ({"sha256": {"merges.txt": "0" * 64}}, "sha256 names a file that is not in files"),
        ({"hub": HUB, "revision": REVISION}, "a tokenizer in the repository of the weights is of their commit"),
    ],
)
def test_what_pins_a_tokenizer_wrongly_is_no_entry(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        Entry.model_validate_json(json.dumps(words_entry(**fields)))


def test_a_tokenizer_that_no_repository_has_is_told_before_and_asked_for_at_the_end(
    hub: HubServer, tiny: TinyEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import osler.encoders.export

    def export(name: str, checkpoint: Path, out: Path) -> None:
        assert (checkpoint / "tokenizer.json").is_file(), "exported without its tokenizer"
        exported(tiny, name, out)

    monkeypatch.setattr(osler.encoders.export, "export_encoder", export)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    again(tiny, checkpoint_entry())
    plan = plan_pull("tiny-hub", tmp_path / "out")
    assert plan.bring == ("tokenizer.json",) and plan.to_dict()["bring"] == ["tokenizer.json"]
    pulled = pull_encoder(plan)
    place = tmp_path / "out" / "checkpoint"
    assert (pulled.state, pulled.bring, pulled.fetched) == ("checkpoint", ("tokenizer.json",), 1)
    assert pulled.next == (
        f"osler encoder export tiny-hub --checkpoint {place} --tokenizer FOLDER --out {tmp_path / 'out'}"
    )
    shutil.copy(tiny.folder / "tokenizer.json", place)  # brought by the user
    pulled = pull(out=tmp_path / "out")
    assert (pulled.state, pulled.bring, pulled.next, pulled.fetched) == ("ready", (), None, 0)


def test_only_what_nobody_brings_must_be_brought() -> None:
    found = {
        name: entry.to_bring(source) for name, entry in entries().items() if (source := entry.source("checkpoint"))
    }
    assert found["conch"] == ("conch_byte_level_bpe_uncased.json",)
    # from a repository of its own, beside the weights, with open_clip, and an encoder of pictures only
    assert not any(found[name] for name in ("unimed-b16", "clip-b16", "laion-b32", "rad-dino"))
    assert "conch_byte_level_bpe_uncased.json, which you bring" in what_to_do(entries()["conch"])


def test_what_no_file_settled_stays_marked(hub: HubServer, tiny: TinyEncoder) -> None:
    doubts = {"licence.id": "from memory", "image.recipe": "mean not seen"}
    anchor = {"figure": "recall 0.5", "source": "its paper"}
    again(tiny, tiny_entry(uncertain=doubts, anchor=anchor))
    pulled = pull()
    assert osler.load_encoder("tiny-hub").manifest.uncertain == doubts
    info = next(info for info in osler.list_encoders() if info.name == "tiny-hub")
    assert (info.state, info.uncertain, info.citation) == ("ready", doubts, "none")
    assert info.anchor == "recall 0.5 (its paper)"
    again(tiny, tiny_entry(uncertain={"licence.id": "from memory"}))
    second = pull()
    assert (second.fetched, second.fingerprint) == (0, pulled.fingerprint), "doubts are no part of the fingerprint"
    assert osler.load_encoder("tiny-hub").manifest.uncertain == {"licence.id": "from memory"}


def test_no_entry_has_files_that_cannot_lie_beside_each_other() -> None:
    for name, entry in entries().items():
        source = entry.source("checkpoint")
        places = [file.path for file in source.files] if source is not None else []
        places += [file.path for one in entry.sources if one.kind == "onnx" for file in one.files]
        wrong = [path for path in places if path in ("source.json", "manifest.json") or path.startswith(".")]
        assert not wrong, f"{name}: {wrong}"


def test_who_cannot_be_pulled_is_told_why(tiny: TinyEncoder, hub: HubServer) -> None:
    page = {"kind": "checkpoint", "page": "the authors' page", "files": [{"path": "weights.bin"}]}
    again(tiny, tiny_entry(sources=[page]))
    with pytest.raises(EncoderError, match="needs your files: from the authors' page, then osler encoder export"):
        plan_pull("tiny-hub")
    again(tiny, tiny_entry(impossible="its weights were never published"))
    with pytest.raises(EncoderError, match="not possible: its weights were never published") as caught:
        plan_pull("tiny-hub")
    assert caught.value.code == "not_pullable"
    with pytest.raises(EncoderError, match=r"no encoder 'tiny-hob' \(did you mean 'tiny-hub'\?\)"):
        plan_pull("tiny-hob")
    assert not hub.requests
