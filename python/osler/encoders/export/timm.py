"""Builds image encoders of the timm library from a model's name and state dict.

Needs timm; reads no network. The options are ``model``, ``kwargs`` for timm (layers by the names that timm gives them),
and ``pool``: "cls" for the class token, "cls_mean" for it beside the mean of the patch tokens.
"""

from __future__ import annotations

from typing import Any

from osler.encoders.entry import Entry
from osler.encoders.export.towers import ImageModel, Tokens, Towers
from osler.encoders.export.weights import Checkpoint, load_into

__all__ = ["build", "module"]


def module(options: dict[str, Any]) -> Any:
    """Return a timm model of these options, without a classifier, with random weights."""
    import timm
    import torch

    kwargs = dict(options.get("kwargs", {}))
    if "mlp_layer" in kwargs:
        kwargs["mlp_layer"] = getattr(timm.layers, kwargs["mlp_layer"])
    if "act_layer" in kwargs:
        kwargs["act_layer"] = getattr(torch.nn, kwargs["act_layer"])
    return timm.create_model(options["model"], pretrained=False, num_classes=0, **kwargs).eval()


def build(entry: Entry, checkpoint: Checkpoint) -> Towers:
    """Return the image tower of a timm checkpoint.

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
    load_into(model, checkpoint.tensors, entry.name, unused=("head.",))

    both = options.get("pool") == "cls_mean"

    class Image(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, image: Any) -> Any:
            found = self.model.forward_features(image)
            first, patches = found[:, 0], found[:, self.model.num_prefix_tokens :]
            if not both:
                return first, patches
            # the class token beside each patch, so that their mean is the vector
            patches = torch.cat([found[:, :1].expand(-1, patches.shape[1], -1), patches], dim=2)
            return patches.mean(dim=1), patches

    class Vector(Image):
        def forward(self, image: Any) -> Any:
            return super().forward(image)[0]

    shape, grid = model.default_cfg["input_size"], model.patch_embed.grid_size
    pooled = Vector().eval() if both else model
    image = ImageModel(pooled, tuple(shape), tokens=Tokens(Image().eval(), tuple(grid)))
    return Towers(image=image, libraries=("torch", "timm"))
