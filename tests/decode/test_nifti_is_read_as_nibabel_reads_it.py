"""NIfTI files give nibabel's values and affine, whatever version, byte order and scaling; bad ones are refused."""

from __future__ import annotations

import dataclasses
import gzip
import sys
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from osler.config import LIMITS
from osler.decode import format_of, nifti, read_pixels, read_volume
from osler.decode.nifti import nifti_volume
from osler.errors import SourceError

FILES = Path(nibabel.__file__).parent / "tests" / "data"
AFFINE = np.array([[-1.5, 0.2, 0, 90], [0.2, 1.5, 0, -70], [0, 0, 3, -20], [0, 0, 0, 1.0]])
CANARY = "DOE-JOHN-19540302"


def image(
    values: Any = None, kind: Any = nibabel.Nifti1Image, affine: Any = AFFINE, swapped: bool = False, **header: Any
) -> bytes:
    """A file of some values, with fields of its header set as they are given."""
    values = np.arange(60, dtype=np.int16).reshape(3, 4, 5) if values is None else values
    made = kind(values, affine)
    if swapped:
        made = kind(values, affine, made.header.as_byteswapped())
    made.header.set_xyzt_units("mm")
    for name, value in header.items():
        made.header[name] = value
    return bytes(made.to_bytes())


def patched(data: bytes, **header: Any) -> bytes:
    """A NIfTI-1 file whose header states something else."""
    block = nibabel.Nifti1Header(data[:348], check=False)
    for name, value in header.items():
        block[name] = value
    return bytes(block.binaryblock) + data[348:]


@pytest.mark.parametrize("name", ["anatomical.nii", "reoriented_anat_moved.nii", "standard.nii.gz"])
def test_real_files(name: str) -> None:
    found, wanted = nifti_volume((FILES / name).read_bytes()), nibabel.load(FILES / name)
    np.testing.assert_array_equal(found.array, wanted.get_fdata().astype(np.float32))
    np.testing.assert_array_equal(found.affine, wanted.affine)
    np.testing.assert_allclose(found.spacing, wanted.header.get_zooms()[:3], rtol=1e-6)


def test_one_of_several_volumes_is_chosen() -> None:
    wanted = nibabel.load(FILES / "example4d.nii.gz")
    for time in (0, 1):
        found = read_volume(FILES / "example4d.nii.gz", time=time)
        np.testing.assert_array_equal(found.array, np.asarray(wanted.dataobj[..., time]))
    with pytest.raises(SourceError, match=r"holds 2 volumes .* read one of them with .*time=0") as caught:
        read_volume(FILES / "example4d.nii.gz")
    assert caught.value.code == "several_volumes"
    with pytest.raises(SourceError, match=r"time is 2, and .* holds 2 volumes; give a number from 0 to 1"):
        read_volume(FILES / "example4d.nii.gz", time=2)
    assert nifti_volume(image(np.zeros((3, 4, 5, 1), np.int16))).shape == (3, 4, 5)


@pytest.mark.parametrize("kind", [nibabel.Nifti1Image, nibabel.Nifti2Image])
@pytest.mark.parametrize("swapped", [False, True])
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("dtype", ["u1", "i1", "i2", "u2", "i4", "f4", "f8"])
def test_versions_byte_orders_and_types(kind: Any, swapped: bool, packed: bool, dtype: str) -> None:
    values = (np.arange(60).reshape(3, 4, 5) * 2 - (0 if dtype[0] == "u" else 50)).astype(dtype)
    data = image(values, kind, swapped=swapped)
    data = gzip.compress(data) if packed else data
    assert format_of(data) == "nifti"
    found = nifti_volume(data)
    np.testing.assert_array_equal(found.array, values)
    assert found.array.dtype == (dtype if dtype in ("u1", "i1", "i2", "u2") else "f4") and found.array.dtype.isnative
    np.testing.assert_allclose(found.affine, AFFINE, atol=1e-6)


def test_values_are_scaled() -> None:
    values = np.arange(60, dtype=np.int16).reshape(3, 4, 5)
    found = nifti_volume(image(values, scl_slope=2.5, scl_inter=-1024.0))
    np.testing.assert_array_equal(found.array, (values * 2.5 - 1024.0).astype(np.float32))
    for slope in (0.0, np.nan):
        np.testing.assert_array_equal(nifti_volume(image(values, scl_slope=slope, scl_inter=7.0)).array, values)


