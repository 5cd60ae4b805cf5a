"""Checkpoints of the registry's encoders with random weights: the true architecture, file name, key names and shapes.

Writes the folder that it is given. Weights are drawn so that inputs are told apart: an untrained transformer maps all
pictures to nearly one vector, on which any mistake would pass.
"""

from __future__ import annotations

import importlib
import json
import lzma
import shutil
from pathlib import Path
from typing import Any

import published_forms
import torch
from osler.encoders.entry import Entry, registry_root
from osler.encoders.tokenizer_files import tokenizer_json

FIXTURES = Path(__file__).resolve().parents[1] / "fixtures" / "tokenizers"

__all__ = ["liven", "random_checkpoint", "tokenizer_files", "weight_file"]


def weight_file(entry: Entry) -> str:
    """Return the first weight file that the registry expects."""
    source = entry.source("checkpoint")
    assert source is not None
    weights = [
        file.path
        for file in source.files
        if file.path.endswith((".bin", ".pt", ".pth", ".safetensors", ".tar", ".torch"))
    ]
    return weights[0] if weights else f"{entry.name}.pt"


@torch.no_grad()
def liven(module: Any, seed: int = 0) -> Any:
    """Draw the weights anew so that signals neither die nor drown the differences between inputs; gives the module."""
    torch.manual_seed(seed)
    for name, part in module.named_modules():
        if isinstance(part, torch.nn.modules.batchnorm._BatchNorm):
            part.running_mean.normal_(0, 0.2)
            part.running_var.uniform_(0.5, 1.5)
            if part.affine:
                part.weight.uniform_(0.8, 1.2)
                part.bias.normal_(0, 0.1)
        elif isinstance(part, torch.nn.LayerNorm) and part.elementwise_affine:
            part.weight.uniform_(0.8, 1.2)
            part.bias.normal_(0, 0.05)
        elif isinstance(part, (torch.nn.Conv2d, torch.nn.Conv3d, torch.nn.Linear)):
            torch.nn.init.kaiming_normal_(part.weight, nonlinearity="relu")
            if part.bias is not None:
                part.bias.normal_(0, 0.02)
        elif isinstance(part, torch.nn.Embedding):
            part.weight.normal_(0, 0.5 if "position" not in name else 0.05)
    for name, value in module.named_parameters():
        if "in_proj_weight" in name:
            value.normal_(0, value.shape[1] ** -0.5)
        elif name.endswith(("logit_scale",)):
            value.fill_(3.0)
        elif name.endswith("logit_bias"):
            value.fill_(-10.0)
    return module


def random_checkpoint(entry: Entry, folder: Path, options: dict[str, Any] | None = None) -> Path:
    """Write the entry's weight file with random weights, and its tokenizer; gives the file.

    Parameters
    ----------
    entry : Entry
    folder : Path
    options : dict, optional
        Of a smaller model, instead of the entry's.
    """
    assert entry.architecture is not None
    builder = importlib.import_module(f"osler.encoders.export.{entry.architecture.builder}")
    module = liven(builder.module(options if options is not None else entry.architecture.options))
    state = {key: value.contiguous() for key, value in module.state_dict().items()}
    published = getattr(published_forms, entry.architecture.builder, None)
    content = published(state, entry) if published is not None else state
    files = entry.architecture.options.get("files", {})  # of an encoder that is published in several
    for name, begins in files.items():
        _save({key: value for key, value in state.items() if key.startswith(tuple(begins))}, folder / name)
    if not files:
        _save(content, folder / weight_file(entry))
    tokenizer_files(entry, folder)
    return folder / next(iter(files), weight_file(entry))


def _save(content: Any, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".safetensors":
        from safetensors.torch import save_file

        save_file({key: value.clone() for key, value in content.items()}, str(path))
    else:
        torch.save(content, path)


def tokenizer_files(entry: Entry, folder: Path) -> None:
    """Write the tokenizer's files of an entry, with a small or public vocabulary of its kind."""
    if entry.text is None:
        return
    kind, names = entry.text.tokenizer.kind, entry.text.tokenizer.files
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        base = Path(name).name
        if kind == "tokenizer.json" and base.endswith(".json"):
            fixture = next((one for one in ("siglip2", "conch") if entry.name.startswith(one)), None)
            shutil.copy((FIXTURES / fixture if fixture else registry_root() / "minilm") / "tokenizer.json", path)
        elif base == "vocab.txt":
            path.write_text("\n".join(_uncased_words()))
        elif base == "tokenizer_config.json":
            path.write_text('{"do_lower_case": true}')
        elif kind == "clip" and base in ("vocab.json", "merges.txt"):
            _clip_of_transformers(path.parent)
        elif kind == "byte-bpe":
            shutil.copy(FIXTURES / "byte-bpe" / base, path)
        elif base in ("spiece.model", "sentencepiece.model", "tokenizer.model"):
            path.write_bytes(lzma.decompress((FIXTURES / "siglip" / "spiece.model.xz").read_bytes()))


def _uncased_words() -> list[str]:
    """Return the words of BERT that fit every BERT of the registry; the smallest has a vocabulary of 28,996."""
    vocabulary = json.loads((registry_root() / "minilm" / "tokenizer.json").read_bytes())["model"]["vocab"]
    return sorted(vocabulary, key=vocabulary.__getitem__)[:28996]


def _clip_of_transformers(folder: Path) -> None:
    import open_clip

    source = Path(open_clip.__file__).with_name("bpe_simple_vocab_16e6.txt.gz")
    model = json.loads(tokenizer_json({source.name: source.read_bytes()}, "clip"))["model"]
    # the same two tokens under the names that transformers gives them
    named = {"<start_of_text>": "<|startoftext|>", "<end_of_text>": "<|endoftext|>"}
    (folder / "vocab.json").write_text(
        json.dumps({named.get(key, key): value for key, value in model["vocab"].items()})
    )
    (folder / "merges.txt").write_text("\n".join(" ".join(pair) for pair in model["merges"]))
