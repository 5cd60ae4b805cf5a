"""Builds the ConVIRT that BenchX trained anew (Y. Zhou et al., NeurIPS 2024), whose authors published no weights.

Needs torchvision and transformers.
"""

from __future__ import annotations

from typing import Any

from osler.encoders.entry import Entry
from osler.encoders.export import parts
from osler.encoders.export.towers import Towers
from osler.encoders.export.weights import Checkpoint, load_into

__all__ = ["build", "module"]


def module(options: dict[str, Any]) -> Any:
    """Return the model with random weights.

    Parameters
    ----------
    options : dict
        ``bert``: fields of BertConfig that differ from Bio_ClinicalBERT's.

    Returns
    -------
    torch.nn.Module
    """
    from torch import nn

    text = parts.bert({**parts.CLINICAL_BERT, **options.get("bert", {})}, pooler=True)

    def projection(width: int) -> Any:
        return nn.Sequential(nn.Linear(width, 768), nn.ReLU(), nn.Linear(768, 768))

    return parts.tree(
        {
            "visual.model": parts.resnet50(),
            "vis_proj": projection(2048),
            "linguistic.encoder": text,
            "lin_proj": projection(text.config.hidden_size),
        }
    )


def build(entry: Entry, checkpoint: Checkpoint) -> Towers:
    """Return the towers of a ConVIRT checkpoint of BenchX.

    Raises
    ------
    EncoderError
        The checkpoint is of another model.
    """
    assert entry.architecture is not None
    model = module(entry.architecture.options)
    load_into(model, checkpoint.tensors, entry.name)
    language = model.linguistic.encoder

    def image(batch: Any) -> Any:
        return model.vis_proj(model.visual.model(batch))

    def text(ids: Any, mask: Any) -> Any:
        return model.lin_proj(language.pooler(parts.bert_states(language, ids, mask)[-1]))

    return parts.as_towers(entry, model, image, text, (3, 224, 224), ("torchvision", "transformers"))
