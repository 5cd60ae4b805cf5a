"""Pictures a second from files to vectors, beside the model alone and beside PyTorch, in rounds of the same run.

`make bench-encoding`, or `python bench/encoding.py [--device cuda] [--rounds N]` where the extra export is installed;
writes `results/encoding-MACHINE.md`. EfficientNet-Lite0 has its own weights, ViT-B/16 (that of CLIP) random ones, which
cost the same. On a GPU it also says which share of the time the device was busy, and measures half precision.
"""

from __future__ import annotations

import argparse
import itertools
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import machine
import numpy as np

BENCH = Path(__file__).resolve().parent
MODELS = BENCH.parent / "models"
sys.path.insert(0, str(BENCH.parent / "tests" / "export"))

# GFLOP of one picture: multiply-adds of the published architectures, two operations each
WORK = {"efficientnet-lite0": 0.79, "datacomp-b16": 35.1}
# of these also what `osler index build` does: decoded in processes of their own, committed; of so many copies of each
# file, of the small model, that starting those processes is no large part of it
INTO = {0: "512 px JPEG, into a collection", 2: "512 px CT, into a collection"}
COPIES = {"efficientnet-lite0": 10}
KINDS = ("512 px JPEG in colour", "512 px PNG in grey", "512 px CT in 16 bit, DICOM", "224 px JPEG in colour")


def write_files(folder: Path, count: int) -> dict[str, list[Path]]:
    """Write files of each kind from the sample pictures, no two alike."""
    from PIL import Image

    with np.load(MODELS / "samples.npz", allow_pickle=False) as archive:
        samples = [Image.fromarray(archive[name]) for name in archive.files]
    found: dict[str, list[Path]] = {kind: [] for kind in KINDS}
    for number in range(count):
        picture = samples[number % len(samples)].resize((512, 512), Image.Resampling.BICUBIC).rotate(7 * number)
        found[KINDS[0]].append(folder / f"{number}.jpg")
        picture.convert("RGB").save(found[KINDS[0]][-1], quality=92)
        found[KINDS[1]].append(folder / f"{number}.png")
        picture.convert("L").save(found[KINDS[1]][-1])
        found[KINDS[2]].append(folder / f"{number}.dcm")
        _ct(np.asarray(picture.convert("L")), found[KINDS[2]][-1])
        found[KINDS[3]].append(folder / f"{number} small.jpg")
        picture.convert("RGB").resize((224, 224), Image.Resampling.BICUBIC).save(found[KINDS[3]][-1], quality=92)
    return found


def _ct(picture: np.ndarray, path: Path) -> None:
    import pydicom
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.TransferSyntaxUID = CTImageStorage, ExplicitVRLittleEndian
    meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=[path.name])
    made = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    made.SOPClassUID, made.SOPInstanceUID, made.Modality = CTImageStorage, meta.MediaStorageSOPInstanceUID, "CT"
    made.Rows, made.Columns, made.SamplesPerPixel, made.PhotometricInterpretation = *picture.shape, 1, "MONOCHROME2"
    made.BitsAllocated, made.BitsStored, made.HighBit, made.PixelRepresentation = 16, 12, 11, 0
    made.RescaleSlope, made.RescaleIntercept = 1, -1024
    made.WindowCenter, made.WindowWidth = 40, 400
    made.PixelData = (picture.astype(np.uint16) * 10).tobytes()
    pydicom.dcmwrite(path, made, enforce_file_format=True)


