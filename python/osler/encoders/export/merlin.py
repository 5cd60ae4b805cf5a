"""Builds Merlin (L. Blankemeier et al., Nature 2026): abdominal CT volumes and reports.

A ResNet-152 inflated to three dimensions, and Clinical-Longformer as dense attention under a band. Needs transformers.
"""

from __future__ import annotations

from typing import Any

from osler.encoders.entry import Entry
from osler.encoders.export import parts
from osler.encoders.export.towers import Towers
from osler.encoders.export.weights import Checkpoint, load_into

__all__ = ["build", "module", "unused"]

_BAND = 256  # half of the window of Clinical-Longformer
_LONGFORMER = {
    "vocab_size": 50265,
    "max_position_embeddings": 4098,
    "type_vocab_size": 1,
    "pad_token_id": 1,
    "layer_norm_eps": 1e-5,
}


def unused(options: dict[str, Any]) -> tuple[str, ...]:
    """Return beginnings of names that the file has and vectors do not need."""
    layers = int({"num_hidden_layers": 12, **options.get("bert", {})}["num_hidden_layers"])
    return (
        "encode_image.i3_resnet.classifier.",
        "encode_text.text_encoder.pooler.",
        # no token is global in the authors' code
        *(
            f"encode_text.text_encoder.encoder.layer.{i}.attention.self.{kind}_global."
            for i in range(layers)
            for kind in ("query", "key", "value")
        ),
    )


def module(options: dict[str, Any]) -> Any:
    """Return the model with random weights.

    Parameters
    ----------
    options : dict
        ``blocks`` of the image tower, (3, 8, 36, 3) unless given; ``shape`` of a volume in the order of the recipe,
        (224, 224, 160) unless given; ``vector``: "pooled" for the 2,048 features below the contrastive head; ``bert``:
        fields of LongformerConfig that differ from Clinical-Longformer's.

    Returns
    -------
    torch.nn.Module
    """
    import torch
    from torch import nn

    from osler.encoders.export.modules.resnet3d import ResNet3d

    trunk = ResNet3d(
        options.get("blocks", (3, 8, 36, 3)),
        bottleneck=True,
        channels=3,
        stem=((3, 7, 7), (1, 2, 2), (1, 3, 3)),
    )
    trunk.contrastive_head = nn.Conv3d(trunk.width, 512, 1)
    text = parts.bert({**_LONGFORMER, **options.get("bert", {})})
    return parts.tree(
        {
            "encode_image.i3_resnet": trunk,
            "encode_text.text_encoder": text,
            "encode_text.linear_layer": nn.Linear(text.config.hidden_size, 512),
            "logit_scale": nn.Parameter(torch.tensor(1.0)),
        }
    )


def build(entry: Entry, checkpoint: Checkpoint) -> Towers:
    """Return the towers of a Merlin checkpoint.

    Raises
    ------
    EncoderError
        The checkpoint is of another model.
    """
    assert entry.architecture is not None
    options = entry.architecture.options
    model = module(options)
    load_into(model, checkpoint.tensors, entry.name, unused=unused(options))
    vision, language = model.encode_image.i3_resnet, model.encode_text

    def image(batch: Any) -> Any:
        # right-front-up to up-right-front, and three channels alike
        pooled = vision(batch.permute(0, 1, 4, 2, 3).expand(-1, 3, -1, -1, -1))
        if options.get("vector") == "pooled":
            return pooled
        return vision.contrastive_head(pooled[:, :, None, None, None]).flatten(1)

    def text(ids: Any, mask: Any) -> Any:
        # RoBERTa's positions begin after the id that pads
        positions = (mask.cumsum(1) * mask) + 1
        states = parts.bert_states(language.text_encoder, ids, mask, positions=positions, band=_BAND)
        return language.linear_layer(states[-1][:, 0])

    shape = (1, *options.get("shape", (224, 224, 160)))
    return parts.as_towers(entry, model, image, text, shape, ("transformers",))
