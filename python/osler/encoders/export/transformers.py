"""Builds CLIP, SigLIP and DINOv2 encoders of the transformers library from their configuration and state dict.

Needs transformers; reads no network. The options are the model's own config.json.
"""

from __future__ import annotations

from typing import Any

from osler.encoders.entry import Entry
from osler.encoders.export.towers import ImageModel, TextModel, Tokens, Towers
from osler.encoders.export.weights import Checkpoint, load_into

__all__ = ["build", "module"]

_CLASSES = {"clip": "CLIPModel", "siglip": "SiglipModel", "dinov2": "Dinov2Model"}


def module(options: dict[str, Any]) -> Any:
    """Return a model of that configuration with random weights.

    Parameters
    ----------
    options : dict
        ``model_type`` ("clip", "siglip" or "dinov2") and the fields of its configuration.
    """
    import transformers

    transformers.logging.set_verbosity_error()  # it warns of default ids that no graph uses
    kind = options["model_type"]
    config = transformers.AutoConfig.for_model(**options)
    # written out, so that every release computes the same graph
    config._attn_implementation = "eager"
    return getattr(transformers, _CLASSES[kind])(config).eval()


def build(entry: Entry, checkpoint: Checkpoint) -> Towers:
    """Return the towers of a transformers checkpoint.

    Raises
    ------
    EncoderError
        The checkpoint is of another model.
    """
    import torch
    from torch import nn

    assert entry.architecture is not None
    options = entry.architecture.options
    model = module(options)
    load_into(model, checkpoint.tensors, entry.name)
    if options["model_type"] == "dinov2":
        return _class_token(model)
    clip = options["model_type"] == "clip"

    class Image(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.vision = model.vision_model
            self.projection = model.visual_projection if clip else nn.Identity()

        def forward(self, image: Any) -> Any:
            return self.projection(self.vision(pixel_values=image).pooler_output)

    class WithTokens(Image):
        def forward(self, image: Any) -> Any:
            found = self.vision(pixel_values=image)
            patches = self.vision.post_layernorm(found.last_hidden_state[:, 1:])
            return self.projection(found.pooler_output), self.projection(patches)

    class Text(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.text = model.text_model
            self.projection = model.text_projection if clip else nn.Identity()

        def forward(self, ids: Any, mask: Any = None) -> Any:
            return self.projection(self.text(input_ids=ids, attention_mask=mask).pooler_output)

    side = model.config.vision_config.image_size
    with torch.no_grad():
        scale = float(model.logit_scale.exp())
        bias = None if clip else float(model.logit_bias)
    text = None
    if entry.text is not None:
        # CLIP is causal and pools where a text ends, so what follows cannot matter; SigLIP attends to its padding
        text = TextModel(Text().eval(), entry.text.max_length)
    # SigLIP pools by attention, whose values are of another space than its vectors
    tokens = Tokens(WithTokens().eval(), _grid(model.config.vision_config)) if clip else None
    return Towers(
        image=ImageModel(Image().eval(), (3, side, side), tokens=tokens),
        text=text,
        logit_scale=scale,
        logit_bias=bias,
        libraries=("torch", "transformers"),
    )


def _class_token(model: Any) -> Towers:
    from torch import nn

    class Image(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, image: Any) -> Any:
            return self.model(pixel_values=image).last_hidden_state[:, 0]

    class WithTokens(Image):
        def forward(self, image: Any) -> Any:
            found = self.model(pixel_values=image).last_hidden_state
            return found[:, 0], found[:, 1:]

    side = model.config.image_size
    image = ImageModel(Image().eval(), (3, side, side), tokens=Tokens(WithTokens().eval(), _grid(model.config)))
    return Towers(image=image, libraries=("torch", "transformers"))


def _grid(config: Any) -> tuple[int, int]:
    side = config.image_size // config.patch_size
    return side, side