def original(name: str, device: str) -> Callable[[np.ndarray], np.ndarray]:
    """Return the same model in PyTorch, run eagerly on arrays that were prepared."""
    import torch

    if name == "efficientnet-lite0":
        import timm

        module = timm.create_model("efficientnet_lite0", pretrained=False, num_classes=0).eval()
    else:
        import open_clip

        module = open_clip.create_model("ViT-B-16", pretrained=None).visual.eval()
    place = "cuda" if device != "cpu" else "cpu"
    module = module.to(place)
    torch.set_num_threads(machine.cores())

    def run(batch: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return np.asarray(module(torch.from_numpy(batch).to(place)).cpu().numpy())

    return run


def encoder_of(name: str, folder: Path, precision: str, device: str) -> Any:
    """Return our encoder: the shipped one, or one exported from random weights."""
    import osler

    if name == "efficientnet-lite0":
        return osler.load_encoder(name, device=device)
    place = folder / f"{name}-{precision}"
    if not place.exists():
        from checkpoints import random_checkpoint
        from osler.encoders.entry import entries
        from osler.encoders.export import export_encoder

        weights = folder / "weights"
        if not weights.exists():
            random_checkpoint(entries()[name], weights)
        export_encoder(name, weights, place, precision=precision)
    return osler.load_encoder(place, device=device)


def into_collection(encoder: Any, paths: list[Path], copies: int) -> Callable[[], Any]:
    """Return what adds copies of the files, no two alike, to a new collection each time."""
    import osler

    folder = Path(tempfile.mkdtemp(dir=paths[0].parent))
    (folder / "files").mkdir()
    for number, path in itertools.product(range(copies), paths):
        # the last pixel of a DICOM file; of a JPEG, what follows its end
        content = path.read_bytes()[: -2 if path.suffix == ".dcm" else None]
        (folder / "files" / f"{number} {path.name}").write_bytes(content + number.to_bytes(2, "little"))
    numbers = itertools.count()

    def run() -> None:
        with osler.Collection.create(folder / f"{next(numbers)}.osler", encoder=encoder) as made:
            assert made.add(folder / "files", progress=False).added == copies * len(paths)

    return run


def side_by_side(tower: Any, batches: list[np.ndarray]) -> None:
    """Run the batches as many side by side as the encoder does of many pictures."""
    lanes = tower.session.beside(len(batches))
    with ThreadPoolExecutor(lanes, initializer=tower.session.enter_lane) as pool:
        list(pool.map(lambda batch: tower.run(list(batch)), batches))


def rate(run: Callable[[], Any], count: int) -> float:
    """Return how many a second."""
    began = time.perf_counter()
    run()
    return count / (time.perf_counter() - began)


class Busy:
    """Asks the driver every 50 ms which share of the time the GPU computed; 0 where there is none."""

    def __enter__(self) -> Busy:
        self.shares: list[float] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        if shutil.which("nvidia-smi"):
            self._thread.start()
        return self

    def _watch(self) -> None:
        query = ["nvidia-smi", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits"]
        while not self._stop.wait(0.05):
            done = subprocess.run(query, capture_output=True, text=True)
            if done.stdout.strip().isdigit():
                self.shares.append(float(done.stdout))

    def __exit__(self, *_: object) -> None:
        self._stop.set()

    @property
    def share(self) -> float:
        """Mean share in percent."""
        return statistics.fmean(self.shares) if self.shares else 0.0


def measure(encoder: Any, name: str, files: dict[str, list[Path]], rounds: int, device: str) -> dict[str, Any]:
    """Return rates in every round: the session alone, PyTorch, and the pipeline from each kind of file."""
    tower = encoder._tower("image")
    size = tower.batch_size(None)
    prepared = [tower.prepare(path, "a picture") for path in files[KINDS[0]]]
    batches = [np.stack(prepared[at : at + size]) for at in range(0, len(prepared), size)]
    theirs = original(name, device)
    runs: dict[str, Callable[[], Any]] = {
        "session": lambda: [tower.run(list(batch)) for batch in batches],
        "PyTorch": lambda: [theirs(batch) for batch in batches],
        **{kind: (lambda paths=paths: encoder.encode_images(paths)) for kind, paths in files.items()},
    }
    if tower.session.lanes > 1:
        runs["session, side by side"] = lambda: side_by_side(tower, batches)
    copies = COPIES.get(name, 1)
    counts = {key: len(prepared) * copies for key in INTO.values()}
    for at, key in INTO.items():
        runs[key] = into_collection(encoder, files[KINDS[at]], copies)
    for run in runs.values():
        run()
    rates: dict[str, list[float]] = {key: [] for key in runs}
    busy: dict[str, float] = {}
    for _ in range(rounds):
        for key, run in runs.items():
            with Busy() as watched:
                rates[key].append(rate(run, counts.get(key, len(prepared))))
            busy[key] = watched.share
        print(name, {key: round(values[-1], 2) for key, values in rates.items()}, flush=True)
    return {"rates": rates, "busy": busy, "batch": size}


def peak() -> float | None:
    """Return the GFLOP/s of `fma.rs` on all processors, or None without a Rust compiler."""
    if shutil.which("rustc") is None:
        return None
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder) / "fma"
        source = BENCH / "fma.rs"
        subprocess.run(["rustc", "-O", "-C", "target-feature=+avx2,+fma", str(source), "-o", str(program)], check=True)
        done = subprocess.run([str(program), str(machine.cores())], capture_output=True, text=True, check=True)
    return float(done.stdout)


def page(found: dict[str, dict[str, Any]], device: str, rounds: int, most: float | None, count: int) -> str:
    """Return the result as Markdown: medians, and ratios as medians of the rounds' own."""
    lines = [
        "# Encoding: from files to vectors",
        "",
        f"Made by `bench/encoding.py` on {machine.describe()['cpu']}, {machine.cores()} cores, device {device}; "
        f"{rounds} rounds, of the small model {3 * rounds}, of up to {count} pictures, each with every row; medians, "
        "ratios of the rounds' own figures. The session is run on batches that are prepared, one after another on all "
        "processors; of a small model also side by side, which is how `encode_images` runs it. Into a collection: "
        f"{COPIES['efficientnet-lite0']} times as many pictures of the small model, processes that decode begun anew.",
        "",
        "| model | what | pictures a second | of the session | of PyTorch eager | share of the peak | device busy |",
        "|---|---|---|---|---|---|---|",
    ]
    for model, one in found.items():
        rates = one["rates"]
        for key, values in rates.items():
            session = statistics.median(a / b for a, b in zip(values, rates["session"], strict=True))
            eager = statistics.median(a / b for a, b in zip(values, rates["PyTorch"], strict=True))
            middle = statistics.median(values)
            work = WORK[model.split(" ")[0]]
            share = f"{100 * middle * work / most:.0f} %" if most and device == "cpu" else ""
            busy = f"{one['busy'][key]:.0f} %" if one["busy"].get(key) else ""
            lines.append(f"| {model} | {key} | {middle:.2f} | {session:.2f} | {eager:.2f} | {share} | {busy} |")
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    lines += ["", f"Peak memory of the whole run, both models and PyTorch in one process: {memory:,.0f} MiB."]
    if most:
        lines.append(
            f"Peak of multiply-adds on all processors: {most:.0f} GFLOP/s in single precision (`bench/fma.rs`)."
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda", "tensorrt"])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--pictures", type=int, default=96)
    parser.add_argument("--models", nargs="*", default=list(WORK))
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    os.environ.setdefault("OSLER_THREADS", str(machine.cores()))
    precisions = ("fp32",) if asked.device == "cpu" else ("fp32", "fp16")
    most = peak() if asked.device == "cpu" else None
    found = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        files = write_files(folder, asked.pictures)
        for model in asked.models:
            few = {kind: paths[: asked.pictures // 4 if model == "datacomp-b16" and asked.device == "cpu" else None]
                   for kind, paths in files.items()}  # fmt: skip
            for precision in precisions if model != "efficientnet-lite0" else ("fp32",):
                encoder = encoder_of(model, folder, precision, asked.device)
                assert encoder.device == asked.device, encoder.device
                # a round of the small model is over in seconds, and as noisy as that
                times = asked.rounds * (3 if model == "efficientnet-lite0" else 1)
                found[f"{model} {precision}"] = measure(encoder, model, few, times, asked.device)
    text = page(found, asked.device, asked.rounds, most, asked.pictures)
    out = asked.out or BENCH / "results" / f"encoding-{machine.label()}-{asked.device}.md"
    out.write_text(text)
    print(text)


if __name__ == "__main__":
    main()
