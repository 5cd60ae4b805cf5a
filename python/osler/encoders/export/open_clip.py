"""Builds encoders of the open_clip family from their configuration and state dict.

Needs open_clip, and transformers where the text tower is one of theirs; reads no network. The configuration is the
``model_cfg`` of open_clip; ``hf_text_config`` beside it is the text tower's own config.json.
"""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from osler.encoders.entry import Entry
from osler.encoders.export.towers import ImageModel, TextModel, Tokens, Towers
from osler.encoders.export.weights import Checkpoint, load_into

__all__ = ["build", "model_side", "module", "with_tokens"]


def module(options: dict[str, Any]) -> Any:
    """Return an open_clip model of that configuration with random weights.

    Parameters
    ----------
    options : dict
        ``model`` (a name that open_clip knows) or the fields of its configuration; ``hf_text_config`` or None.

    Returns
    -------
    open_clip.CLIP or open_clip.CustomTextCLIP
    """
    import open_clip

    config = dict(options)
    own_text = config.pop("hf_text_config", None)
    known = config.pop("model", None)
    if known is not None:
        config = {**open_clip.get_model_config(known), **config}
    custom = bool(config.pop("custom_text", False)) or "hf_model_name" in config["text_cfg"]
    with tempfile.TemporaryDirectory() as folder:
        if own_text is not None:
            # open_clip reads the text tower's configuration by name, which would be a download
            (Path(folder) / "config.json").write_text(json.dumps(own_text))
            config["text_cfg"] = {**config["text_cfg"], "hf_model_name": folder, "hf_model_pretrained": False}
        kind = open_clip.CustomTextCLIP if custom else open_clip.CLIP
        return kind(**config).eval()


def build(entry: Entry, checkpoint: Checkpoint) -> Towers:
    """Return the towers of an open_clip checkpoint.

    Raises
    ------
    EncoderError
        The checkpoint is of another model.
    """
    import open_clip
    import torch
    from torch import nn

    assert entry.architecture is not None
    model = module(entry.architecture.options)
    tensors = checkpoint.tensors
    if not any(key.startswith("text.") for key in tensors) and any(
        key.startswith("text.") for key in model.state_dict()
    ):
        tensors = open_clip.model.convert_to_custom_text_state_dict(dict(tensors))
    # the pooler of a BERT text tower was saved by some releases and is not used
    load_into(model, tensors, entry.name, unused=("text.transformer.pooler.",))

    class Image(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.visual = model.visual

        def forward(self, image: Any) -> Any:
            found = self.visual(image)
            return found[0] if isinstance(found, tuple) else found

    dense, grid = with_tokens(model.visual)

    class WithTokens(Image):
        def forward(self, image: Any) -> Any:
            assert dense is not None
            return dense(image)

    class Text(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model
            model.visual = nn.Identity()

        def forward(self, ids: Any) -> Any:
            return self.model.encode_text(ids)

    image = Image().eval()
    tokens = None if dense is None else Tokens(WithTokens().eval(), grid)
    text = Text().eval() if entry.text is not None else None
    side = model_side(image.visual)
    with torch.no_grad():
        scale = float(model.logit_scale.exp())
        bias = None if getattr(model, "logit_bias", None) is None else float(model.logit_bias)
    hugging = hasattr(getattr(model, "text", None), "config")
    length = entry.text.max_length if entry.text is not None else 0
    return Towers(
        image=ImageModel(image, (3, side, side), tokens=tokens),
        text=None if text is None else TextModel(text, length, dynamic=hugging),
        logit_scale=scale if math.isfinite(scale) else None,
        logit_bias=bias,
        libraries=("torch", "open_clip_torch", *(("transformers",) if hugging else ()), "timm"),
    )


def with_tokens(visual: Any) -> tuple[Callable[[Any], Any] | None, tuple[int, int] | None]:
    """Return a function from pictures to vectors and patch tokens of a vision tower, and the grid of the tokens.

    The tokens go the way of the class token: the last normalisation, then the projection. Both are None where the tower
    pools in another way than by that token.
    """
    trunk = getattr(visual, "trunk", None)
    if trunk is not None:
        if getattr(trunk, "global_pool", None) != "token" or not hasattr(trunk, "num_prefix_tokens"):
            return None, None

        def of_timm(image: Any) -> Any:
            found = trunk.forward_features(image)
            return visual.head(trunk.forward_head(found)), visual.head(found[:, trunk.num_prefix_tokens :])

        return of_timm, tuple(trunk.patch_embed.grid_size)
    if getattr(visual, "pool_type", None) != "tok" or getattr(visual, "attn_pool", None) is not None:
        return None, None

    def of_open_clip(image: Any) -> Any:
        found = visual.transformer(visual._embeds(image))
        pooled, tokens = visual._pool(found)
        tokens = visual.ln_post(tokens) if visual.final_ln_after_pool else tokens
        return pooled @ visual.proj, tokens @ visual.proj

    return of_open_clip, tuple(visual.grid_size)


def model_side(visual: Any) -> int:
    """Return the side of the pictures that a vision tower takes."""
    size = visual.image_size
    return int(size[0] if isinstance(size, (tuple, list)) else size)
