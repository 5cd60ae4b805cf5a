"""Builds MGCA (F. Wang et al., NeurIPS 2022) and the ConVIRT of its repository: chest radiographs and reports.

A ViT-B/16 or a ResNet-50, and six layers of Bio_ClinicalBERT, each under two dense layers with batch normalisation.
Needs timm or torchvision, and transformers.
"""

from __future__ import annotations

from typing import Any

from osler.encoders.entry import Entry
from osler.encoders.export import parts
from osler.encoders.export.towers import Towers
from osler.encoders.export.weights import Checkpoint, load_into

__all__ = ["build", "module", "unused"]

_LAYERS = 6


def unused(options: dict[str, Any]) -> tuple[str, ...]:
    """Return beginnings of names that the file has and vectors of whole pictures and reports do not need."""
    mark = options.get("mark", "_q")
    text = f"text_encoder{mark}."
    return (
        f"img_encoder{mark}.local_embed.",
        f"{text}local_embed.",
        f"{text}model.pooler.",
        # the text class can attend to pictures, which is not used
        *(f"{text}model.encoder.layer.{i}.crossattention." for i in range(_LAYERS)),
        "patch_local_atten_layer.",
        "word_local_atten_layer.",
        "prototype_layer.",
    )


def module(options: dict[str, Any]) -> Any:
    """Return the model with random weights.

    Parameters
    ----------
    options : dict
        ``vision``: "vit" or "resnet50"; ``mark``: what follows ``img_encoder`` and ``text_encoder`` in the names, "_q"
        unless given; ``bert``: fields of BertConfig that differ from Bio_ClinicalBERT's first six layers.

    Returns
    -------
    torch.nn.Module
    """
    mark = options.get("mark", "_q")
    text = parts.bert({**parts.CLINICAL_BERT, "num_hidden_layers": _LAYERS, **options.get("bert", {})})
    # the authors' class has no such embeddings
    text.embeddings.token_type_embeddings = parts.call(lambda types: 0.0, None)
    if options["vision"] == "vit":
        trunk, width = parts.library("timm").create_model("vit_base_patch16_224", num_classes=0), 768
    else:
        trunk, width = parts.resnet50(), 2048
    return parts.tree(
        {
            f"img_encoder{mark}.model": trunk,
            f"img_encoder{mark}.global_embed.head": _head(width),
            f"text_encoder{mark}.model": text,
            f"text_encoder{mark}.global_embed.head": _head(text.config.hidden_size),
        }
    )


def build(entry: Entry, checkpoint: Checkpoint) -> Towers:
    """Return the towers of a checkpoint of MGCA or of its repository's ConVIRT.

    The authors add up the pieces of each word before they take the first state, which is [CLS] alone and stays what it
    is.

    Raises
    ------
    EncoderError
        The checkpoint is of another model.
    """
    from torch.nn import functional

    assert entry.architecture is not None
    options = entry.architecture.options
    model = module(options)
    load_into(model, checkpoint.tensors, entry.name, unused=unused(options))
    mark = options.get("mark", "_q")
    vision, language = getattr(model, f"img_encoder{mark}"), getattr(model, f"text_encoder{mark}")
    vit = options["vision"] == "vit"

    def image(batch: Any) -> Any:
        if vit:
            pooled = vision.model.forward_features(batch)[:, 0]
        else:
            pooled = vision.model(functional.interpolate(batch, (299, 299), mode="bilinear", align_corners=True))
        return vision.global_embed.head(pooled)

    def text(ids: Any, mask: Any) -> Any:
        return language.global_embed.head(parts.bert_states(language.model, ids, mask)[-1][:, 0])

    libraries = ("timm", "transformers") if vit else ("torchvision", "transformers")
    return parts.as_towers(entry, model, image, text, (3, 224, 224), libraries)


def _head(width: int) -> Any:
    from torch import nn

    return nn.Sequential(
        nn.Linear(width, 2048),
        nn.BatchNorm1d(2048),
        nn.ReLU(),
        nn.Linear(2048, 128),
        nn.BatchNorm1d(128, affine=False),
    )
