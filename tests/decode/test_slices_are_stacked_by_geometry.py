"""DICOM files become a volume by where their slices lie: never by their numbers, and what is missing is told."""

from __future__ import annotations

import dataclasses
import random
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from dicom_files import build, package_files, sequence
from osler.config import LIMITS
from osler.decode import planes, read_volume
from osler.decode import volumes as of_decode
from osler.decode.dicom import DicomFile
from osler.decode.planes import Plane, planes_of, values_of
from osler.decode.stack import stack_of
from osler.errors import SourceError
from osler.items import Volume
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
ROWS, COLUMNS = 4, 6


def scene(point: np.ndarray) -> np.ndarray:
    """A value for each place in the patient (LPS mm), so that a voxel tells where it was taken."""
    x, y, z = np.moveaxis(point, -1, 0)
    return np.asarray(40 * x + 7 * y + z)


def slice_at(
    position: Any, number: int = 1, orientation: Any = AXIAL, spacing: Any = (0.5, 0.75), **elements: Any
) -> bytes:
    """One CT slice of the scene; `elements` replace what is in its header."""
    across, down = np.array(orientation[:3]) * spacing[1], np.array(orientation[3:]) * spacing[0]
    rows, columns = np.mgrid[:ROWS, :COLUMNS]
    points = np.array(position, float) + rows[..., None] * down + columns[..., None] * across
    values = {
        "Modality": "CT",
        "SeriesInstanceUID": "1.2.3",
        "SOPInstanceUID": f"1.2.3.{number}.{abs(hash(tuple(position))) % 10_000}",
        "ImageOrientationPatient": [f"{number:.6f}" for number in orientation],
        "ImagePositionPatient": [f"{number:.4f}" for number in position],
        "PixelSpacing": [str(side) for side in spacing],
        "SliceThickness": "2",
        "InstanceNumber": number,
        "RescaleSlope": "1",
        "RescaleIntercept": "-1024",
    }
    return build(np.rint(scene(points) + 1024).astype(np.uint16), **(values | elements))


def written(folder: Path, files: list[bytes]) -> Path:
    """The files under names in random order."""
    names = [f"{i:02d}" for i in range(len(files))]
    random.Random(5).shuffle(names)
    for name, data in zip(names, files, strict=True):
        (folder / name).write_bytes(data)
    return folder


def stack(folder: Path, heights: Any = range(0, 12, 2), **elements: Any) -> Path:
    return written(folder, [slice_at((-1, -2, z), 99 - i, **elements) for i, z in enumerate(heights)])


def assert_true_to(volume: Volume) -> None:
    """Each voxel holds what the scene has at the place where the affine says that it lies."""
    places = np.stack(np.meshgrid(*(np.arange(side) for side in volume.shape), indexing="ij"), axis=-1)
    points = places @ volume.affine[:3, :3].T + volume.affine[:3, 3]
    np.testing.assert_allclose(volume.array, scene(points * [-1, -1, 1]), atol=0.51)


def test_voxels_lie_where_the_affine_says(tmp_path: Path) -> None:
    volume = read_volume(stack(tmp_path))
    assert volume.shape == (COLUMNS, ROWS, 6) and volume.units == "HU" and volume.array.dtype == np.int16
    np.testing.assert_allclose(volume.spacing, (0.75, 0.5, 2.0))
    np.testing.assert_allclose(volume.affine[:3, 3], (1, 2, 0))
    assert_true_to(volume)
    assert not volume.findings


@pytest.mark.parametrize(
    "orientation",
    [
        (0.0, 1.0, 0.0, 0.0, 0.0, -1.0),
        (1.0, 0.0, 0.0, 0.0, 0.0, -1.0),
        (-1.0, 0.0, 0.0, 0.0, 1.0, 0.0),
        (0.96592583, 0.25881905, 0.0, -0.25881905, 0.96592583, 0.0),
        (0.8, 0.0, 0.6, 0.0, 1.0, 0.0),
    ],
)
def test_any_orientation(tmp_path: Path, orientation: Any) -> None:
    normal = np.cross(orientation[:3], orientation[3:])
    files = [slice_at(np.array([5, 6, 7]) + 3 * i * normal, i, orientation) for i in range(5)]
    volume = read_volume(written(tmp_path, files))
    assert_true_to(volume)
    np.testing.assert_allclose(volume.spacing, (0.75, 0.5, 3.0), atol=1e-5)