def test_sform_goes_before_qform_and_both_before_neither() -> None:
    made = nibabel.Nifti1Image(np.zeros((3, 4, 5), np.int16), None)
    sform, qform = np.diag([2.0, 2.0, 4.0, 1.0]), np.diag([-1.0, -1.0, 3.0, 1.0])
    made.header.set_xyzt_units("mm")
    made.header["pixdim"][1:4] = (1.0, 1.0, 3.0)
    nothing = nifti_volume(bytes(made.to_bytes()))
    assert set(nothing.findings) == {"orientation_unknown"} and nothing.affine[0, 0] == -1.0
    made.header.set_qform(qform, code=1)
    np.testing.assert_allclose(nifti_volume(bytes(made.to_bytes())).affine, qform)
    made.header.set_sform(sform, code=2)
    np.testing.assert_allclose(nifti_volume(bytes(made.to_bytes())).affine, sform)
    made.header.set_sform(sform, code=0)
    assert not nifti_volume(bytes(made.to_bytes())).findings


@pytest.mark.parametrize(("unit", "factor"), [("meter", 1000.0), ("micron", 0.001), ("mm", 1.0)])
def test_units_become_millimetres(unit: str, factor: float) -> None:
    made = nibabel.Nifti1Image(np.zeros((3, 4, 5), np.int16), AFFINE)
    made.header.set_xyzt_units(unit, "sec")
    np.testing.assert_allclose(nifti_volume(bytes(made.to_bytes())).affine[:3], AFFINE[:3] * factor, rtol=1e-6)


def test_one_slice_and_one_line_are_volumes() -> None:
    assert nifti_volume(image(np.zeros((3, 4), np.int16))).shape == (3, 4, 1)
    assert nifti_volume(image(np.zeros((3,), np.int16))).shape == (3, 1, 1)


def test_a_picture_of_it_is_its_axial_slices() -> None:
    values = np.zeros((3, 4, 5), np.int16)
    values[2, 3, 4] = 100  # to the left, in front, towards the head
    pixels = read_pixels(image(values, affine=np.diag([-1.0, 1.0, 3.0, 1.0])))
    assert (pixels.kind, pixels.recipe, pixels.format) == ("volume", "volume-display/1", "nifti")
    assert len(pixels.frames) == 5 and pixels.frames[0].shape == (4, 3) and pixels.frames[0].dtype == np.uint16
    # The front is at the top, and the patient's left at the right edge, as in a DICOM file.
    assert pixels.frames[4][0, 2] > 0 and np.count_nonzero(pixels.frames[4]) == 1
    assert not np.any(list(pixels.frames[:4]))


