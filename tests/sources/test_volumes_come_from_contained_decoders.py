"""Voxels come out of the contained processes as they do here, and nothing that such a process says is believed."""

from __future__ import annotations

import gzip
import platform
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from dicom_files import build, package_files
from osler.errors import SourceError
from osler.sources import Entry, Source, open_source, process, worker
from osler.sources.decoder import Here
from osler.sources.workers import Workers

FILES = Path(nibabel.__file__).parent / "tests" / "data"
# What a process answers about voxels, changed by a decoder that was taken over.
PLANTED = """
import dataclasses, sys
from osler.sources import worker
real = worker.Here.voxels

def voxels(self, data, keep=()):
    found = real(self, data, keep)
    return dataclasses.replace(found, **{change})

worker.Here.voxels = voxels
worker.main(int(sys.argv[1]), sys.argv[2] == "dicom")
"""


def nifti(values: Any = None) -> bytes:
    values = np.arange(60, dtype=np.int16).reshape(3, 4, 5) if values is None else values
    return bytes(nibabel.Nifti1Image(values, np.diag([-1.0, 1.0, 2.0, 1.0])).to_bytes())


@pytest.fixture
def decoder() -> Iterator[Workers]:
    made = Workers(1)
    yield made
    made.close()


def outcome(ask: Callable[[bytes], Any], data: bytes) -> Any:
    try:
        found = ask(data)
    except SourceError as error:
        return error.code, str(error)
    if hasattr(found, "frames"):
        return found.columns, found.planes, [(frame.dtype, frame.shape, frame.tobytes()) for frame in found.frames]
    array = found.array
    return (
        found.columns,
        found.identifiers,
        found.planes,
        found.affine,
        found.unit,
        found.findings,
        (
            array.dtype,
            array.shape,
            array.tobytes(),
        ),
    )


def inputs() -> list[bytes]:
    files = [path.read_bytes() for path in sorted(FILES.glob("*.nii*"))]
    plain = nifti()
    scaled = nibabel.Nifti2Image(np.random.default_rng(0).normal(size=(5, 4, 3)).astype(np.float32), None)
    made = [plain, gzip.compress(plain), bytes(scaled.to_bytes()), plain[:-5], gzip.compress(plain)[:-20], plain[:400]]
    dicom = [path.read_bytes() for path in package_files() if path.stat().st_size < 300_000]
    return [*files, *made, *dicom[::6], b"BM no volume", b"text"]


def test_answers_are_those_of_this_process(decoder: Workers) -> None:
    here, kinds = Here(), set()
    for data in inputs():
        for one, other in ((decoder.decode, here.decode), (decoder.voxels, here.voxels)):
            found = outcome(one, data)
            assert found == outcome(other, data)
            kinds.add(found[0] if isinstance(found[0], str) else found[0].get("format", "dicom"))
    assert {"nifti", "dicom", "several_volumes", "truncated", "not_finite", "not_an_image"} <= kinds
    assert decoder.broken == 0


def test_they_are_decoded_under_the_filter(decoder: Workers) -> None:
    assert decoder.voxels(nifti()).array.any()
    process = decoder._idle.get()
    assert process is not None
    assert process.filtered == (sys.platform == "linux" and platform.machine() in ("x86_64", "aarch64"))
    decoder._idle.put(process)


def test_a_volume_too_large_to_keep_comes_whole_or_slice_by_slice(decoder: Workers) -> None:
    values = np.arange(512 * 512 * 280, dtype=np.uint8).reshape(512, 512, 280)
    data = nifti(values)
    found = decoder.voxels(data)
    np.testing.assert_array_equal(found.array, values)
    frames = decoder.decode(data).frames
    assert not isinstance(frames, tuple) and len(frames) == 280
    wanted = Here().decode(data).frames
    for i in (0, 279, 3):
        np.testing.assert_array_equal(frames[i], wanted[i])


