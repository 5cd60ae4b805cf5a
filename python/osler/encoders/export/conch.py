"""Builds CONCH (M. Y. Lu et al., Nature Medicine 2024): histology and captions, the contrastive half of a CoCa.

Needs timm and open_clip.
"""

from __future__ import annotations

from typing import Any

from osler.encoders.entry import Entry
from osler.encoders.export import parts
from osler.encoders.export.towers import Towers
from osler.encoders.export.weights import Checkpoint, load_into

__all__ = ["UNUSED", "build", "module"]

# what the captioner, which was not published, would look at
UNUSED = ("visual.attn_pool_caption.", "visual.ln_caption.")


def module(options: dict[str, Any]) -> Any:
    """Return the model with random weights.

    Parameters
    ----------
    options : dict
        ``layers`` of the text tower, 12 unless given; ``vision``: arguments for timm beside the size.

    Returns
    -------
    torch.nn.Module
    """
    import torch
    from torch import nn

    transformer = parts.library("open_clip.transformer")
    trunk = parts.library("timm").create_model(
        "vit_base_patch16_224", img_size=448, num_classes=0, **options.get("vision", {})
    )
    text = transformer.TextTransformer(
        context_length=127,
        vocab_size=32007,
        width=768,
        heads=12,
        layers=int(options.get("layers", 12)),
        output_dim=512,
        embed_cls=True,
        pad_id=0,
        pool_type="last",
    )
    return parts.tree(
        {
            "visual.trunk": trunk,
            "visual.attn_pool_contrast": transformer.AttentionalPooler(512, 768, n_head=8, n_queries=1),
            "visual.ln_contrast": nn.LayerNorm(512),
            "visual.proj_contrast": nn.Parameter(torch.randn(512, 512) * 0.04),
            "text": text,
            "logit_scale": nn.Parameter(torch.tensor(2.6593)),
        }
    )


def build(entry: Entry, checkpoint: Checkpoint) -> Towers:
    """Return the towers of a CONCH checkpoint.

    A text is padded to 127; its vector is that of a slot after them, which sees one position beyond the end of the
    text, as the weights were trained with.

    Raises
    ------
    EncoderError
        The checkpoint is of another model.
    """
    assert entry.architecture is not None
    model = module(entry.architecture.options)
    load_into(model, checkpoint.tensors, entry.name, unused=UNUSED)
    vision = model.visual

    def image(batch: Any) -> Any:
        tokens = vision.trunk.forward_features(batch)
        return vision.ln_contrast(vision.attn_pool_contrast(tokens)[:, 0]) @ vision.proj_contrast

    def text(ids: Any) -> Any:
        return model.text(ids)

    libraries = ("timm", "open_clip_torch")
    return parts.as_towers(entry, model, image, text, (3, 448, 448), libraries, masked=False, dynamic=False)
