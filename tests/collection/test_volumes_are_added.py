"""NIfTI files and DICOM series in a collection: slices for an encoder of pictures, whole volumes for a 3-D one."""

from __future__ import annotations

import base64
import gzip
import io
import json
import re
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import osler
import pytest
from click.testing import CliRunner
from dicom_files import build
from osler.cli import app as command
from osler.decode import read_volume
from osler.decode.volumes import Slices
from PIL import Image
from tiny_encoder import tiny_encoder, tiny_volume_encoder

CANARY = "DOE^JOHN^1954"
AFFINE = np.diag([-1.5, -1.5, 2.5, 1.0])


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(4)


@pytest.fixture
def flat(tmp_path: Path, rng: np.random.Generator) -> osler.Encoder:
    return osler.load_encoder(tiny_encoder(tmp_path / "two", rng).save())


@pytest.fixture
def solid(tmp_path: Path, rng: np.random.Generator) -> osler.Encoder:
    return osler.load_encoder(tiny_volume_encoder(tmp_path / "three", rng).save())


def nifti(path: Path, rng: np.random.Generator, shape: tuple[int, ...] = (6, 5, 4)) -> Path:
    path.parent.mkdir(exist_ok=True)
    made = nibabel.Nifti1Image(rng.integers(-900, 900, shape).astype(np.int16), AFFINE)
    made.header["descrip"] = CANARY.encode()
    made.header["aux_file"] = CANARY.encode()
    made.header.extensions.append(nibabel.nifti1.Nifti1Extension("comment", CANARY.encode()))
    nibabel.save(made, path)
    return path


def series(
    folder: Path, rng: np.random.Generator, uid: str = "1.2.3", skip: tuple[int, ...] = (), count: int = 6
) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for k in range(count):
        if k not in skip:
            data = build(
                rng.integers(0, 2000, (5, 6)).astype(np.uint16),
                Modality="CT",
                SeriesInstanceUID=uid,
                SOPInstanceUID=f"{uid}.{k}",
                PatientID="P",
                ImageOrientationPatient=["1", "0", "0", "0", "1", "0"],
                ImagePositionPatient=["0", "0", str(3 * k)],
                PixelSpacing=["1.5", "1.5"],
                InstanceNumber=count - k,
                RescaleSlope="1",
                RescaleIntercept="-1024",
            )
            (folder / f"{uid}-{k}.dcm").write_bytes(data)
    return folder


def test_slices_are_parts_for_an_encoder_of_pictures(
    tmp_path: Path, flat: osler.Encoder, rng: np.random.Generator
) -> None:
    scans = nifti(tmp_path / "scans" / "a.nii.gz", rng).parent
    nifti(scans / "b.nii", rng, (7, 6, 3))
    with osler.Collection.create(tmp_path / "cases.osler", encoder=flat) as cases:
        report = cases.add(scans, progress=False)
        assert (report.added, report.skipped) == (2, 0)
        row = dict(cases["a.nii.gz"].metadata)
        assert row == {
            "format": "nifti", "rows": 5, "columns": 6, "frames": 4, "spacing": 1.5, "slice_spacing": 2.5
        }  # fmt: skip
        volume = read_volume(scans / "a.nii.gz")
        wanted = flat.encode_images(list(Slices(volume)))
        hit = cases.search(vector=wanted[2], k=1)[0]
        assert hit.key == "a.nii.gz" and hit.part.locator.frame == 2 and hit.score == pytest.approx(1.0, abs=1e-5)
        again = cases.add(scans, progress=False)
        assert (again.added, again.duplicates) == (0, 2)
    stored = b"".join(path.read_bytes() for path in (tmp_path / "cases.osler").rglob("*") if path.is_file())
    assert CANARY.encode() not in stored and b"DOE" not in stored


