"""Builds the encoders of VoCo and VoComni (L. Wu et al., CVPR 2024 and TPAMI 2026): CT volumes, half of SwinUNETR.

Needs MONAI.
"""

from __future__ import annotations

from typing import Any

from osler.encoders.entry import Entry
from osler.encoders.export import parts
from osler.encoders.export.towers import Towers
from osler.encoders.export.weights import Checkpoint, load_into

__all__ = ["UNUSED", "build", "module"]

UNUSED = ("decoder", "out.")  # of VoComni, which was trained to segment as well


def module(options: dict[str, Any]) -> Any:
    """Return the model with random weights.

    Parameters
    ----------
    options : dict
        ``width`` of the first stage: 48, 96 or 192; ``shape`` of a volume, (96, 96, 96) unless given.

    Returns
    -------
    torch.nn.Module
    """
    width = int(options["width"])
    networks, blocks = parts.library("monai.networks.nets.swin_unetr"), parts.library("monai.networks.blocks")

    def block(before: int, after: int) -> Any:
        return blocks.UnetrBasicBlock(3, before, after, kernel_size=3, stride=1, norm_name="instance", res_block=True)

    swin = networks.SwinTransformer(
        in_chans=1,
        embed_dim=width,
        window_size=(7, 7, 7),
        patch_size=(2, 2, 2),
        depths=(2, 2, 2, 2),
        num_heads=(3, 6, 12, 24),
        mlp_ratio=4.0,
        qkv_bias=True,
        spatial_dims=3,
        downsample="merging",
        use_v2=True,
    )
    return parts.tree(
        {
            "swinViT": swin,
            "encoder1": block(1, width),
            "encoder2": block(width, width),
            "encoder3": block(2 * width, 2 * width),
            "encoder4": block(4 * width, 4 * width),
            "encoder10": block(16 * width, 16 * width),
        }
    )


def build(entry: Entry, checkpoint: Checkpoint) -> Towers:
    """Return the tower of a VoCo checkpoint: the averages over five maps, one after another.

    Raises
    ------
    EncoderError
        The checkpoint is of another model.
    """
    import torch

    assert entry.architecture is not None
    options = entry.architecture.options
    model = module(options)
    load_into(model, checkpoint.tensors, entry.name, unused=UNUSED)

    def image(batch: Any) -> Any:
        states = model.swinViT(batch, True)
        maps = (
            model.encoder1(batch),
            model.encoder2(states[0]),
            model.encoder3(states[1]),
            model.encoder4(states[2]),
            model.encoder10(states[4]),
        )
        return torch.cat([found.mean((2, 3, 4)) for found in maps], dim=1)

    return parts.as_towers(entry, model, image, None, (1, *options.get("shape", (96, 96, 96))), ("monai",))
