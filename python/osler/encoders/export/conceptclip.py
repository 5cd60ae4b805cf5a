"""Builds ConceptCLIP (Y. Nie et al., Nature Biomedical Engineering 2026): a SigLIP vision tower and PubMedBERT.

Needs open_clip, timm and transformers; the options are those of `open_clip.module`.
"""

from __future__ import annotations

from typing import Any

from osler.encoders.entry import Entry
from osler.encoders.export import open_clip, parts
from osler.encoders.export.towers import Towers
from osler.encoders.export.weights import Checkpoint, load_into

__all__ = ["UNUSED", "build", "module"]

# what compares single words with single patches
UNUSED = ("image_proj.", "text_proj.", "concept_logit_scale", "concept_logit_bias")
_KNOWN = "visual.trunk.patch_embed.proj.weight"


def module(options: dict[str, Any]) -> Any:
    """Return the model with random weights.

    Parameters
    ----------
    options : dict
        The fields of an open_clip configuration, and ``hf_text_config``; see `open_clip.module`.

    Returns
    -------
    torch.nn.Module
    """
    return open_clip.module(options)


def build(entry: Entry, checkpoint: Checkpoint) -> Towers:
    """Return the towers of a ConceptCLIP checkpoint: pooled patches, and PubMedBERT's own pooler under a projection.

    Raises
    ------
    EncoderError
        The checkpoint is of another model.
    """
    assert entry.architecture is not None
    model = module(entry.architecture.options)
    # training and hub may put the same names under one more word
    before = next((key.removesuffix(_KNOWN) for key in checkpoint.tensors if key.endswith(_KNOWN)), "")
    tensors = {key.removeprefix(before): value for key, value in checkpoint.tensors.items()}
    load_into(model, tensors, entry.name, unused=UNUSED)
    side = open_clip.model_side(model.visual)

    def image(batch: Any) -> Any:
        return model.visual(batch)

    def text(ids: Any) -> Any:
        return model.text(ids)

    # the text tower finds its padding by id 0
    libraries = ("open_clip_torch", "timm", "transformers")
    bias = float(model.logit_bias.detach())
    return parts.as_towers(entry, model, image, text, (3, side, side), libraries, masked=False, bias=bias)
