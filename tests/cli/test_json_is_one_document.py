"""--json prints one document with stable names and nothing else on stdout; tables and CSV say the same."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import osler
import pytest

QUERY = ("--text", "magnetic resonance", "-k", 3)


def document(run: Any, *arguments: Any) -> Any:
    result = run(*arguments)
    assert result.exit_code == 0, result.stderr
    assert result.stdout.startswith("{\n") and result.stdout.endswith("}\n")
    return json.loads(result.stdout)


def test_query(run: Any, cases: Path) -> None:
    found = document(run, "query", cases, *QUERY, "--json")
    assert list(found) == ["hits", "searched", "seconds"]
    assert [list(hit) for hit in found["hits"]] == [["rank", "key", "score", "metadata", "part"]] * 3
    assert [hit["rank"] for hit in found["hits"]] == [1, 2, 3]
    scores = [hit["score"] for hit in found["hits"]]
    assert scores == sorted(scores, reverse=True)
    assert found["searched"] == 7 and found["seconds"] > 0
    with osler.Collection.open(cases) as opened:
        hits = opened.search(text="magnetic resonance", k=3)
        assert [(hit.key, hit.metadata) for hit in hits] == [(hit["key"], hit["metadata"]) for hit in found["hits"]]
        for hit, given in zip(hits, found["hits"], strict=True):
            assert given["part"] == {
                "position": hit.part.position, "kind": hit.part.kind, "locator": hit.part.locator.to_dict(),
            }  # fmt: skip


def test_query_says_the_same_as_csv_and_as_a_table(run: Any, cases: Path) -> None:
    found = document(run, "query", cases, *QUERY, "--format", "json")
    table = run("query", cases, *QUERY).stdout.splitlines()
    rows = list(csv.DictReader(io.StringIO(run("query", cases, *QUERY, "--format", "csv").stdout)))
    assert [row["key"] for row in rows] == [hit["key"] for hit in found["hits"]]
    assert [float(row["score"]) for row in rows] == [hit["score"] for hit in found["hits"]]
    assert [row["modality"] for row in rows] == [hit["metadata"].get("modality", "") for hit in found["hits"]]
    assert table[0].split()[:3] == ["rank", "key", "score"] and len(table) == 4
    for line, hit in zip(table[1:], found["hits"], strict=True):
        assert line.split()[:3] == [str(hit["rank"]), hit["key"], f"{hit['score']:.3f}"]
    assert len({line.index(hit["key"]) for line, hit in zip(table[1:], found["hits"], strict=True)}) == 1
    assert table[0].index("key") == table[1].index(found["hits"][0]["key"])


def test_index_build(run: Any, pictures: Path, tmp_path: Path) -> None:
    found = document(run, "index", "build", pictures, "-o", tmp_path / "a.osler", "--json")
    assert list(found) == ["added", "skipped", "duplicates", "failures", "unmatched", "collection"]
    assert (found["added"], found["skipped"], found["duplicates"]) == (7, 2, 0)
    assert found["collection"] == str(tmp_path / "a.osler")
    assert {(one["source"], one["code"]) for one in found["failures"]} == {
        ("notes.txt", "not_an_image"), ("rtplan.dcm", "no_pixels"),
    }  # fmt: skip
    assert all(list(one) == ["source", "code", "message"] for one in found["failures"])


def test_index_info(run: Any, cases: Path) -> None:
    found = document(run, "index", "info", cases, "--json")
    assert (found["items"], found["parts"], found["encoder"], found["metric"]) == (7, 16, "reference", "cosine")
    assert found["columns"]["modality"] == "text" and len(found["fingerprint"]) == 64


def test_index_verify_delete_and_compact(run: Any, copy: Path) -> None:
    assert document(run, "index", "verify", copy, "--json") == {"sound": True, "findings": []}
    where = ("--where", "modality = 'MR'")
    assert document(run, "index", "delete", copy, *where, "--dry-run", "--json") == {"would_delete": 3, "items": 7}
    assert document(run, "index", "delete", copy, *where, "--json") == {"deleted": 3, "items": 4}
    assert document(run, "index", "delete", copy, "--key", "grey.png", "--json") == {"deleted": 1, "items": 3}
    compacted = document(run, "index", "compact", copy, "--json")
    assert compacted["bytes"] < compacted["bytes_before"]


def test_encoder_list_and_info(run: Any) -> None:
    found = document(run, "encoder", "list", "--json")
    states = {one["name"]: one["state"].partition(":")[0] for one in found["encoders"]}
    assert [states[name] for name in ("efficientnet-lite0", "minilm", "reference")] == ["ready"] * 3
    assert set(states.values()) <= {"ready", "needs", "downloadable", "needs your files", "not possible"}
    assert all({"modalities", "domain", "dim", "licence", "gate", "state"} <= set(one) for one in found["encoders"])
    published = document(run, "encoder", "info", "biomedclip", "--json")
    assert published["state"].startswith("downloadable: ") and published["sources"] and published["uncertain"]
    described = document(run, "encoder", "info", "reference", "--json")
    assert described["modalities"] == ["image", "text"] and described["licence"] and described["purpose"]
    assert described["fingerprint"] == osler.load_encoder("reference").fingerprint
    assert all(len(file["sha256"]) == 64 for file in described["files"])


def test_classify(run: Any, cases: Path) -> None:
    found = document(run, "classify", cases, "--prompts", "modality", "--json", "--where", "modality = 'CT'")
    assert list(found) == ["labels", "mode", "items"] and found["mode"] == "softmax"
    (item,) = found["items"]
    assert list(item) == ["key", "label", "score", "scores", "part"]
    assert item["label"] == "computed tomography" and item["score"] == max(item["scores"].values())
    assert sum(item["scores"].values()) == pytest.approx(1)
    table = run(
        "classify", cases, "--label", "a=CT scan", "--label", "b=ultrasound", "--label", "a=CT", "--mode", "sigmoid"
    )
    assert table.exit_code == 0 and table.stdout.splitlines()[0].split() == ["key", "label", "score", "a", "b"]


def test_filter(run: Any, copy: Path, tmp_path: Path) -> None:
    pairs = document(run, "filter", "duplicates", copy, "--threshold", 0.999, "--json")
    assert list(pairs) == ["pairs", "threshold", "items"] and pairs["items"] == 7
    assert [list(pair) for pair in pairs["pairs"]] == [["key_a", "key_b", "score"]]
    out = tmp_path / "kept.json"
    scored = ("filter", "score", copy, "--text", "a CT scan", "--fraction", 0.5, "--out", out, "--json")
    decided = document(run, *scored)
    assert list(decided) == ["rule", "kept", "dropped", "decisions"] and (decided["kept"], decided["dropped"]) == (3, 4)
    assert [list(one) for one in decided["decisions"]] == [["key", "keep", "reason", "score"]] * 7
    assert document(run, "filter", "apply", copy, out, "--dry-run", "--json") == {"would_delete": 4, "items": 7}
    keys = tmp_path / "keys.txt"
    assert document(run, "filter", "apply", copy, out, "--keys", keys, "--json") == {"written": 3, "items": 7}
    assert keys.read_text().split() == [one["key"] for one in decided["decisions"] if one["keep"]]
    assert document(run, "filter", "apply", copy, out, "--json") == {"deleted": 4, "items": 3}


def test_usearch_goes_out_and_comes_back(run: Any, cases: Path, tmp_path: Path) -> None:
    file, back = tmp_path / "a.usearch", tmp_path / "back.osler"
    assert document(run, "index", "export", cases, "-o", file, "--json") == {"items": 7, "file": str(file)}
    assert document(run, "index", "import", file, "-o", back, "--json") == {"added": 7, "collection": str(back)}
    with osler.Collection.open(cases) as first, osler.Collection.open(back) as second:
        assert first.keys() == second.keys()
    like = document(run, "query", back, "--like", "grey.png", "-k", 1, "--json")
    assert like["hits"][0]["key"] != "grey.png"


@pytest.mark.parametrize(
    ("name", "options", "asked", "metric"),
    [
        ("a.faiss", [], [], "dot"),
        ("a.faiss", ["--kind", "hnsw"], ["--metric", "cosine"], "cosine"),
        ("a.faiss", ["--kind", "ivf"], ["--metric", "l2"], "l2"),
        ("a.hnswlib", [], [], "cosine"),
        ("a.npy", [], [], "cosine"),
    ],
)
def test_files_of_others_go_out_and_come_back(
    run: Any, cases: Path, tmp_path: Path, name: str, options: list[str], asked: list[str], metric: str
) -> None:
    file, back = tmp_path / name, tmp_path / "back.osler"
    assert document(run, "index", "export", cases, "-o", file, *options, "--json")["items"] == 7
    assert document(run, "index", "import", file, "-o", back, *asked, "--json")["added"] == 7
    with osler.Collection.open(cases) as first, osler.Collection.open(back) as second:
        assert first.keys() == second.keys() and second.metric == metric
        assert (first.vectors() == second.vectors()).all()


@pytest.mark.parametrize(("name", "other"), [("a.faiss", "vectors.index"), ("a.hnswlib", "a.bin")])
def test_files_of_others_may_have_other_names(run: Any, cases: Path, tmp_path: Path, name: str, other: str) -> None:
    assert run("index", "export", cases, "-o", tmp_path / name).exit_code == 0
    (tmp_path / name).rename(tmp_path / other)
    added = document(run, "index", "import", tmp_path / other, "-o", tmp_path / "back.osler", "--json")
    assert added["added"] == 7


def test_dry_run_is_a_plan(run: Any, pictures: Path, tmp_path: Path) -> None:
    found = document(
        run, "index", "build", pictures, "-o", tmp_path / "a.osler", "--dry-run", "--json", "--keep", "PatientID"
    )
    plan = found["plan"]
    assert (plan["files"], plan["kinds"]) == (9, {"dicom": 6, "other": 1, "png": 2})
    assert (plan["encoder"], plan["keep"], plan["collection"]) == (
        "reference",
        ["PatientID"],
        str(tmp_path / "a.osler"),
    )
    assert not list(tmp_path.iterdir())
