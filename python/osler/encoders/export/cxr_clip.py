"""Builds CXR-CLIP (K. You et al., MICCAI 2023): chest radiographs and reports, with a ResNet-50 or a Swin-T.

Needs torchvision for the ResNet, and transformers.
"""

from __future__ import annotations

from typing import Any

from osler.encoders.entry import Entry
from osler.encoders.export import parts
from osler.encoders.export.towers import Towers
from osler.encoders.export.weights import Checkpoint, load_into

__all__ = ["UNUSED", "WITHIN", "build", "module"]

UNUSED = ("text_encoder.text_encoder.pooler.",)
WITHIN = "image_encoder."  # where the names of the published file may be older than those of the library


def module(options: dict[str, Any]) -> Any:
    """Return the model with random weights.

    Parameters
    ----------
    options : dict
        ``vision``: "swin" or "resnet50"; ``bert``: fields of BertConfig that differ from Bio_ClinicalBERT's.

    Returns
    -------
    torch.nn.Module
    """
    import torch
    from torch import nn

    swin = options["vision"] == "swin"
    text = parts.bert({**parts.CLINICAL_BERT, **options.get("bert", {})})
    return parts.tree(
        {
            "image_encoder.image_encoder" if swin else "image_encoder.resnet": parts.swin_tiny()
            if swin
            else parts.resnet50(),
            "image_projection.projection": nn.Linear(768 if swin else 2048, 512),
            "text_encoder.text_encoder": text,
            "text_projection.projection": nn.Linear(text.config.hidden_size, 512),
            "logit_scale": nn.Parameter(torch.tensor(2.6593)),
        }
    )


def build(entry: Entry, checkpoint: Checkpoint) -> Towers:
    """Return the towers of a CXR-CLIP checkpoint.

    Of a Swin-T the authors take the first cell of the last map, not its mean; of a text the state at [SEP].

    Raises
    ------
    EncoderError
        The checkpoint is of another model.
    """
    assert entry.architecture is not None
    model = module(entry.architecture.options)
    tensors = parts.renamed(checkpoint.tensors, parts.swin_names(model), WITHIN)
    load_into(model, tensors, entry.name, unused=UNUSED)
    swin = entry.architecture.options["vision"] == "swin"

    def image(batch: Any) -> Any:
        if swin:
            found = model.image_encoder.image_encoder(batch).last_hidden_state[:, 0]
        else:
            found = model.image_encoder.resnet(batch)
        return model.image_projection.projection(found)

    def tokens(batch: Any) -> Any:
        projection = model.image_projection.projection
        if swin:
            found = projection(model.image_encoder.image_encoder(batch).last_hidden_state)
            return found[:, 0], found
        found = parts.linear_map(projection, parts.resnet50_map(model.image_encoder.resnet, batch))
        return found.mean((2, 3)), found

    def text(ids: Any, mask: Any) -> Any:
        states = parts.bert_states(model.text_encoder.text_encoder, ids, mask)[-1]
        return model.text_projection.projection(parts.at_mask_end(states, mask))

    libraries = ("transformers",) if swin else ("torchvision", "transformers")
    grid = (7, 7) if swin else None
    return parts.as_towers(entry, model, image, text, (3, 224, 224), libraries, tokens=tokens, grid=grid)
