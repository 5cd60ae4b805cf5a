"""The main job on real files: a DICOM file finds its other transfer syntaxes before any other study.

Over every file of pydicom and pydicom-data, with the encoder that the command line uses by default.
"""

from __future__ import annotations

from pathlib import Path

import osler
import pytest
from dicom_files import package_files, path_of
from osler.collection.privacy import Secret, secret_path

ENCODINGS = {
    "RG1": ("RG1_UNCR", "RG1_UNCI", "RG1_J2KR", "RG1_J2KI"),
    "RG3": ("RG3_UNCR", "RG3_UNCI", "RG3_J2KR", "RG3_J2KI"),
    "MR2": ("MR2_UNCR", "MR2_UNCI", "MR2_J2KR", "MR2_J2KI"),
    "US1": ("US1_UNCR", "US1_UNCI", "US1_J2KR", "US1_J2KI"),
    "693": ("693_UNCR", "693_UNCI", "693_J2KR", "693_J2KI"),
    "OBXXXX1A": ("OBXXXX1A", "OBXXXX1A_expb", "OBXXXX1A_rle"),
    "MR_small": (
        "MR_small",
        "MR_small_RLE",
        "MR_small_bigendian",
        "MR_small_expb",
        "MR_small_implicit",
        "MR_small_jp2klossless",
        "MR_small_jpeg_ls_lossless",
        "MR_small_padded",
    ),
    "emri_small": (
        "emri_small",
        "emri_small_RLE",
        "emri_small_big_endian",
        "emri_small_jpeg_2k_lossless",
        "emri_small_jpeg_ls_lossless",
    ),
}


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> osler.Collection:
    cases = osler.Collection.create(tmp_path_factory.mktemp("same") / "cases.osler", encoder="reference")
    report = cases.add([str(path) for path in package_files()], progress=False)
    assert report.added > 150
    return cases


@pytest.mark.parametrize("name", ENCODINGS)
def test_other_encodings_come_before_every_other_study(cases: osler.Collection, name: str) -> None:
    secret = Secret.read(secret_path(Path(cases.path)))
    files = [path_of(f"{stem}.dcm") for stem in ENCODINGS[name]]
    keys = {secret.pseudonym("item", file.read_bytes()) for file in files}
    assert all(key in cases for key in keys)
    study = {cases[key].metadata["study_id"] for key in keys}
    for file in files:
        hits = cases.search(image=file, k=len(cases), recall=1.0)
        others = [hit.score for hit in hits if hit.metadata.get("study_id") not in study]
        same = [hit.score for hit in hits if hit.key in keys]
        assert len(same) == len(keys)
        assert len(others) > 100
        assert min(same) > max(others), f"{file.name}: {min(same):.4f} against {max(others):.4f}"
