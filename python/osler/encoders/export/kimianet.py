"""Builds KimiaNet (A. Riasatian et al., Medical Image Analysis 2021): patches of histology, a DenseNet-121.

Needs torchvision.
"""

from __future__ import annotations

import re
from typing import Any

from osler.encoders.entry import Entry
from osler.encoders.export import parts
from osler.encoders.export.towers import Towers
from osler.encoders.export.weights import Checkpoint, load_into

__all__ = ["UNUSED", "build", "module"]

UNUSED = ("fc_4.",)  # thirty classes of TCGA


def module(options: dict[str, Any]) -> Any:
    """Return the model with random weights.

    Parameters
    ----------
    options : dict
        ``side`` in pixels, 1000 unless given, of which the weights know nothing.

    Returns
    -------
    torch.nn.Module
    """
    return parts.tree({"model.0": parts.library("torchvision.models").densenet121(weights=None).features})


def build(entry: Entry, checkpoint: Checkpoint) -> Towers:
    """Return the tower of a KimiaNet checkpoint: the average over the map after the last normalisation.

    torchvision's own forward pass has a ReLU before that average, the authors' has none.

    Raises
    ------
    EncoderError
        The checkpoint is of another model.
    """
    assert entry.architecture is not None
    options = entry.architecture.options
    model = module(options)
    # "norm.1" is how torchvision named the parts of a layer before 0.3
    tensors = {
        re.sub(r"(\.denselayer\d+\.(?:norm|relu|conv))\.(\d\.)", r"\1\2", key): value
        for key, value in checkpoint.tensors.items()
    }
    load_into(model, tensors, entry.name, unused=UNUSED)
    features = getattr(model.model, "0")

    def image(batch: Any) -> Any:
        return features(batch).mean((2, 3))

    def tokens(batch: Any) -> Any:
        found = features(batch)
        return found.mean((2, 3)), found

    side = int(options.get("side", 1000))
    return parts.as_towers(entry, model, image, None, (3, side, side), ("torchvision",), tokens=tokens)
