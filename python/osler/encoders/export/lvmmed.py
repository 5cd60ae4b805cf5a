"""Builds LVM-Med (D. M. H. Nguyen et al., NeurIPS 2023): pictures of many modalities, a ResNet-50 or SAM's ViT-B.

Needs torchvision, or timm for the ViT.
"""

from __future__ import annotations

import functools
import re
from typing import Any

from osler.encoders.entry import Entry
from osler.encoders.export import parts
from osler.encoders.export.towers import Towers
from osler.encoders.export.weights import Checkpoint, load_into

__all__ = ["NAMES", "UNUSED", "build", "module"]

UNUSED = ("fc.", "neck.", "classifier.")
NAMES = ((".mlp.lin1.", ".mlp.fc1."), (".mlp.lin2.", ".mlp.fc2."))  # SAM's to timm's


def module(options: dict[str, Any]) -> Any:
    """Return the model with random weights.

    Parameters
    ----------
    options : dict
        ``vision``: "vit" or "resnet50"; ``side`` in pixels, 224 unless given; ``depth`` of the ViT, 12 unless given.

    Returns
    -------
    torch.nn.Module
    """
    from torch import nn

    if options["vision"] == "resnet50":
        return parts.resnet50().eval()
    # tables of relative positions are as long as at 1024 px, and stretched for other sizes
    sam = parts.library("timm.models.vision_transformer_sam").VisionTransformerSAM
    model = sam(
        img_size=1024,
        patch_size=16,
        embed_dim=768,
        depth=int(options.get("depth", 12)),
        num_heads=12,
        num_classes=0,
        global_pool="",
        neck_chans=0,
        norm_layer=functools.partial(nn.LayerNorm, eps=1e-6),
        use_abs_pos=False,
        use_rel_pos=True,
        window_size=14,
        global_attn_indexes=(2, 5, 8, 11),
    )
    # timm normalises here, the authors' classifiers do not
    model.neck = nn.Identity()
    for block in model.blocks:
        block.attn.fused_attn = False  # its three axes are not known to the exporter
    return model.eval()


def build(entry: Entry, checkpoint: Checkpoint) -> Towers:
    """Return the tower of an LVM-Med checkpoint: the average over its last map, as in the authors' classifiers.

    Raises
    ------
    EncoderError
        The checkpoint is of another model.
    """
    assert entry.architecture is not None
    options = entry.architecture.options
    model = module(options)
    vit = options["vision"] == "vit"
    tensors = parts.renamed(checkpoint.tensors, NAMES) if vit else _of_torchvision(checkpoint.tensors)
    load_into(model, tensors, entry.name, unused=UNUSED)

    def image(batch: Any) -> Any:
        return model.forward_features(batch).mean((2, 3)) if vit else model(batch)

    def tokens(batch: Any) -> Any:
        found = model.forward_features(batch) if vit else parts.resnet50_map(model, batch)
        return found.mean((2, 3)), found

    side = int(options.get("side", 224))
    libraries = ("timm" if vit else "torchvision",)
    return parts.as_towers(entry, model, image, None, (3, side, side), libraries, tokens=tokens)


def _of_torchvision(tensors: dict[str, Any]) -> dict[str, Any]:
    """Bring the names that transformers gives the parts of a ResNet to torchvision's."""
    found = {}
    for key, value in tensors.items():
        name = key.replace(".normalization.", ".bn.").replace(".convolution.", ".conv.")
        name = re.sub(r"^(?:resnet\.)?embedder\.embedder\.(conv|bn)\.", r"\g<1>1.", name)
        stage = re.match(
            r"(?:resnet\.)?encoder\.stages\.(\d+)\.layers\.(\d+)\.(layer\.(\d)|shortcut)\.(conv|bn)\.(.+)", name
        )
        if stage is not None:
            number, block, _, place, kind, last = stage.groups()
            part = f"{kind}{int(place) + 1}" if place is not None else f"downsample.{int(kind == 'bn')}"
            name = f"layer{int(number) + 1}.{block}.{part}.{last}"
        found[name] = value
    return found