def test_a_volume_is_one_part_for_a_3d_encoder(tmp_path: Path, solid: osler.Encoder, rng: np.random.Generator) -> None:
    scans = nifti(tmp_path / "scans" / "a.nii.gz", rng).parent
    series(scans / "ct", rng)
    series(scans / "ct", rng, uid="4.5.6", count=4)
    with osler.Collection.create(tmp_path / "cases.osler", encoder=solid) as cases:
        report = cases.add(scans, progress=False)
        assert (report.added, report.skipped) == (3, 0)
        assert cases.info().items == 3 and cases.info().parts == 3
        for source in (scans / "a.nii.gz", sorted((scans / "ct").glob("1.2.3*"))):
            vector = solid.encode_images([source])[0]
            hit = cases.search(vector=vector, k=1)[0]
            assert hit.score == pytest.approx(1.0, abs=1e-5) and hit.part.locator.frame is None
        assert hit.metadata["frames"] == 6 and hit.metadata["slice_spacing"] == 3.0
        assert hit.metadata["modality"] == "CT" and "P" not in hit.metadata.values()
        assert cases.search(image=scans / "a.nii.gz", k=1)[0].key == "a.nii.gz"
        again = cases.add(scans, progress=False)
        assert (again.added, again.duplicates) == (0, 3)


def test_a_series_with_a_missing_slice_is_an_outcome(
    tmp_path: Path, solid: osler.Encoder, flat: osler.Encoder, rng: np.random.Generator
) -> None:
    folder = series(tmp_path / "ct", rng, skip=(2, 3))
    with osler.Collection.create(tmp_path / "solid.osler", encoder=solid) as cases:
        report = cases.add(folder, progress=False)
        assert [failure.code for failure in report.failures] == ["missing_slices"]
        assert "2 of 6 slices are missing, the first between 3.0 and 12.0 mm" in report.failures[0].message
        assert cases.add(folder, gaps="fill", progress=False).added == 1
        (row,) = cases.to_polars().to_dicts()
        assert row["volume_findings"] == "missing_slices" and row["frames"] == 6
        with pytest.raises(ValueError, match="gaps is 'guess'; choose 'refuse' or 'fill'"):
            cases.add(folder, progress=False, gaps="guess")
    # Slices that are there are parts, and the column tells that others are not.
    with osler.Collection.create(tmp_path / "flat.osler", encoder=flat) as cases:
        assert cases.add(folder, items="series", progress=False).added == 1
        (row,) = cases.to_polars().to_dicts()
        assert row["volume_findings"] == "missing_slices" and row["frames"] == 4 and row["slice_spacing"] == 3.0


def test_each_file_of_a_folder_has_its_outcome(tmp_path: Path, solid: osler.Encoder, rng: np.random.Generator) -> None:
    scans = nifti(tmp_path / "scans" / "good.nii", rng).parent
    Image.new("L", (8, 8)).save(scans / "picture.png")
    (scans / "cut.nii").write_bytes((scans / "good.nii").read_bytes()[:-9])
    (scans / "cut.nii.gz").write_bytes(gzip.compress((scans / "good.nii").read_bytes())[:-9])
    nifti(scans / "4d.nii", rng, (6, 5, 4, 3))
    nibabel.save(nibabel.Nifti1Image(np.full((3, 3, 3), np.nan, np.float32), AFFINE), scans / "nan.nii")
    (scans / "one.dcm").write_bytes(build(np.zeros((4, 4), np.uint16), Modality="CR"))
    (scans / "notes.txt").write_text("text")
    with osler.Collection.create(tmp_path / "cases.osler", encoder=solid) as cases:
        report = cases.add(scans, progress=False)
        assert report.added == 1 and list(cases.keys()) == ["good.nii"]
        found = {failure.source: failure.code for failure in report.failures}
        assert found == {
            "4d.nii": "several_volumes",
            "cut.nii": "truncated",
            "cut.nii.gz": "truncated",
            "nan.nii": "not_finite",
            "notes.txt": "not_an_image",
            "one.dcm": "one_slice",
            "picture.png": "not_a_volume",
        }
        assert not [failure for failure in report.failures if "DOE" in failure.message or "\n" in failure.message]


