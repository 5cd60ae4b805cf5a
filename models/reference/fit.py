"""Fits the reference pair: EfficientNet-Lite0 vectors mapped into the space of MiniLM by a ridge map in closed form.

Run `python models/reference/fit.py`; it writes image.npz, text.npz and golden.npz beside itself and prints accuracy
with each study left out in turn; then models/seal.py enters the hashes. Reads the DICOM files of the packages pydicom
and pydicom-data (MIT) and the golden vectors of both encoders. The sentences hold words of the tables below only,
chosen by a file's modality, body part and descriptions, so that no value of a header gets into one. Hoerl and Kennard
1970.

A map fitted on a few dozen studies gives all pictures of one sentence nearly one vector. So the space has axes beyond
MiniLM's on which texts are zero and pictures keep a random orthogonal projection of their own vector: among pictures
these axes count as much as the mapped ones, and the order of pictures under a text comes from the map.
"""

from __future__ import annotations

import importlib.util
import re
import warnings
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pydicom
from osler import SourceError, load_encoder
from osler.decode import read_pixels

HERE = Path(__file__).resolve().parent
# share of the mean eigenvalue of the weighted covariance; accuracy with a study left out hardly moves between a tenth
# and ten times of it, and below it every file of the fit has its own modality first
RIDGE = 0.1
VISUAL_AXES = 256
SEED = 0

# DICOM modality to the words for it; the first is the label in the reported accuracy
MODALITIES = {
    "CR": ("X-ray", "radiograph", "plain film radiography"),
    "CT": ("CT scan", "computed tomography", "CT slice"),
    "MR": ("MRI scan", "magnetic resonance image", "MRI"),
    "US": ("ultrasound", "ultrasound image", "sonogram"),
    "NM": ("nuclear medicine scan", "bone scintigraphy", "scintigram"),
    "SEG": ("segmentation mask", "binary segmentation of an organ"),
    "RTDOSE": ("radiotherapy dose map", "radiation dose distribution"),
    "OT": ("colour bars", "test pattern", "picture that is not a medical scan"),
}
# a word of the header to what a person calls the part
PARTS = {
    "CHEST": "chest",
    "THORAX": "chest",
    "EXTREMITY": "leg",
    "CSPINE": "neck and cervical spine",
    "NECK": "neck",
    "CAROTIDS": "neck arteries",
    "HEAD": "head",
    "BRAIN": "brain",
    "SHOULDER": "shoulder",
    "ABDOMEN": "abdomen",
    "LIVER": "liver",
    "PANCREAS": "pancreas",
    "ECHOCARDIOGRAM": "heart",
    "SMARTSCORE": "heart",
    "WHOLE": "whole body",
}
LENDERS = {"image": "efficientnet-lite0", "text": "minilm"}
TAGS = ("BodyPartExamined", "StudyDescription", "SeriesDescription", "ProtocolName")


@dataclass(frozen=True)
class Example:
    """One file: its study, modality and body part, and up to three of its frames."""

    study: str
    modality: str
    part: str | None
    frames: tuple[np.ndarray, ...]


def files() -> list[Path]:
    """Return every file of the two packages in a fixed order."""
    roots = {}
    for package, folder in (("pydicom", "data"), ("data_store", "data")):
        spec = importlib.util.find_spec(package)
        if spec is None or not spec.submodule_search_locations:
            raise SystemExit("install pydicom and pydicom-data first")
        roots[package] = Path(next(iter(spec.submodule_search_locations))) / folder
    return [path for root in roots.values() for path in sorted(root.rglob("*")) if path.is_file()]


def examples() -> list[Example]:
    """Read every DICOM file with pixels whose modality is in the table."""
    found = []
    for path in files():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # some of these files are odd on purpose, and the warnings quote them
            example = read(path)
        if example is not None:
            found.append(example)
    return found