def test_it_agrees_with_a_nifti_of_the_same_scan(tmp_path: Path) -> None:
    from osler.decode.nifti import nifti_volume
    from osler.decode.volumes import oriented

    volume = read_volume(stack(tmp_path))
    turned, affine = oriented(volume.array, volume.affine, "RAS")
    again = nifti_volume(bytes(nibabel.Nifti1Image(turned, affine).to_bytes()))
    for one, other in zip(
        oriented(again.array, again.affine, "LPS"), oriented(volume.array, volume.affine, "LPS"), strict=True
    ):
        np.testing.assert_allclose(one, other, atol=1e-5)


def test_a_missing_slice_is_refused_and_says_where(tmp_path: Path) -> None:
    folder = stack(tmp_path, [0, 2, 4, 8, 10, 12, 14, 16])
    with pytest.raises(SourceError) as caught:
        read_volume(folder)
    assert caught.value.code == "missing_slices"
    assert str(caught.value) == (
        "1 of 9 slices is missing, the first between 4.0 and 8.0 mm; get the whole series, or pass gaps='fill' to take "
        "values between neighbours"
    )
    volume = read_volume(folder, gaps="fill")
    assert volume.shape[2] == 9 and volume.spacing[2] == pytest.approx(2.0) and volume.array.dtype == np.float32
    assert_true_to(volume)
    assert "1 of 9 slices is missing" in volume.findings["missing_slices"]


def test_several_gaps_are_counted(tmp_path: Path) -> None:
    folder = stack(tmp_path, [z for z in range(0, 60, 3) if z not in (9, 12, 30, 48)])
    with pytest.raises(
        SourceError, match=r"4 of 20 slices are missing, the first between 6.0 and 15.0 mm, and in 2 more"
    ):
        read_volume(folder)
    assert_true_to(read_volume(folder, gaps="fill"))


def test_uneven_distances_are_refused(tmp_path: Path) -> None:
    folder = stack(tmp_path, [0, 1, 2, 3.5, 5, 7.5, 10])
    with pytest.raises(SourceError, match=r"the slices lie 1\.00 to 2\.50 mm apart") as caught:
        read_volume(folder)
    assert caught.value.code == "irregular_spacing"
    volume = read_volume(folder, gaps="fill")
    assert_true_to(volume)
    assert volume.array.min() >= -1024 and "were brought to 1.50 mm" in volume.findings["irregular_spacing"]


def test_positions_that_are_rounded_are_even(tmp_path: Path) -> None:
    volume = read_volume(stack(tmp_path, [round(0.625 * i, 1) for i in range(30)]))
    assert not volume.findings and volume.spacing[2] == pytest.approx(0.625, abs=0.003)


def test_a_tilted_gantry_is_told_and_kept_in_the_affine(tmp_path: Path) -> None:
    tilt = np.tan(np.radians(20))
    files = [slice_at((0, 5 * i * tilt, 5 * i), i) for i in range(6)]
    volume = read_volume(written(tmp_path, files))
    assert "tilted by 20.0 degrees" in volume.findings["gantry_tilt"]
    assert_true_to(volume)


def test_shifted_slices_are_no_stack(tmp_path: Path) -> None:
    files = [slice_at((3 * (i % 2), 0, 2 * i), i) for i in range(6)]
    with pytest.raises(SourceError, match=r"shifted by up to \d\.\d mm within their planes") as caught:
        read_volume(written(tmp_path, files))
    assert caught.value.code == "irregular_spacing"