HOSTILE = {
    "short header": (image()[:300], "not_an_image|unknown_format|truncated"),
    "no voxels": (image()[:352], "truncated"),
    "cut": (image()[:-7], "truncated"),
    "cut gzip": (gzip.compress(image())[:-30], "truncated"),
    "gzip without its end": (gzip.compress(image())[:-4], "truncated"),
    "other gzip": (gzip.compress(image())[:-8] + bytes(8), "decode_failed"),
    "no axes": (patched(image(), dim=[0, 1, 1, 1, 1, 1, 1, 1]), "bad_header"),
    "too many axes": (patched(image(), dim=[8, 1, 1, 1, 1, 1, 1, 1]), "bad_header"),
    "negative side": (patched(image(), dim=[3, 3, -4, 5, 1, 1, 1, 1]), "bad_header"),
    "zero side": (patched(image(), dim=[3, 3, 0, 5, 1, 1, 1, 1]), "bad_header"),
    "all there is": (patched(image(), dim=[3, 32767, 32767, 32767, 1, 1, 1, 1]), "too_large"),
    "many volumes": (patched(image(), dim=[7, 900, 900, 9, 32767, 1, 1, 1]), "too_large"),
    "more than there is": (patched(image(), dim=[3, 300, 400, 500, 1, 1, 1, 1]), "truncated"),
    "begins nowhere": (patched(image(), vox_offset=np.nan), "bad_header"),
    "begins in the header": (patched(image(), vox_offset=20.0), "bad_header"),
    "begins behind the end": (patched(image(), vox_offset=1e9), "truncated"),
    "begins between bytes": (patched(image(), vox_offset=352.5), "bad_header"),
    "no such type": (patched(image(), datatype=77), "bad_header"),
    "colours": (patched(image(), datatype=128), "unsupported_type"),
    "complex": (patched(image(), datatype=32), "unsupported_type"),
    "bits": (patched(image(), datatype=1), "bad_header|unsupported_type"),
    "scaled by nothing finite": (patched(image(), scl_slope=2.0, scl_inter=np.nan), "bad_header"),
    "scaled beyond floats": (patched(image(), scl_slope=3e38), "not_finite"),
    "flat": (patched(image(), srow_x=[0, 0, 0, 0]), "bad_header"),
    "nowhere": (patched(image(), srow_x=[np.inf, 0, 0, 0]), "bad_header"),
    "no quaternion": (patched(image(), sform_code=0, quatern_b=3.0, quatern_c=3.0, qform_code=1), "bad_header"),
    "NaN": (image(np.full((3, 4, 5), np.nan, np.float32)), "not_finite"),
    "infinity": (image(np.full((3, 4, 5), -np.inf, np.float64)), "not_finite"),
    "bomb": (gzip.compress(image() + bytes(64 << 20)), "too_large"),
    "pair": (image()[:344] + b"ni1\0" + image()[348:], "unsupported_format"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_bad_files_are_refused_in_one_sentence(name: str) -> None:
    data, codes = HOSTILE[name]
    with pytest.raises(SourceError) as caught:
        format_of(data)
        nifti_volume(data)
    assert caught.value.code in codes.split("|"), (caught.value.code, str(caught.value))
    assert "\n" not in str(caught.value) and not str(caught.value).endswith(".")
    assert str(caught.value).startswith("the file ")


def test_random_damage_has_an_outcome() -> None:
    rng = np.random.default_rng(11)
    for data in (image(), gzip.compress(image()), image(kind=nibabel.Nifti2Image)):
        for _ in range(400):
            broken = bytearray(data)
            for at in rng.integers(0, min(len(broken), 560), rng.integers(1, 6)):
                broken[at] = int(rng.integers(0, 256))
            try:
                if format_of(bytes(broken)) == "nifti":
                    nifti_volume(bytes(broken[: rng.integers(1, len(broken) + 1)]))
            except SourceError as error:
                assert error.code.isidentifier()


def test_a_volume_over_the_limit_says_how_to_raise_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nifti, "LIMITS", dataclasses.replace(LIMITS, voxels=59))
    with pytest.raises(SourceError, match=r"3 x 4 x 5 voxels, the limit is 59; set OSLER_LIMIT_VOXELS") as caught:
        nifti_volume(image())
    assert caught.value.code == "too_large"


def test_without_nibabel_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    data = image()
    monkeypatch.setitem(sys.modules, "nibabel", None)
    with pytest.raises(
        SourceError, match=r'nibabel, which is not installed; run pip install "osler\[volumes\]"'
    ) as caught:
        nifti_volume(data)
    assert caught.value.code == "missing_decoder"


def test_no_free_text_is_read() -> None:
    """descrip, aux_file, intent_name and extensions may name a patient, and so may what a library logs of them."""
    made = nibabel.Nifti1Image(np.zeros((3, 4, 5), np.int16), AFFINE)
    for field in ("descrip", "aux_file", "intent_name", "db_name"):
        made.header[field] = CANARY.encode()[: made.header[field].dtype.itemsize]
    made.header.extensions.append(nibabel.nifti1.Nifti1Extension("comment", CANARY.encode()))
    dicom = nibabel.nifti1.Nifti1Extension(2, b"\x10\x00\x10\x00PN\x08\x00" + CANARY.encode())
    made.header.extensions.append(dicom)
    data = bytes(made.to_bytes())
    assert CANARY[:10].encode() in data
    volume = nifti_volume(data)
    assert CANARY[:8] not in repr(volume) + repr(dict(volume.findings)) + repr(vars(type(volume)))
    with pytest.raises(SourceError) as caught:
        nifti_volume(data[:-3])
    assert CANARY[:8] not in str(caught.value) and caught.value.__cause__ is None
