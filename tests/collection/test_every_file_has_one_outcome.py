"""Ingest: pictures, DICOM and what is neither; duplicates, resumption, joins, the secret, plans."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import osler
import pytest
from osler.collection.ingest import plan
from osler.sources import Source
from PIL import Image
from pydicom.data import get_testdata_file


def dicom(name: str) -> Path:
    return Path(str(get_testdata_file(name, download=False)))


@pytest.fixture
def mixed(tmp_path: Path, pictures: Callable[..., Path]) -> Path:
    """4 pictures, 2 DICOM files and a copy of one, a text, a broken picture, one that the encoder refuses."""
    folder = pictures(4, "mixed")
    (folder / "sub").mkdir()
    shutil.copy(dicom("CT_small.dcm"), folder / "sub" / "ct.dcm")
    shutil.copy(dicom("MR_small.dcm"), folder / "mr")
    shutil.copy(dicom("CT_small.dcm"), folder / "again.dcm")
    (folder / "notes.txt").write_text("no picture")
    (folder / "broken.png").write_bytes((folder / "0.png").read_bytes()[:60])
    Image.fromarray(np.zeros((13, 9), np.uint8)).save(folder / "refused.png")
    return folder


def test_a_mixed_folder(tmp_path: Path, mixed: Path, tiny: Any) -> None:
    with osler.Collection.create(tmp_path / "cases.osler", encoder=tiny) as cases:
        report = cases.add(mixed, progress=False)
        assert (report.added, report.skipped, report.duplicates) == (6, 3, 1)
        assert report.added + report.skipped + report.duplicates == sum(file.is_file() for file in mixed.rglob("*"))
        codes = {failure.source: failure.code for failure in report.failures}
        assert set(codes) == {"notes.txt", "broken.png", "refused.png"}
        assert codes["refused.png"] == "not_encoded"
        assert all(str(mixed) not in failure.message for failure in report.failures)
        assert report.to_dict()["failures"][0].keys() == {"source", "code", "message"}
        assert report.to_polars().height == 3
        assert "added 6 · skipped 3 · duplicates 1" in repr(report)
        plain = [key for key in cases if key.endswith(".png")]
        assert plain == ["0.png", "1.png", "2.png", "3.png"]
        pseudonyms = [key for key in cases if key not in plain]
        assert all(len(key) == 32 and int(key, 16) >= 0 for key in pseudonyms)
        assert cases.unique("modality") == ["CT", "MR"]
        assert len(cases.unique("patient_id")) == 2
        hit = cases.search(image=mixed / "2.png", k=1)[0]
        assert (hit.key, round(hit.score, 5)) == ("2.png", 1.0)
        cases.verify()


def test_adding_again_reads_no_pixels_and_adds_what_is_new(
    tmp_path: Path, mixed: Path, tiny: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "cases.osler"
    osler.Collection.create(path, encoder=tiny).close()
    with osler.Collection.open(path, mode="a", encoder=tiny) as cases:
        cases.add(mixed, progress=False)
        commit = cases.info().commit
    encoded = tiny.pictures
    Image.fromarray(np.full((12, 16), 9, np.uint8)).save(mixed / "new.png")
    decoded: list[str] = []
    real = Source.read

    def read(self: Any, entry: Any, content: Any = None) -> Any:
        decoded.append(entry.locator)
        return real(self, entry, content)

    monkeypatch.setattr(Source, "read", read)
    with osler.Collection.open(path, mode="a", encoder=tiny) as cases:
        report = cases.add(mixed, progress=False)
        assert (report.added, report.skipped, report.duplicates) == (1, 3, 7)
        assert sorted(decoded) == ["broken.png", "new.png", "notes.txt", "refused.png"]
        # The refused picture costs the new one a second run.
        assert tiny.pictures == encoded + 2
        assert cases.info().commit == commit + 1
        assert len(cases) == 7


def test_a_name_with_other_bytes_is_left_or_replaced(tmp_path: Path, pictures: Callable[..., Path], tiny: Any) -> None:
    folder = pictures(2)
    with osler.Collection.create(tmp_path / "cases.osler", encoder=tiny) as cases:
        cases.add(folder, progress=False)
        picture = np.tile(np.linspace(0, 255, 16).astype(np.uint8), (12, 1))
        Image.fromarray(picture).save(folder / "0.png")
        report = cases.add(folder, progress=False)
        assert (report.added, report.skipped, report.duplicates) == (0, 1, 1)
        assert [(one.source, one.code) for one in report.failures] == [("0.png", "key_taken")]
        assert "on_duplicate='replace'" in report.failures[0].message
        assert cases.add(folder, on_error="raise", progress=False).skipped == 1
        assert cases.search(image=picture)[0].score < 0.999
        report = cases.add(folder, on_duplicate="replace", progress=False)
        assert (report.added, report.duplicates, len(cases)) == (1, 1, 2)
        hit = cases.search(image=picture)[0]
        assert (hit.key, round(hit.score, 5)) == ("0.png", 1.0)


def test_raise_stops_at_the_first_failure(tmp_path: Path, mixed: Path, tiny: Any) -> None:
    with osler.Collection.create(tmp_path / "cases.osler", encoder=tiny) as cases:
        with pytest.raises(osler.SourceError):
            cases.add(mixed, on_error="raise", progress=False)
        cases.verify()


def test_metadata_is_joined_and_counted(tmp_path: Path, pictures: Callable[..., Path], tiny: Any) -> None:
    folder = pictures(3)
    table = tmp_path / "labels.csv"
    table.write_text("file,label,age\n0.png,effusion,61\n2.png,normal,40\nnone.png,normal,1\n")
    with osler.Collection.create(tmp_path / "cases.osler", encoder=tiny) as cases:
        report = cases.add(folder, metadata=table, progress=False)
        assert (report.added, report.unmatched) == (3, 1)
        assert cases.keys("label = 'normal' AND age >= 18") == ["2.png"]
        assert "label" not in cases["1.png"].metadata


@pytest.mark.parametrize(
    ("column", "expected"), [("rows", "int"), ("age", "int"), ("spacing", "float"), ("year", "int"), ("grade", "int")]
)
def test_an_odd_cell_is_refused_before_it_costs_a_file(
    column: str, expected: str, tmp_path: Path, pictures: Callable[..., Path], tiny: Any
) -> None:
    folder = pictures(3)
    table = tmp_path / "labels.csv"
    table.write_text(f"file,{column}\n0.png,tall\n1.png,12\n")
    with osler.Collection.create(tmp_path / "cases.osler", encoder=tiny) as cases:
        cases.add_vectors(["own"], np.ones((1, 16)), metadata=[{"grade": 2}])
        for source, options in ((folder, {"metadata": table}), (table, {})):
            if source == table:
                table = Path(shutil.copy(table, folder))
                source = table
            with pytest.raises(ValueError, match=f"column '{column}' of the table holds text, and is {expected}") as e:
                cases.add(source, progress=False, **options)
            assert "tall" not in str(e.value)
        assert cases.keys() == ["own"] and tiny.pictures == 0
        report = cases.add([folder / f"{n}.png" for n in range(3)], progress=False)
        assert (report.added, report.skipped) == (3, 0)


def test_a_cell_of_the_right_type_takes_the_place_of_the_files_own(tmp_path: Path, tiny: Any) -> None:
    shutil.copy(dicom("CT_small.dcm"), tmp_path / "ct.dcm")
    shutil.copy(dicom("MR_small.dcm"), tmp_path / "mr.dcm")
    table = tmp_path / "labels.csv"
    table.write_text("file,modality\nct.dcm,scout\nmr.dcm,\n")
    with osler.Collection.create(tmp_path / "cases.osler", encoder=tiny) as cases:
        cases.add([tmp_path / "ct.dcm", tmp_path / "mr.dcm"], metadata=table, progress=False)
        assert cases.to_polars()["modality"].to_list() == ["scout", "MR"]


def test_a_collection_in_the_source_is_no_source(tmp_path: Path, pictures: Callable[..., Path], tiny: Any) -> None:
    folder = pictures(2)
    with osler.Collection.create(folder / "cases.osler", encoder=tiny) as cases:
        assert repr(cases.add(folder, progress=False)) == "added 2 · skipped 0 · duplicates 0"
        assert cases.add(folder, progress=False).skipped == 0
        with pytest.raises(ValueError, match=r"'cases.osler' is a collection; name the pictures"):
            cases.add(cases.path, progress=False)
    (folder / "sub").mkdir()
    (folder / "sub" / "FORMAT").write_text("some notes")
    assert plan(folder).files == 3


def test_identifiers_of_a_table_become_pseudonyms(tmp_path: Path, pictures: Callable[..., Path], tiny: Any) -> None:
    folder = pictures(3)
    table = tmp_path / "labels.csv"
    table.write_text("file,patient_id\n0.png,MRN-77\n1.png,MRN-77\n2.png,MRN-78\n")
    with osler.Collection.create(tmp_path / "cases.osler", encoder=tiny) as cases:
        cases.add(folder, metadata=table, progress=False)
        patients = cases.to_polars()["patient_id"].to_list()
        assert patients[0] == patients[1] != patients[2]
        assert not any("MRN" in patient for patient in patients)
        hits = cases.search(like="0.png", exclude="patient_id")
        assert [hit.key for hit in hits] == ["2.png"]


def test_dicom_needs_the_secret_to_be_added_and_not_to_be_searched(tmp_path: Path, tiny: Any) -> None:
    path, secret = tmp_path / "cases.osler", tmp_path / "cases.secret"
    with osler.Collection.create(path, encoder=tiny) as cases:
        assert not secret.exists()
        cases.add(dicom("CT_small.dcm"), progress=False)
        assert secret.exists()
    key = secret.read_bytes()
    secret.unlink()
    with osler.Collection.open(path, mode="a", encoder=tiny) as cases:
        assert cases.search(image=dicom("CT_small.dcm"))[0].score == pytest.approx(1, abs=1e-5)
        with pytest.raises(osler.Error, match="secret is missing beside") as caught:
            cases.add(dicom("MR_small.dcm"), progress=False)
        assert caught.value.code == "secret"
        with pytest.raises(osler.Error, match="secret is missing beside"):
            cases.search(image=dicom("MR_small.dcm"), exclude="patient_id")
        assert len(cases) == 1
    secret.write_bytes(bytes(48))
    cases = osler.Collection.open(path, mode="a", encoder=tiny)
    with pytest.raises(osler.Error, match="secret of another collection"):
        cases.add(dicom("MR_small.dcm"), progress=False)
    cases.close()
    secret.write_bytes(key)
    with osler.Collection.open(path, mode="a", encoder=tiny) as cases:
        assert cases.add(dicom("MR_small.dcm"), progress=False).added == 1
        hits = cases.search(image=dicom("MR_small.dcm"), exclude="patient_id")
        assert [hit.metadata["modality"] for hit in hits] == ["CT"]
        with pytest.raises(ValueError, match="needs a query that has a value"):
            cases.search(image=np.zeros((8, 8), np.uint8), exclude="patient_id")


def test_no_collection_takes_the_secret_of_another(tmp_path: Path, tiny: Any) -> None:
    with osler.Collection.create(tmp_path / "q.osler", encoder=tiny) as first:
        first.add(dicom("CT_small.dcm"), progress=False)
    secret = (tmp_path / "q.secret").read_bytes()
    shutil.move(tmp_path / "q.osler", tmp_path / "former.osler")
    for name in ("q", "q.osler"):
        with osler.Collection.create(tmp_path / name, encoder=tiny) as other:
            with pytest.raises(osler.Error, match=r"of another collection lies at q\.secret; move it away") as caught:
                other.add(dicom("CT_small.dcm"), progress=False)
            assert caught.value.code == "secret"
            assert len(other) == 0
    assert (tmp_path / "q.secret").read_bytes() == secret
    (tmp_path / "q.secret").rename(tmp_path / "former.secret")
    with osler.Collection.open(tmp_path / "q.osler", mode="a", encoder=tiny) as other:
        assert other.add(dicom("CT_small.dcm"), progress=False).added == 1
    with osler.Collection.open(tmp_path / "former.osler", mode="a", encoder=tiny) as first:
        assert first.add(dicom("MR_small.dcm"), progress=False).added == 1


def test_a_secret_whose_first_commit_was_lost_is_used_again(
    tmp_path: Path, tiny: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "cases.osler"
    with osler.Collection.create(path, encoder=tiny) as cases:
        monkeypatch.setattr(tiny, "encode_images", lambda *_, **__: 1 / 0, raising=False)
        with pytest.raises(ZeroDivisionError):
            cases.add(dicom("CT_small.dcm"), progress=False)
        monkeypatch.undo()
    secret = (tmp_path / "cases.secret").read_bytes()
    with osler.Collection.open(path, mode="a", encoder=tiny) as cases:
        assert cases.add(dicom("CT_small.dcm"), progress=False).added == 1
    assert (tmp_path / "cases.secret").read_bytes() == secret


def test_two_collections_cannot_be_joined_by_pseudonym(tmp_path: Path, tiny: Any) -> None:
    found = []
    for name in ("a", "b"):
        with osler.Collection.create(tmp_path / f"{name}.osler", encoder=tiny) as cases:
            cases.add(dicom("CT_small.dcm"), progress=False)
            found.append({cases.keys()[0], *(cases.unique(c)[0] for c in ("patient_id", "study_id", "series_id"))})
    assert len(found[0]) == 4
    assert not found[0] & found[1]


def test_frames_of_one_file_are_parts(tmp_path: Path, tiny: Any) -> None:
    with osler.Collection.create(tmp_path / "cases.osler", encoder=tiny) as cases:
        cases.add(dicom("emri_small.dcm"), progress=False)
        assert (cases.info().items, cases.info().parts) == (1, 10)
        parts = cases.part_vectors().parts
        assert [part.locator.frame for part in parts] == list(range(10))
        query = cases.part_vectors().vectors[3]
        assert cases.search(vector=query)[0].part.locator.frame == 3


def test_kept_tags_are_stored_as_they_are_and_recorded(tmp_path: Path, tiny: Any) -> None:
    import pydicom

    patient = str(pydicom.dcmread(dicom("CT_small.dcm")).PatientID)
    with osler.Collection.create(tmp_path / "cases.osler", encoder=tiny) as cases:
        cases.add(dicom("CT_small.dcm"), keep=["PatientID"], progress=False)
        assert cases.unique("PatientID") == [patient]
        assert cases.info().policy["keep"] == ["PatientID"]


def test_another_encoder_is_refused(tmp_path: Path, tiny: Any) -> None:
    path = tmp_path / "cases.osler"
    osler.Collection.create(path, encoder=tiny).close()
    other = type(tiny)()
    other.fingerprint = "0" * 64
    with pytest.raises(osler.EncoderError, match="ffffffffffff, this is tiny with 000000000000"):
        osler.Collection.open(path, encoder=other)
    with osler.Collection.create(tmp_path / "own.osler", dim=4) as own:
        with pytest.raises(osler.Error, match="has no encoder") as caught:
            own.add(tmp_path, progress=False)
        assert caught.value.code == "no_encoder"
    with pytest.raises(ValueError, match="takes no encoder"):
        osler.Collection.open(tmp_path / "own.osler", encoder=tiny)


def test_an_encoder_of_pictures_only_says_so(tmp_path: Path, tiny: Any) -> None:
    tiny.modalities = ("image",)
    with osler.Collection.create(tmp_path / "cases.osler", encoder=tiny) as cases:
        cases.add_vectors(["a"], np.ones((1, 16)))
        with pytest.raises(osler.Error, match="the encoder tiny takes no text; ask with image="):
            cases.search(text="effusion")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "give encoder= to search pictures and texts, or dim="),
        ({"dim": 0}, "dim must be"),
        ({"dim": 2.5}, "dim must be"),
        ({"dim": 4, "metric": "hamming"}, "metric is 'hamming'"),
    ],
)
def test_what_cannot_be_created_is_refused(options: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        osler.Collection.create(tmp_path / "cases.osler", **options)
    assert not list(tmp_path.iterdir())


def test_a_plan_counts_what_would_be_read(mixed: Path) -> None:
    found = plan(mixed)
    assert found.files == sum(file.is_file() for file in mixed.rglob("*"))
    assert found.bytes == sum(file.stat().st_size for file in mixed.rglob("*") if file.is_file())
    assert found.kinds == {"dicom": 3, "other": 1, "png": 6}


def test_a_missing_source_is_refused_before_anything_is_read(tmp_path: Path, tiny: Any) -> None:
    with osler.Collection.create(tmp_path / "cases.osler", encoder=tiny) as cases:
        with pytest.raises(FileNotFoundError):
            cases.add(tmp_path / "none", progress=False)
        assert cases.info().commit == 0


def test_a_source_whose_path_is_no_text_is_refused_before_it_is_read(tmp_path: Path, tiny: Any) -> None:
    root = Path(os.fsdecode(os.fsencode(tmp_path) + b"/pictures-\xff"))
    root.mkdir()
    Image.fromarray(np.zeros((12, 16), np.uint8)).save(root / "a.png")
    with osler.Collection.create(tmp_path / "cases.osler", encoder=tiny) as cases:
        with pytest.raises(ValueError, match="is not UTF-8"):
            cases.add(root, progress=False)
        assert tiny.pictures == 0