def test_localizers_are_left_out(tmp_path: Path) -> None:
    scouts = [
        slice_at((0, 0, 0), 50 + i, orientation, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
        for i, orientation in enumerate([(1.0, 0.0, 0.0, 0.0, 0.0, -1.0), (0.0, 1.0, 0.0, 0.0, 0.0, -1.0)])
    ]
    stack(tmp_path)
    for i, scout in enumerate(scouts):
        (tmp_path / f"scout{i}").write_bytes(scout)
    volume = read_volume(tmp_path)
    assert volume.shape[2] == 6
    assert dict(volume.findings) == {"localizers_left_out": "2 slices of a localizer were left out"}


def test_mixed_orientations_are_refused_and_a_stray_is_told(tmp_path: Path) -> None:
    coronal = (1.0, 0.0, 0.0, 0.0, 0.0, -1.0)
    stack(tmp_path, range(0, 40, 2))
    (tmp_path / "stray").write_bytes(slice_at((0, 0, 0), 1, coronal))
    volume = read_volume(tmp_path)
    assert volume.shape[2] == 20 and "1 slice of another orientation" in volume.findings["strays_left_out"]
    for i in range(6):
        (tmp_path / f"coronal{i}").write_bytes(slice_at((0, 2 * i, 0), i, coronal))
    with pytest.raises(SourceError, match="mixes 2 orientations, sizes or spacings, of 20 and 7 slices") as caught:
        read_volume(tmp_path)
    assert caught.value.code == "mixed_orientations"


def test_several_volumes_of_one_place_are_refused_or_chosen(tmp_path: Path) -> None:
    files = []
    for time in (0, 1):
        for z in (0, 2, 4):
            data = slice_at((0, 0, z), 10 * time + z, RescaleIntercept=str(-1024 + 100 * time), AcquisitionNumber=time)
            files.append(data)
    folder = written(tmp_path, files)
    with pytest.raises(SourceError, match="holds 2 images of each of its 3 places") as caught:
        read_volume(folder)
    assert caught.value.code == "several_volumes"
    first, second = (read_volume(folder, time=time) for time in (0, 1))
    assert (second.array - first.array == 100).all()
    with pytest.raises(SourceError, match="time is 2, and the series holds 2"):
        read_volume(folder, time=2)


def test_one_place_twice_is_refused_and_a_copy_is_told(tmp_path: Path) -> None:
    stack(tmp_path)
    (tmp_path / "copy").write_bytes(slice_at((-1, -2, 4), 500, SOPInstanceUID="1.2.9"))
    volume = read_volume(tmp_path)
    assert volume.shape[2] == 6 and dict(volume.findings) == {
        "copies_left_out": "1 slice was left out as copies of others"
    }
    (tmp_path / "other").write_bytes(slice_at((-1, -2, 4), 501, RescaleIntercept="0"))
    with pytest.raises(SourceError, match=r"1 of 6 places .* more than one image, the first at 4\.0 mm") as caught:
        read_volume(tmp_path)
    assert caught.value.code == "duplicate_positions"


@pytest.mark.parametrize("keyword", ["ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"])
def test_no_geometry_is_no_volume(tmp_path: Path, keyword: str) -> None:
    with pytest.raises(SourceError, match="6 of 6 slices state no position, orientation or pixel spacing") as caught:
        read_volume(stack(tmp_path, **{keyword: None}))
    assert caught.value.code == "no_geometry"


def test_directions_that_are_none_count_as_none(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="state no position"):
        read_volume(stack(tmp_path, ImageOrientationPatient=["1", "0", "0", "1", "0", "0"]))


def test_one_slice_is_no_volume(tmp_path: Path) -> None:
    (tmp_path / "one").write_bytes(slice_at((0, 0, 0)))
    for source in (tmp_path, tmp_path / "one"):
        with pytest.raises(SourceError, match="one slice") as caught:
            read_volume(source)
        assert caught.value.code == "one_slice"


def test_each_slice_has_its_own_rescale(tmp_path: Path) -> None:
    """As PET has: the stored numbers differ, the values do not."""
    files = []
    for i, slope in enumerate((1, 0.5, 0.25, 2.5)):
        data = np.full((ROWS, COLUMNS), 100 / slope, np.uint16)
        files.append(
            build(
                data,
                Modality="PT",
                SeriesInstanceUID="1.2.3",
                SOPInstanceUID=f"1.2.{i}",
                ImageOrientationPatient=list(map(str, AXIAL)),
                ImagePositionPatient=["0", "0", str(i)],
                PixelSpacing=["1", "1"],
                RescaleSlope=str(slope),
                RescaleIntercept="0",
            )
        )
    volume = read_volume(written(tmp_path, files))
    assert (volume.array == 100).all() and volume.units == ""


@pytest.mark.parametrize("signed", [False, True])
def test_monochrome1_is_inverted_where_there_is_no_unit(signed: bool) -> None:
    values = np.array([[0, 1, 2, 4095]], np.int16 if signed else np.uint16)
    header = {"PhotometricInterpretation": "MONOCHROME1", "BitsStored": 16}
    found, unit = values_of(DicomFile(build(values, **header, Modality="MR")))
    top = -1 if signed else 65535
    assert (found[0] == top - values.astype(np.int32)).all() and unit == ""
    found, unit = values_of(DicomFile(build(values, **header, Modality="CT")))
    assert (found[0] == values).all() and unit == "HU"


def enhanced(heights: list[float], **elements: Any) -> bytes:
    """A multi-frame CT with functional groups: position, rescale and order of each frame."""
    frames = [
        scene(
            np.array([-1, -2, z]) + np.mgrid[:ROWS, :COLUMNS][[1, 0]].transpose(1, 2, 0) @ [[0.75, 0, 0], [0, 0.5, 0]]
        )
        for z in heights
    ]
    groups = []
    for i, z in enumerate(heights):
        own = Dataset()
        own.PlanePositionSequence = sequence(ImagePositionPatient=["-1", "-2", str(z)])
        own.PixelValueTransformationSequence = sequence(
            RescaleSlope="1", RescaleIntercept=str(-1024 - i), RescaleType="HU"
        )
        groups.append(own)
    shared = Dataset()
    shared.PlaneOrientationSequence = sequence(ImageOrientationPatient=list(map(str, AXIAL)))
    shared.PixelMeasuresSequence = sequence(PixelSpacing=["0.5", "0.75"], SliceThickness="2")
    stored = np.rint([frame + 1024 + i for i, frame in enumerate(frames)]).astype(np.uint16)
    header: dict[str, Any] = {
        "SOPClassUID": "1.2.840.10008.5.1.4.1.1.2.1",
        "Modality": "CT",
        "SeriesInstanceUID": "1.2.3",
        "NumberOfFrames": len(heights),
        "SharedFunctionalGroupsSequence": Sequence([shared]),
        "PerFrameFunctionalGroupsSequence": Sequence(groups),
    }
    return build(stored, **(header | elements))


def test_frames_of_an_enhanced_file_are_stacked(tmp_path: Path) -> None:
    path = tmp_path / "enhanced"
    path.write_bytes(enhanced([4.0, 0.0, 2.0, 8.0, 6.0]))
    volume = read_volume(path)
    assert volume.shape == (COLUMNS, ROWS, 5) and volume.units == "HU"
    assert_true_to(volume)
    path.write_bytes(enhanced([4.0, 0.0, 2.0, 8.0, 10.0]))
    with pytest.raises(SourceError, match=r"1 of 6 slices is missing, the first between 4.0 and 8.0 mm"):
        read_volume(path)
    assert read_volume(path, gaps="fill").shape[2] == 6


def test_frames_without_places_have_none(tmp_path: Path) -> None:
    path = tmp_path / "cine"
    path.write_bytes(enhanced([0.0, 2.0], PerFrameFunctionalGroupsSequence=None, SharedFunctionalGroupsSequence=None))
    with pytest.raises(SourceError, match="2 of 2 slices state no position"):
        read_volume(path)


def test_other_files_and_series_of_a_folder(tmp_path: Path) -> None:
    stack(tmp_path)
    (tmp_path / "notes.txt").write_text("text")
    (tmp_path / "report").write_bytes(build(None, SOPClassUID="1.2.840.10008.5.1.4.1.1.88.11"))
    assert read_volume(tmp_path).shape[2] == 6
    (tmp_path / "other").write_bytes(slice_at((0, 0, 0), SeriesInstanceUID="9"))
    with pytest.raises(SourceError, match="holds 2 DICOM series") as caught:
        read_volume(tmp_path)
    assert caught.value.code == "several_series"
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(SourceError, match="holds no DICOM series") as caught:
        read_volume(empty)
    assert caught.value.code == "no_series"


def test_a_truncated_file_is_named_by_its_number(tmp_path: Path) -> None:
    stack(tmp_path)
    (tmp_path / "02").write_bytes((tmp_path / "02").read_bytes()[:-4])
    with pytest.raises(SourceError, match="file 3 of the volume is truncated"):
        read_volume(tmp_path)


def test_colour_and_pictures_are_no_volumes(tmp_path: Path) -> None:
    from PIL import Image

    (tmp_path / "c").write_bytes(build(np.zeros((4, 4, 3), np.uint8)))
    with pytest.raises(SourceError, match="pixels in colour") as caught:
        read_volume(tmp_path / "c")
    assert caught.value.code == "not_a_volume"
    Image.new("L", (4, 4)).save(tmp_path / "p.png")
    with pytest.raises(SourceError, match=r"is a picture \(png\), and this takes volumes") as caught:
        read_volume(tmp_path / "p.png")
    assert caught.value.code == "not_a_volume"


def test_too_many_voxels_are_refused_before_decoding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planes, "LIMITS", dataclasses.replace(LIMITS, voxels=100))
    with pytest.raises(SourceError, match="5 frames of 4 x 6 voxels, the limit is 100") as caught:
        path = tmp_path / "e"
        path.write_bytes(enhanced([0.0, 2.0, 4.0, 6.0, 8.0]))
        read_volume(path)
    assert caught.value.code == "too_large"


