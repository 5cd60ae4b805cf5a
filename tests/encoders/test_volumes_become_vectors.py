"""A volume is one vector: whole by a 3-D encoder, or its slices by an encoder of pictures, pooled by a formula."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import onnx
import osler
import pytest
from dicom_files import build
from onnx import TensorProto, helper, numpy_helper
from osler.decode import read_volume
from osler.decode.volumes import Slices
from osler.encoders.check import check_encoder
from osler.encoders.slices import pool_slices
from osler.encoders.volume_recipe import AnyStep
from osler.encoders.volume_steps import apply_volume_recipe
from osler.errors import EncoderError, SourceError
from osler.items import Volume
from PIL import Image
from pydantic import TypeAdapter
from tiny_encoder import TinyEncoder, tiny_encoder, tiny_volume_encoder

FORMULAS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "mean": lambda v: np.array([sum(column) / len(column) for column in v.T]),
    "median": lambda v: np.array([np.sort(column)[[(len(v) - 1) // 2, len(v) // 2]].mean() for column in v.T]),
    "max": lambda v: np.array([max(column) for column in v.T]),
    "std": lambda v: np.array([np.sqrt(np.mean((column - np.mean(column)) ** 2)) for column in v.T]),
}


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(8)


@pytest.fixture
def made(tmp_path: Path, rng: np.random.Generator) -> TinyEncoder:
    encoder = tiny_volume_encoder(tmp_path / "three", rng)
    encoder.save()
    return encoder


@pytest.fixture
def encoder(made: TinyEncoder) -> osler.Encoder:
    return osler.load_encoder(made.folder)


@pytest.fixture
def flat(tmp_path: Path, rng: np.random.Generator) -> osler.Encoder:
    """An encoder of pictures."""
    return osler.load_encoder(tiny_encoder(tmp_path / "two", rng).save())


def scan(rng: np.random.Generator, shape: tuple[int, ...] = (8, 7, 6)) -> Volume:
    values = rng.integers(-1000, 1000, shape).astype(np.int16)
    return Volume(values, np.diag([-1.5, -1.5, 2.5, 1.0]), units="HU")


def saved(volume: Volume, path: Path) -> Path:
    nibabel.save(nibabel.Nifti1Image(volume.array, volume.affine), path)
    return path


def series(volume: Volume, folder: Path, skip: tuple[int, ...] = ()) -> Path:
    """The same volume as a DICOM series: rows go to the left, columns to the back."""
    folder.mkdir()
    _, rows, slices = volume.shape
    for k in range(slices):
        if k in skip:
            continue
        position = volume.affine @ [0, rows - 1, k, 1]
        position[:2] *= -1
        pixels = volume.array[:, ::-1, k].T.astype(np.int32) + 1024
        (folder / f"{slices - k:02d}").write_bytes(
            build(
                pixels.astype(np.uint16),
                Modality="CT",
                SeriesInstanceUID="1.2.3",
                SOPInstanceUID=f"1.2.3.{k}",
                ImageOrientationPatient=["1", "0", "0", "0", "-1", "0"],
                ImagePositionPatient=[f"{x:.3f}" for x in position[:3]],
                PixelSpacing=["1.5", "1.5"],
                SliceThickness="2.5",
                InstanceNumber=k,
                RescaleSlope="1",
                RescaleIntercept="-1024",
            )
        )
    return folder


def unit(vector: np.ndarray) -> np.ndarray:
    return np.asarray(vector / np.linalg.norm(vector))


def test_a_whole_volume(made: TinyEncoder, encoder: osler.Encoder, rng: np.random.Generator) -> None:
    assert (encoder.takes, encoder.dim, encoder.modalities) == ("volume", 5, ("image",))
    volumes = [scan(rng), scan(rng, (4, 9, 3)), scan(rng)]
    steps = TypeAdapter(tuple[AnyStep, ...]).validate_python(made.manifest["image"]["recipe"], strict=False)
    wanted = [unit(apply_volume_recipe(steps, one).ravel() @ made.image_weights) for one in volumes]
    found = encoder.encode_images(volumes)
    np.testing.assert_allclose(found, wanted, atol=1e-5)
    np.testing.assert_array_equal(found[1:2], encoder.encode_images([volumes[1]], batch_size=1))
    np.testing.assert_allclose(pickle.loads(pickle.dumps(encoder)).encode_images(volumes), found, atol=1e-6)


def test_a_volume_is_the_same_in_every_form(encoder: osler.Encoder, tmp_path: Path, rng: np.random.Generator) -> None:
    volume = scan(rng)
    path = saved(volume, tmp_path / "scan.nii.gz")
    folder = series(volume, tmp_path / "series")
    forms: list[Any] = [volume, path, str(path), folder, sorted(folder.iterdir())]
    found = encoder.encode_images(forms)
    np.testing.assert_allclose(found, np.repeat(found[:1], len(forms), axis=0), atol=2e-4)
    np.testing.assert_array_equal(found[1], found[2])


@pytest.mark.parametrize("pooling", FORMULAS)
def test_slices_are_pooled_by_the_formula(flat: osler.Encoder, rng: np.random.Generator, pooling: str) -> None:
    volumes = [scan(rng), scan(rng, (5, 5, 4)), scan(rng, (6, 9, 7))]
    for axis in ("axial", "coronal", "sagittal"):
        found = flat.encode_volumes(volumes, pooling, axis=axis, window=(-500, 500))  # type: ignore[arg-type]
        for row, volume in zip(found, volumes, strict=True):
            vectors = flat.encode_images(list(Slices(volume, axis, (-500, 500)))).astype(np.float64)  # type: ignore[arg-type]
            np.testing.assert_allclose(row, unit(FORMULAS[pooling](vectors)), atol=1e-6)


def test_pooling_does_not_depend_on_batches(flat: osler.Encoder, rng: np.random.Generator) -> None:
    volume = scan(rng, (6, 6, 20))
    one = flat.encode_volumes([volume], batch_size=1)
    np.testing.assert_array_equal(one, flat.encode_volumes([volume], batch_size=7))
    assert one.shape == (1, 5) and np.linalg.norm(one) == pytest.approx(1.0, abs=1e-6)


def test_slices_of_files_and_of_series(flat: osler.Encoder, tmp_path: Path, rng: np.random.Generator) -> None:
    volume = scan(rng)
    path, folder = saved(volume, tmp_path / "scan.nii"), series(volume, tmp_path / "series")
    found = flat.encode_volumes([volume, path, folder])
    np.testing.assert_allclose(found, np.repeat(found[:1], 3, axis=0), atol=1e-6)


def pooling_network(path: Path, rank: int = 2, output: str = "ReduceMean") -> Path:
    """Attention of one query over slices, as a graph: softmax(V q) V."""
    query = np.random.default_rng(1).standard_normal((5, 1)).astype(np.float32) * 4
    shape: list[Any] = ["slices", 5] if rank == 2 else [1, "slices", 5]
    nodes = [
        helper.make_node("MatMul", ["slices", "query"], ["scores"]),
        helper.make_node("Softmax", ["scores"], ["weights"], axis=rank - 2),
        helper.make_node("Mul", ["weights", "slices"], ["weighted"]),
        helper.make_node("ReduceSum", ["weighted", "axis"], ["vector"], keepdims=0),
    ]
    graph = helper.make_graph(
        nodes,
        "pooler",
        [helper.make_tensor_value_info("slices", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("vector", TensorProto.FLOAT, [5] if rank == 2 else [1, 5])],
        [numpy_helper.from_array(query, "query"), numpy_helper.from_array(np.array([rank - 2]), "axis")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    path.write_bytes(model.SerializeToString())
    return path


@pytest.mark.parametrize("rank", [2, 3])
@pytest.mark.parametrize("as_folder", [False, True])
def test_a_learned_pooler(
    flat: osler.Encoder, tmp_path: Path, rng: np.random.Generator, rank: int, as_folder: bool
) -> None:
    folder = tmp_path / "pooler"
    folder.mkdir()
    path = pooling_network(folder / "pool.onnx", rank)
    query = numpy_helper.to_array(onnx.load(path).graph.initializer[0])[:, 0].astype(np.float64)
    volume = scan(rng)
    vectors = flat.encode_images(list(Slices(volume))).astype(np.float64)
    weights = np.exp(vectors @ query) / np.exp(vectors @ query).sum()
    found = flat.encode_volumes([volume, volume], folder if as_folder else str(path))
    np.testing.assert_allclose(found[0], unit(weights @ vectors), atol=1e-5)
    np.testing.assert_array_equal(found[0], found[1])
    assert np.abs(found[0] - flat.encode_volumes([volume])[0]).max() > 1e-3


def test_wrong_poolers(flat: osler.Encoder, tmp_path: Path, rng: np.random.Generator) -> None:
    volume = scan(rng)
    with pytest.raises(ValueError, match=r"pooling is neither one of 'mean', 'median', 'max', 'std' nor an ONNX file"):
        flat.encode_volumes([volume], "average")
    (tmp_path / "empty").mkdir()
    with pytest.raises(EncoderError, match=r"holds 0 files of the kind \.onnx"):
        flat.encode_volumes([volume], tmp_path / "empty")
    (tmp_path / "bad.onnx").write_bytes(b"no model")
    with pytest.raises(EncoderError):
        flat.encode_volumes([volume], tmp_path / "bad.onnx")
    graph = onnx.load(pooling_network(tmp_path / "fixed.onnx"))
    graph.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 3
    (tmp_path / "fixed.onnx").write_bytes(graph.SerializeToString())
    with pytest.raises(EncoderError, match=r"takes \(3, 5\), and the 6 slices of volume 0"):
        flat.encode_volumes([volume], tmp_path / "fixed.onnx")
    # One that keeps the slices apart is no pooler.
    graph = helper.make_graph(
        [helper.make_node("Identity", ["slices"], ["vector"])],
        "no pooler",
        [helper.make_tensor_value_info("slices", TensorProto.FLOAT, ["n", 5])],
        [helper.make_tensor_value_info("vector", TensorProto.FLOAT, ["n", 5])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    (tmp_path / "none.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(EncoderError, match=r"gives an array \(6, 5\) for volume 0"):
        flat.encode_volumes([volume], tmp_path / "none.onnx")


def test_pooling_that_is_zero_says_so(flat: osler.Encoder) -> None:
    one = Volume(np.arange(16).reshape(4, 4, 1), np.eye(4))
    with pytest.raises(ValueError, match="the std over the slices of volume 0 is zero"):
        flat.encode_volumes([one], "std")
    assert flat.encode_volumes([one], "max").shape == (1, 5)
    with pytest.raises(ValueError, match="is zero"):
        pool_slices(np.array([[1.0, 0.0], [-1.0, 0.0]]), "mean")


def test_each_is_told_what_the_other_takes(
    flat: osler.Encoder, encoder: osler.Encoder, tmp_path: Path, rng: np.random.Generator
) -> None:
    volume = scan(rng)
    with pytest.raises(
        ValueError, match="image 1 is a volume, and the encoder tiny takes pictures; use encode_volumes"
    ):
        flat.encode_images([np.zeros((4, 4), np.uint8), volume])
    with pytest.raises(ValueError, match=r"image 0 has 6 frames; .* encode_volumes"):
        flat.encode_images([saved(volume, tmp_path / "scan.nii")])
    with pytest.raises(IsADirectoryError, match=r"image 0 is a folder; .* encode_volumes"):
        flat.encode_images([tmp_path])
    with pytest.raises(ValueError, match="tiny-3d takes volumes itself; use encode_images"):
        encoder.encode_volumes([volume])
    with pytest.raises(
        TypeError, match=r"image 0 is an array and no volume; pass a NIfTI file.*Volume\(array, affine\)"
    ):
        encoder.encode_images([np.zeros((4, 4, 4))])
    picture = Image.new("L", (4, 4))
    with pytest.raises(TypeError, match="image 0 is a Image and no volume"):
        encoder.encode_images([picture])
    picture.save(tmp_path / "p.png")
    with pytest.raises(SourceError, match=r"image 0 is a picture \(png\), and this takes volumes"):
        encoder.encode_images([tmp_path / "p.png"])
    with pytest.raises(FileNotFoundError, match="image 0 does not exist"):
        encoder.encode_images([tmp_path / "none.nii"])
    for call in (encoder.encode_images, flat.encode_images):
        with pytest.raises(TypeError, match="images is a single volume"):
            call(volume)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="volumes is a single volume"):
        flat.encode_volumes(volume)  # type: ignore[arg-type]


def test_a_series_with_a_missing_slice_is_named_by_its_place(
    encoder: osler.Encoder, flat: osler.Encoder, tmp_path: Path, rng: np.random.Generator
) -> None:
    volume = scan(rng)
    whole, holed = series(volume, tmp_path / "a"), series(volume, tmp_path / "b", skip=(3,))
    for call in (encoder.encode_images, flat.encode_volumes):
        with pytest.raises(
            SourceError, match=r"1 of 6 slices is missing, the first between 5\.0 and 10\.0 mm"
        ) as caught:
            call([whole, holed])
        assert caught.value.code == "missing_slices"
    filled = read_volume(holed, gaps="fill")
    assert encoder.encode_images([filled]).shape == (1, 5)


def test_a_file_of_several_volumes_says_what_to_do(encoder: osler.Encoder, tmp_path: Path) -> None:
    path = tmp_path / "4d.nii"
    nibabel.save(nibabel.Nifti1Image(np.zeros((4, 4, 4, 3), np.int16), np.eye(4)), path)
    with pytest.raises(SourceError, match=r"image 0 holds 3 volumes .* read one of them with osler.decode.read_volume"):
        encoder.encode_images([path])
    assert encoder.encode_images([read_volume(path, time=2)]).shape == (1, 5)


def test_the_recipe_is_part_of_the_fingerprint(made: TinyEncoder, encoder: osler.Encoder) -> None:
    seen = {encoder.fingerprint}
    recipe = made.manifest["image"]["recipe"]
    for at, change in (
        (0, {"codes": "LPS"}),
        (1, {"spacing": [1.0, 2.0, 2.0]}),
        (2, {"low": -900.0}),
        (3, {"value": 1.0}),
    ):
        made.manifest["image"]["recipe"] = [step | change if i == at else step for i, step in enumerate(recipe)]
        made.save()
        seen.add(osler.load_encoder(made.folder).fingerprint)
    assert len(seen) == 5


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"layout": "NCHW"}, "layout NCDHW belongs to a recipe for volumes"),
        ({"recipe": [{"op": "orient"}, {"op": "rgb"}]}, "mixes steps for volumes with steps for pictures"),
        ({"recipe": [{"op": "channels", "count": 3}, {"op": "orient"}]}, "step channels must be the last one"),
        ({"recipe": [{"op": "rgb"}]}, "layout NCDHW belongs to a recipe for volumes"),
    ],
)
def test_a_manifest_cannot_mix_pictures_and_volumes(made: TinyEncoder, change: dict[str, Any], words: str) -> None:
    made.manifest["image"] |= change
    with pytest.raises(EncoderError, match=words):
        osler.load_encoder(made.save())


def test_a_recipe_of_another_size_than_the_model_says_so(made: TinyEncoder, rng: np.random.Generator) -> None:
    made.manifest["image"]["recipe"] = [{"op": "orient"}]
    with pytest.raises(EncoderError, match=r"the recipe gives \(1, 8, 7, 6\), the model takes \(1, 6, 5, 4\)"):
        osler.load_encoder(made.save()).encode_images([scan(rng)])


def test_golden_volumes_have_affines(made: TinyEncoder, encoder: osler.Encoder, rng: np.random.Generator) -> None:
    volume = scan(rng)
    vectors = encoder.encode_images([volume])
    np.savez(
        made.folder / "golden.npz",
        image_0=volume.array,
        image_0_affine=volume.affine,
        image_vectors=vectors,
    )
    made.manifest["golden"] = {"file": made.enter("golden.npz"), "cosine": 0.9999}
    assert check_encoder(osler.load_encoder(made.save())).passed
    np.savez(made.folder / "golden.npz", image_0=volume.array, image_0_affine=np.eye(4), image_vectors=vectors)
    made.manifest["golden"]["file"] = made.enter("golden.npz")
    assert not check_encoder(osler.load_encoder(made.save())).passed


def test_progress_is_told_and_nothing_is_an_answer(flat: osler.Encoder, rng: np.random.Generator) -> None:
    steps: list[tuple[int, int]] = []
    flat.encode_volumes([scan(rng), scan(rng)], progress=lambda done, total: steps.append((done, total)))
    assert steps[-1] == (2, 2)
    assert flat.encode_volumes([]).shape == (0, 5)
