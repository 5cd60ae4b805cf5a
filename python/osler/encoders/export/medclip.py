"""Builds MedCLIP (Z. Wang et al., EMNLP 2022): chest radiographs and reports, with a Swin-T or a ResNet-50.

Needs torchvision for the ResNet, and transformers.
"""

from __future__ import annotations

from typing import Any

from osler.encoders.entry import Entry
from osler.encoders.export import parts
from osler.encoders.export.towers import Towers
from osler.encoders.export.weights import Checkpoint, load_into

__all__ = ["UNUSED", "WITHIN", "build", "module"]

UNUSED = ("text_model.model.pooler.",)
WITHIN = "vision_model."  # where the names of the published file may be older than those of the library


def module(options: dict[str, Any]) -> Any:
    """Return the model with random weights.

    Parameters
    ----------
    options : dict
        ``vision``: "swin" (which the authors call ViT) or "resnet50"; ``bert``: fields of BertConfig that differ from
        Bio_ClinicalBERT's.

    Returns
    -------
    torch.nn.Module
    """
    import torch
    from torch import nn

    text = parts.bert({**parts.CLINICAL_BERT, **options.get("bert", {})})
    named: dict[str, Any] = {
        "text_model.model": text,
        "text_model.projection_head": nn.Linear(text.config.hidden_size, 512, bias=False),
        "logit_scale": nn.Parameter(torch.tensor(2.6593)),
    }
    if options["vision"] == "swin":
        named |= {
            "vision_model.model": parts.swin_tiny(),
            "vision_model.projection_head": nn.Linear(768, 512, bias=False),
        }
    else:
        trunk = parts.resnet50()
        trunk.fc = nn.Linear(2048, 512, bias=False)
        named["vision_model.model"] = trunk
    return parts.tree(named)


def build(entry: Entry, checkpoint: Checkpoint) -> Towers:
    """Return the towers of a MedCLIP checkpoint; a text is averaged without padding, see `flair.build`.

    Raises
    ------
    EncoderError
        The checkpoint is of another model.
    """
    assert entry.architecture is not None
    model = module(entry.architecture.options)
    tensors = parts.renamed(checkpoint.tensors, parts.swin_names(model), WITHIN)
    load_into(model, tensors, entry.name, unused=UNUSED)
    vision, language = model.vision_model, model.text_model
    swin = entry.architecture.options["vision"] == "swin"

    def image(batch: Any) -> Any:
        return vision.projection_head(vision.model(batch).pooler_output) if swin else vision.model(batch)

    def tokens(batch: Any) -> Any:
        if swin:
            found = vision.projection_head(vision.model(batch).last_hidden_state)
            return found.mean(1), found
        found = parts.linear_map(vision.model.fc, parts.resnet50_map(vision.model, batch))
        return found.mean((2, 3)), found

    def text(ids: Any, mask: Any) -> Any:
        states = parts.bert_states(language.model, ids, mask)
        return language.projection_head(parts.masked_mean((states[1] + states[2] + states[-1]) / 3, mask))

    libraries = ("transformers",) if swin else ("torchvision", "transformers")
    grid = (7, 7) if swin else None
    return parts.as_towers(entry, model, image, text, (3, 224, 224), libraries, most=100.0, tokens=tokens, grid=grid)
