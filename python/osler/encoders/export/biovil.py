"""Builds BioViL (B. Boecking et al., ECCV 2022) and BioViL-T (S. Bannur et al., CVPR 2023): chest radiographs.

Picture and text come in two files of one repository. Needs torchvision and transformers.
"""

from __future__ import annotations

from typing import Any

from osler.encoders.entry import Entry
from osler.encoders.export import parts
from osler.encoders.export.towers import Towers
from osler.encoders.export.weights import Checkpoint, load_into

__all__ = ["UNUSED", "build", "module"]

# the head for masked words, the classifier that torchvision's class brings, and what compares with an earlier picture
UNUSED = ("cls.", "bert.pooler.", "encoder.encoder.fc.", "encoder.vit_pooler.")


def module(options: dict[str, Any]) -> Any:
    """Return the model with random weights.

    Parameters
    ----------
    options : dict
        ``temporal``: true for BioViL-T; ``side`` in pixels; ``bert``: fields of BertConfig that differ from CXR-BERT's.

    Returns
    -------
    torch.nn.Module
    """
    import torch
    from torch import nn

    text = parts.bert({**parts.BERT, **options.get("bert", {})})
    temporal = bool(options["temporal"])
    named: dict[str, Any] = {
        "encoder.encoder": parts.resnet50(),
        "projector.model": nn.Sequential(
            nn.Conv2d(512 if temporal else 2048, 128, 1, bias=False),
            nn.BatchNorm2d(128),
            nn.ReLU(),
            nn.Conv2d(128, 128, 1),
        ),
        "bert": text,
        "cls_projection_head.dense_to_hidden": nn.Linear(text.config.hidden_size, 128),
        "cls_projection_head.LayerNorm": nn.LayerNorm(128, eps=1e-12),
        "cls_projection_head.dense_to_output": nn.Linear(128, 128),
    }
    if temporal:
        named["encoder.backbone_to_vit"] = nn.Conv2d(2048, 256, 1, bias=False)
        named["encoder.missing_previous_emb"] = nn.Parameter(torch.zeros(1, 256, 1, 1))
    return parts.tree(named)


def build(entry: Entry, checkpoint: Checkpoint) -> Towers:
    """Return the towers of the two files of BioViL or BioViL-T.

    BioViL-T can also take an earlier picture of the patient. An encoder of osler takes one picture, for which its
    authors put a learned vector in place of the comparison; the transformer that compares is left out.

    Raises
    ------
    EncoderError
        The checkpoint is of another model.
    """
    import torch
    from torch.nn import functional

    assert entry.architecture is not None
    options = entry.architecture.options
    model = module(options)
    load_into(model, checkpoint.tensors, entry.name, unused=UNUSED)
    vision, head = model.encoder, model.cls_projection_head

    def tokens(batch: Any) -> Any:
        found = parts.resnet50_map(vision.encoder, batch)
        if options["temporal"]:
            found = vision.backbone_to_vit(found)
            missing = vision.missing_previous_emb.expand(found.shape)
            found = torch.cat([found, missing], dim=1)
        projected = model.projector.model(found)
        return projected.mean((2, 3)), projected

    def image(batch: Any) -> Any:
        return tokens(batch)[0]

    def text(ids: Any, mask: Any) -> Any:
        first = parts.bert_states(model.bert, ids, mask)[-1][:, 0]
        return head.dense_to_output(head.LayerNorm(functional.gelu(head.dense_to_hidden(first))))

    side = int(options["side"])
    libraries = ("torchvision", "transformers")
    return parts.as_towers(entry, model, image, text, (3, side, side), libraries, tokens=tokens)