def read(path: Path) -> Example | None:
    """Read one file, or return None where it is no picture of a known modality."""
    try:
        pixels = read_pixels(path)
    except SourceError:
        return None
    if pixels.kind != "dicom":
        return None
    header = pydicom.dcmread(path, stop_before_pixels=True, force=True)
    modality = str(header.get("Modality", ""))
    if modality not in MODALITIES:
        return None
    words = re.findall(r"[A-Z]+", " ".join(str(header.get(tag, "")) for tag in TAGS).upper())
    part = next((PARTS[word] for word in words if word in PARTS), None)
    count = len(pixels.frames)
    frames = tuple(pixels.frames[i] for i in sorted({0, count // 2, count - 1}))
    return Example(str(header.get("StudyInstanceUID", path.name)), modality, part, frames)


def sentences(modality: str, part: str | None) -> list[str]:
    """Return several ways to say what a picture is."""
    names = MODALITIES[modality]
    if part is None or modality in ("SEG", "RTDOSE", "OT"):
        return list(names)
    return [*(f"{name} of the {part}" for name in names), f"{part} {names[0]}", names[0]]


def unit(x: np.ndarray) -> np.ndarray:
    """Return rows of length 1."""
    return np.asarray(x / np.linalg.norm(x, axis=-1, keepdims=True))


def fit(images: np.ndarray, targets: np.ndarray, weights: np.ndarray, ridge: float) -> tuple[np.ndarray, np.ndarray]:
    """Return centre and matrix of the weighted ridge map, solved in the space of the examples."""
    shares = weights / weights.sum()
    centre = shares @ images
    x = (images - centre) * np.sqrt(shares)[:, None]
    y = targets * np.sqrt(shares)[:, None]
    gram = x @ x.T
    penalty = ridge * np.trace(gram) / len(gram)
    return centre, x.T @ np.linalg.solve(gram + penalty * np.eye(len(gram)), y)


def balance(studies: np.ndarray, modalities: np.ndarray) -> np.ndarray:
    """Return weights: equal within a study, and a modality's total grows with the root of its number of studies."""
    files = Counter(studies.tolist())
    size = {m: len(set(studies[modalities == m].tolist())) for m in set(modalities.tolist())}
    return np.array([1 / files[s] / size[m] ** 0.5 for s, m in zip(studies.tolist(), modalities.tolist(), strict=True)])


def report(
    images: np.ndarray, targets: np.ndarray, labels: np.ndarray, studies: np.ndarray, prompts: np.ndarray
) -> None:
    """Print how often the modality's own words win, each study left out in turn, and which logit scale fits best."""
    names = list(MODALITIES)
    truth = np.array([names.index(label) for label in labels])
    scores = np.zeros((len(images), len(names)))
    for study in sorted(set(studies.tolist())):
        out = studies == study
        centre, matrix, visual = pair(images[~out], targets[~out], studies[~out], labels[~out])
        scores[out] = unit((images[out] - centre) @ np.hstack([matrix, visual]))[:, : matrix.shape[1]] @ prompts.T
    shares: dict[str, list[float]] = {}
    losses: dict[int, list[float]] = {scale: [] for scale in (5, 10, 15, 20, 30, 40, 60, 100)}
    for study in sorted(set(studies.tolist())):
        rows = studies == study
        label = str(labels[rows][0])
        if len(set(studies[labels == label].tolist())) < 2:
            continue  # nothing of this modality is left to fit on
        shares.setdefault(label, []).append(float((scores[rows].argmax(axis=1) == truth[rows]).mean()))
        for scale, values in losses.items():
            logits = scale * scores[rows]
            logits -= np.log(np.exp(logits).sum(axis=1, keepdims=True))
            values.append(float(-logits[np.arange(rows.sum()), truth[rows]].mean()))
    every = [share for group in shares.values() for share in group]
    print(f"modality, study left out: {np.mean(every):.2f} of n = {len(every)} studies")
    for label, group in shares.items():
        print(f"  {label}: {np.mean(group):.2f} of n = {len(group)}")
    print(f"  mean over modalities: {np.mean([np.mean(group) for group in shares.values()]):.2f}")
    print("  log loss by logit scale:", {scale: round(float(np.mean(values)), 3) for scale, values in losses.items()})


def pair(
    images: np.ndarray, targets: np.ndarray, studies: np.ndarray, labels: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return centre, ridge map and visual axes, the last two of equal weight over the examples."""
    weights = balance(studies, labels)
    centre, matrix = fit(images, targets, weights, RIDGE)
    axes = np.linalg.qr(np.random.default_rng(SEED).standard_normal((images.shape[1], VISUAL_AXES)))[0]
    spread = np.sqrt(weights / weights.sum() @ (((images - centre) @ axes) ** 2).sum(axis=1))
    return centre, matrix, axes / spread


def main() -> None:
    """Fit, report, write."""
    found = examples()
    owner = [i for i, example in enumerate(found) for _ in example.frames]
    studies = np.array([found[i].study for i in owner])
    labels = np.array([found[i].modality for i in owner])
    images = load_encoder("efficientnet-lite0").encode_images([f for e in found for f in e.frames]).astype(np.float64)
    minilm = load_encoder("minilm")
    kinds = sorted({(example.modality, example.part) for example in found}, key=str)
    vectors = {kind: minilm.encode_texts(sentences(*kind)).astype(np.float64) for kind in kinds}
    by_modality = [[vectors[k].mean(axis=0) for k in kinds if k[0] == modality] for modality in MODALITIES]
    text_centre = np.mean([np.mean(group, axis=0) for group in by_modality], axis=0)

    def meaning(texts: np.ndarray) -> np.ndarray:
        return unit(unit(texts - text_centre).mean(axis=0))

    prompts = np.stack([meaning(minilm.encode_texts(names).astype(np.float64)) for names in MODALITIES.values()])
    targets = np.stack([meaning(vectors[found[i].modality, found[i].part]) for i in owner])
    print(f"{len(found)} files of {len(set(studies.tolist()))} studies, {len(kinds)} kinds of sentence")
    report(images, targets, labels, studies, prompts)

    centre, matrix, visual = pair(images, targets, studies, labels)
    image_map = {"centre": centre.astype(np.float32), "matrix": np.hstack([matrix, visual]).astype(np.float16)}
    text_map = {"centre": text_centre.astype(np.float32), "matrix": np.eye(384, 384 + VISUAL_AXES, dtype=np.float16)}
    np.savez_compressed(HERE / "image.npz", **image_map)
    np.savez_compressed(HERE / "text.npz", **text_map)

    golden = {kind: np.load(HERE.parent / name / "golden.npz") for kind, name in LENDERS.items()}
    mapped = {
        f"{kind}_vectors": unit(
            (golden[kind][f"{kind}_vectors"] - values["centre"]) @ values["matrix"].astype(np.float64)
        )
        for kind, values in (("image", image_map), ("text", text_map))
    }
    inputs = {name: golden["image"][name] for name in golden["image"].files if name != "image_vectors"}
    vectors32 = {name: values.astype(np.float32) for name, values in mapped.items()}
    np.savez_compressed(HERE / "golden.npz", texts=golden["text"]["texts"], **inputs, **vectors32)


if __name__ == "__main__":
    main()
