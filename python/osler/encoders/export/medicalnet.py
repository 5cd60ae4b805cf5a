"""Builds MedicalNet (S. Chen et al., Med3D, 2019): volumes of CT and MR, residual networks of 10 to 200 layers.

Needs PyTorch alone.
"""

from __future__ import annotations

from typing import Any

from osler.encoders.entry import Entry
from osler.encoders.export import parts
from osler.encoders.export.towers import Towers
from osler.encoders.export.weights import Checkpoint, load_into

__all__ = ["UNUSED", "build", "module"]

UNUSED = ("conv_seg.",)
_BLOCKS = {
    10: (1, 1, 1, 1),
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
    200: (3, 24, 36, 3),
}


def module(options: dict[str, Any]) -> Any:
    """Return the model with random weights.

    Parameters
    ----------
    options : dict
        ``depth``: 10, 18, 34, 50, 101, 152 or 200; ``shortcut``: "A" or "B"; ``shape`` of a volume, (56, 448, 448)
        unless given.

    Returns
    -------
    torch.nn.Module
    """
    from osler.encoders.export.modules.resnet3d import ResNet3d

    depth = int(options["depth"])
    return ResNet3d(
        _BLOCKS[depth],
        bottleneck=depth >= 50,
        shortcut=options["shortcut"],
        # segmentation wants fine maps: the last two layers spread instead of shrinking
        strides=(1, 2, 1, 1),
        dilations=(1, 1, 2, 4),
    ).eval()


def build(entry: Entry, checkpoint: Checkpoint) -> Towers:
    """Return the tower of a MedicalNet checkpoint: the average over its last map.

    Raises
    ------
    EncoderError
        The checkpoint is of another model.
    """
    assert entry.architecture is not None
    options = entry.architecture.options
    model = module(options)
    load_into(model, checkpoint.tensors, entry.name, unused=UNUSED)

    def image(batch: Any) -> Any:
        return model(batch)

    return parts.as_towers(entry, model, image, None, (1, *options.get("shape", (56, 448, 448))), ())