def test_volumes_that_the_recipe_cannot_take_cost_only_themselves(tmp_path: Path, rng: np.random.Generator) -> None:
    made = tiny_volume_encoder(tmp_path / "three", rng)
    made.manifest["image"]["recipe"].insert(3, {"op": "standardise"})
    scans = nifti(tmp_path / "scans" / "good.nii", rng).parent
    nibabel.save(nibabel.Nifti1Image(np.full((6, 5, 4), -1000, np.int16), AFFINE), scans / "air.nii")
    with osler.Collection.create(tmp_path / "cases.osler", encoder=osler.load_encoder(made.save())) as cases:
        report = cases.add(scans, progress=False)
        assert report.added == 1
        (failure,) = report.failures
        assert (
            failure.source == "air.nii" and failure.code == "not_encoded" and "no spread of values" in failure.message
        )


def test_few_volumes_are_held_at_once(
    tmp_path: Path, solid: osler.Encoder, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    from osler.collection import ingest

    scans = nifti(tmp_path / "scans" / "0.nii", rng).parent
    for i in range(1, 7):
        nifti(scans / f"{i}.nii", rng)
    sizes: list[int] = []
    encode = type(solid).encode_images
    monkeypatch.setattr(ingest, "_HELD_BYTES", 3 * 6 * 5 * 4 * 2)
    monkeypatch.setattr(
        type(solid), "encode_images", lambda self, images, **_: (sizes.append(len(images)), encode(self, images))[1]
    )
    with osler.Collection.create(tmp_path / "cases.osler", encoder=solid) as cases:
        assert cases.add(scans, progress=False).added == 7
    assert sizes == [3, 3, 1]


def test_a_contact_sheet_shows_the_middle_of_a_volume(
    tmp_path: Path, solid: osler.Encoder, rng: np.random.Generator
) -> None:
    scans = nifti(tmp_path / "scans" / "a.nii.gz", rng).parent
    series(scans / "ct", rng)
    with osler.Collection.create(tmp_path / "cases.osler", encoder=solid) as cases:
        cases.add(scans, progress=False)
        for query in (scans / "a.nii.gz", read_volume(scans / "a.nii.gz")):
            path = tmp_path / "hits.html"
            cases.search(image=query, k=2).to_html(path)
            shown = [
                np.asarray(Image.open(io.BytesIO(base64.b64decode(found))).convert("L"))
                for found in re.findall(r"data:image/\w+;base64,([\w+/=]+)", path.read_text())
            ]
            assert len(shown) == 3
            middle = Slices(read_volume(scans / "a.nii.gz"))[2] >> 8
            # JPEG blurs noise; another slice is 80 off on average.
            for picture in shown[:2]:
                assert np.abs(picture.astype(int) - middle).mean() < 8


def test_the_command_line_takes_volumes(tmp_path: Path, solid: osler.Encoder, rng: np.random.Generator) -> None:
    scans = nifti(tmp_path / "scans" / "a.nii.gz", rng).parent
    series(scans / "ct", rng, skip=(2,))

    def run(*words: Any) -> tuple[int, Any]:
        result = CliRunner().invoke(command, [*map(str, words), "--json"])
        return result.exit_code, json.loads(result.stdout) if result.stdout.strip() else result.output

    out = tmp_path / "cases.osler"
    code, plan = run("index", "build", scans, "--out", out, "--encoder", solid.folder, "--dry-run")
    assert code == 0 and plan["plan"]["kinds"] == {"dicom": 5, "nifti": 1}
    code, found = run("index", "build", scans, "--out", out, "--encoder", solid.folder, "--strict")
    assert code == 3 and found["added"] == 1
    assert [failure["code"] for failure in found["failures"]] == ["missing_slices"]
    code, found = run("index", "add", out, scans, "--gaps", "fill")
    assert code == 0, found
    assert found["added"] == 1
    code, found = run("query", out, "--image", scans / "a.nii.gz", "-k", 1)
    assert code == 0 and found["hits"][0]["key"] == "a.nii.gz" and found["hits"][0]["score"] > 0.999