def test_too_many_voxels_of_a_series_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from osler.sources import open_source
    from osler.sources import volumes as of_sources

    few = dataclasses.replace(LIMITS, voxels=5 * ROWS * COLUMNS)
    for module in (of_decode, of_sources):
        monkeypatch.setattr(module, "LIMITS", few)
    with pytest.raises(SourceError, match="the volume has more than 120 voxels; set OSLER_LIMIT_VOXELS") as caught:
        read_volume(stack(tmp_path))
    assert caught.value.code == "too_large"
    source = open_source(tmp_path, items="series")
    source.as_volumes()
    with pytest.raises(SourceError, match="the series has more than 120 voxels"):
        source.read(source.entries[0])


def test_gaps_is_one_of_two() -> None:
    with pytest.raises(ValueError, match="gaps is 'ignore'; use 'refuse' or 'fill'"):
        read_volume("x", gaps="ignore")  # type: ignore[arg-type]


def test_real_series_of_the_packages() -> None:
    """Two series that pydicom ships: five slices of 2.5 mm, and an enhanced file whose rows go to the right."""
    by_series: dict[str, list[Path]] = {}
    for path in package_files():
        if path.name.startswith(("CT", "77654033", "98892")) or "eCT" in path.name:
            continue
        try:
            file = DicomFile(path.read_bytes())
        except SourceError:
            continue
        if str(file.value("Modality")) == "CT" and planes_of(file, 1)[0].position:
            by_series.setdefault(str(file.value("SeriesInstanceUID")), []).append(path)
    five = next(paths for paths in by_series.values() if len(paths) == 5)
    volume = read_volume(five)
    assert volume.shape == (16, 16, 5) and volume.units == "HU" and not volume.findings
    np.testing.assert_allclose(volume.spacing, (0.488281, 0.488281, 2.5))
    enhanced_file = next(path for path in package_files() if path.name == "eCT_Supplemental.dcm")
    volume = read_volume(enhanced_file)
    assert volume.shape == (512, 512, 2) and volume.affine[0, 0] > 0


def test_planes_alone() -> None:
    """Order is by place, whatever the numbers say and however the planes came."""
    places = [3.0, 1.0, 2.0, 0.0]
    given = [Plane(AXIAL, (0.0, 0.0, z), (1.0, 1.0), 1.0, False, (float(i),)) for i, z in enumerate(places)]
    assert stack_of(given, [(2, 2)] * 4).order == (3, 1, 2, 0)
