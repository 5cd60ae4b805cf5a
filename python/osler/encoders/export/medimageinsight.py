"""Builds MedImageInsight (N. Codella et al., 2024): pictures of fourteen domains and words, a DaViT and a transformer.

Needs PyTorch alone.
"""

from __future__ import annotations

import re
from typing import Any

from osler.encoders.entry import Entry
from osler.encoders.export import parts
from osler.encoders.export.towers import Towers
from osler.encoders.export.weights import Checkpoint, load_into

__all__ = ["build", "module"]

_IMAGE = {"depths": (1, 1, 9, 1), "widths": (256, 512, 1024, 2048), "heads": (8, 16, 32, 64), "window": 12}
_TEXT = {"layers": 16, "width": 1024, "heads": 16}
# the names that the authors' loader also takes
_OLDER = (
    ("visual.", "image_encoder."),
    ("text.", "lang_encoder."),
    ("vision_projection", "image_projection"),
    ("text_projection", "lang_projection"),
)
_BLOCKS = {"0": ("spatial_block", "window_attn"), "1": ("channel_block", "channel_attn")}
_STEPS = {
    "cpe.0.proj": "conv1.fn.dw",
    "cpe.1.proj": "conv2.fn.dw",
    "mlp": "ffn.fn.net",
    "norm2": "ffn.norm",
    "attn": "{}.fn",
    "norm1": "{}.norm",
}


def module(options: dict[str, Any]) -> Any:
    """Return the model with random weights.

    Parameters
    ----------
    options : dict
        ``image``: depths, widths, heads and window where they differ from the published model; ``text``: layers, width
        and heads; ``side`` in pixels, 480 unless given.

    Returns
    -------
    torch.nn.Module
    """
    import torch
    from torch import nn

    from osler.encoders.export.modules.davit import DaViT, TextTransformer

    image, text = {**_IMAGE, **options.get("image", {})}, {**_TEXT, **options.get("text", {})}
    return parts.tree(
        {
            "image_encoder": DaViT(**image),
            "lang_encoder": TextTransformer(**text),
            "image_projection": nn.Parameter(torch.randn(image["widths"][-1], 1024) * 0.02),
            "lang_projection": nn.Parameter(torch.randn(text["width"], 1024) * 0.03),
            "logit_scale": nn.Parameter(torch.tensor(4.5134)),
        }
    )


def build(entry: Entry, checkpoint: Checkpoint) -> Towers:
    """Return the towers of a MedImageInsight checkpoint.

    Raises
    ------
    EncoderError
        The checkpoint is of another model.
    """
    assert entry.architecture is not None
    options = entry.architecture.options
    model = module(options)
    load_into(model, {_newer(key): value for key, value in checkpoint.tensors.items()}, entry.name)

    def image(batch: Any) -> Any:
        return model.image_encoder(batch) @ model.image_projection

    def text(ids: Any, mask: Any) -> Any:
        # the first of the greatest ids ends the text; padding has the same id and comes after
        states, end = model.lang_encoder(ids, mask), ids.argmax(1)
        return states.gather(1, end[:, None, None].expand(-1, 1, states.shape[-1]))[:, 0] @ model.lang_projection

    side = int(options.get("side", 480))
    return parts.as_towers(entry, model, image, text, (3, side, side), ())


def _newer(key: str) -> str:
    """Return the present name of a tensor that may have one of the older names."""
    for old, new in _OLDER:
        if key.startswith(old):
            key = new + key.removeprefix(old)
    key = key.replace("image_encoder.conv_embeds.", "image_encoder.convs.")
    found = re.fullmatch(r"image_encoder\.(?:main_blocks|blocks)\.(\d+\.\d+)\.([01])\.(.+)", key)
    if found is None:
        return key
    place, number, rest = found.groups()
    for old, new in _STEPS.items():
        if rest.startswith(old + "."):
            block, attention = _BLOCKS[number]
            return f"image_encoder.blocks.{place}.{block}.{new.format(attention)}{rest.removeprefix(old)}"
    return key
