"""Builds FLAIR (J. Silva-Rodriguez et al., Medical Image Analysis 2025): retinal photographs and their descriptions.

A ResNet-50 and Bio_ClinicalBERT, each normalised before its projection. Needs torchvision and transformers.
"""

from __future__ import annotations

from typing import Any

from osler.encoders.entry import Entry
from osler.encoders.export import parts
from osler.encoders.export.towers import Towers
from osler.encoders.export.weights import Checkpoint, load_into

__all__ = ["UNUSED", "build", "module"]

UNUSED = ("text_model.model.pooler.",)


def module(options: dict[str, Any]) -> Any:
    """Return the model with random weights.

    Parameters
    ----------
    options : dict
        ``bert``: fields of BertConfig that differ from Bio_ClinicalBERT's; ``side`` in pixels, 512 unless given.

    Returns
    -------
    torch.nn.Module
    """
    import torch
    from torch import nn

    text = parts.bert({**parts.CLINICAL_BERT, **options.get("bert", {})})
    return parts.tree(
        {
            "vision_model.model": parts.resnet50(),
            "vision_model.projection_head_vision.projection": nn.Linear(2048, 512, bias=False),
            "text_model.model": text,
            "text_model.projection_head_text.projection": nn.Linear(text.config.hidden_size, 512, bias=False),
            "logit_scale": nn.Parameter(torch.tensor(2.6593)),
        }
    )


def build(entry: Entry, checkpoint: Checkpoint) -> Towers:
    """Return the towers of a FLAIR checkpoint.

    The authors average the states of a text over all positions of its batch, padding included, so that a vector
    depends on its neighbours; here padding is left out, which is what their code gives for a text alone.

    Raises
    ------
    EncoderError
        The checkpoint is of another model.
    """
    assert entry.architecture is not None
    options = entry.architecture.options
    model = module(options)
    load_into(model, checkpoint.tensors, entry.name, unused=UNUSED)
    vision, language = model.vision_model, model.text_model

    def image(batch: Any) -> Any:
        return vision.projection_head_vision.projection(parts.unit(vision.model(batch)))

    def tokens(batch: Any) -> Any:
        found = parts.resnet50_map(vision.model, batch)
        projection = vision.projection_head_vision.projection
        return projection(parts.unit(found.mean((2, 3)))), parts.linear_map(projection, found)

    def text(ids: Any, mask: Any) -> Any:
        states = parts.bert_states(language.model, ids, mask)
        pooled = parts.masked_mean((states[1] + states[2] + states[-1]) / 3, mask)
        return language.projection_head_text.projection(parts.unit(pooled))

    side = int(options.get("side", 512))
    libraries = ("torchvision", "transformers")
    return parts.as_towers(entry, model, image, text, (3, side, side), libraries, most=100.0, tokens=tokens)