@pytest.mark.parametrize(
    "change",
    [
        "affine=()",
        "affine=((1, 0, 0, 0),) * 3",
        "affine=(('a',) * 4,) * 4",
        "unit='Doe^John'",
        "findings={'Not a code': 'x'}",
        "findings={'code': 'Doe\\x1b[31m'}",
        "findings=['code']",
        "columns={'rows': 1, 'columns': 1, 'frames': 1, 'descrip': 'Doe^John'}",
        "columns={}",
        "identifiers={'patient_id': 'Doe^John'}",
        "planes=(((), (), (), 0.0, False, ()),)",
        "array=found.array.astype('f8')",
        "array=found.array[0]",
        "format='dicom'",
    ],
)
def test_what_a_process_says_is_checked(decoder: Workers, monkeypatch: pytest.MonkeyPatch, change: str) -> None:
    monkeypatch.setattr(process, "PROGRAM", PLANTED.replace("**{change}", change))
    with pytest.raises(SourceError, match="gave no right answer") as caught:
        decoder.voxels(nifti())
    assert caught.value.code == "crashed" and "Doe" not in str(caught.value)


@pytest.mark.parametrize(
    "change",
    [
        "planes=()",
        "planes=found.planes * 2",
        "planes=((*found.planes[0][:1], (1.0, 2.0), *found.planes[0][2:]),)",
        "planes=((*found.planes[0][:2], (0.0, -1.0), *found.planes[0][3:]),)",
        "planes=((*found.planes[0][:3], float('nan'), *found.planes[0][4:]),)",
        "planes=((('x',) * 6, *found.planes[0][1:]),)",
        "affine=((1.0, 0.0, 0.0, 0.0),) * 4",
        "array=found.array[:, :2]",
    ],
)
def test_what_it_says_of_dicom_is_checked(decoder: Workers, monkeypatch: pytest.MonkeyPatch, change: str) -> None:
    monkeypatch.setattr(process, "PROGRAM", PLANTED.replace("**{change}", change))
    with pytest.raises(SourceError, match="gave no right answer"):
        decoder.voxels(next(path for path in package_files() if path.name == "CT_small.dcm").read_bytes())


def test_without_nibabel_the_file_says_what_to_install(decoder: Workers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "PROGRAM", "sys.modules['nibabel'] = None; " + worker.PROGRAM)
    for ask in (decoder.decode, decoder.voxels):
        with pytest.raises(SourceError, match=r'pip install "osler\[volumes\]"') as caught:
            ask(nifti())
        assert caught.value.code == "missing_decoder"


def test_random_damage_costs_no_process(decoder: Workers) -> None:
    rng = np.random.default_rng(7)
    for data in (nifti(), gzip.compress(nifti())):
        for _ in range(150):
            broken = bytearray(data)
            for at in rng.integers(8, min(len(broken), 400), 3):
                broken[at] = int(rng.integers(0, 256))
            assert outcome(decoder.voxels, bytes(broken)) == outcome(Here().voxels, bytes(broken))
    assert decoder.broken == 0


def test_a_source_of_volumes_reads_them_from_these_processes(decoder: Workers, tmp_path: Path) -> None:
    (tmp_path / "a.nii").write_bytes(nifti())
    source = open_source(tmp_path, decoder=decoder)
    item = source.read(source.entries[0])
    assert len(item.values) == 5 and [part.locator.frame for part in item.parts] == [0, 1, 2, 3, 4]
    source.as_volumes()
    whole = source.read(source.entries[0])
    assert len(whole.values) == 1 and whole.parts[0].locator.frame is None
    assert whole.content == item.content and whole.key == item.key == "a.nii"
    np.testing.assert_array_equal(whole.values[0].array, np.arange(60).reshape(3, 4, 5))


def test_a_source_that_is_no_folder_gives_volumes_too() -> None:
    """A server lists the files of a series in any order: where slices lie decides."""
    files = {
        Path(f"{i}"): build(
            np.full((4, 5), 100 * i, np.uint16),
            Modality="MR",
            SeriesInstanceUID="1.2.3",
            SOPInstanceUID=f"1.2.3.{i}",
            ImageOrientationPatient=["1", "0", "0", "0", "1", "0"],
            ImagePositionPatient=["0", "0", str(2 * i)],
            PixelSpacing=["1", "1"],
            InstanceNumber=9 - i,
        )
        for i in (3, 0, 2, 1)
    }

    class Served(Source):
        def _load(self, path: Path) -> bytes:
            return files[path]

    entry = Entry("s", Path("3"), 1, 0, tuple(files), (0, 1, 2, 3))
    source = Served("https://pacs.example", [entry], items="series")
    source.as_volumes()
    item = source.read(entry)
    assert item.values[0].array[0, 0].tolist() == [0, 100, 200, 300]
    assert item.metadata["slice_spacing"] == 2.0 and item.identifiers["series_id"] == "1.2.3"
