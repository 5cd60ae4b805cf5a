"""Builds UniMed-CLIP (M. U. Khattak et al., 2024): open_clip's vision tower beside a BERT under names of its own.

Needs open_clip and transformers; the options are those of `open_clip.module`.
"""

from __future__ import annotations

from typing import Any

from osler.encoders.entry import Entry
from osler.encoders.export import open_clip, parts
from osler.encoders.export.towers import Towers
from osler.encoders.export.weights import Checkpoint, load_into

__all__ = ["UNUSED", "build", "module"]

UNUSED = ("text_encoder.transformer.pooler.",)


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
    model = open_clip.module(options)
    return parts.tree({"visual": model.visual, "text_encoder": model.text, "logit_scale": model.logit_scale})


def build(entry: Entry, checkpoint: Checkpoint) -> Towers:
    """Return the towers of a UniMed-CLIP checkpoint.

    Raises
    ------
    EncoderError
        The checkpoint is of another model.
    """
    assert entry.architecture is not None
    model = module(entry.architecture.options)
    load_into(model, checkpoint.tensors, entry.name, unused=UNUSED)
    side = open_clip.model_side(model.visual)

    def image(batch: Any) -> Any:
        return model.visual(batch)

    def text(ids: Any) -> Any:
        return model.text_encoder(ids)

    tokens, grid = open_clip.with_tokens(model.visual)
    # the text tower finds its padding by id 0
    libraries = ("open_clip_torch", "transformers")
    return parts.as_towers(
        entry, model, image, text, (3, side, side), libraries, masked=False, tokens=tokens, grid=grid
    )
