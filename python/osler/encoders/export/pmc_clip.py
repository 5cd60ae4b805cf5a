"""Builds PMC-CLIP (W. Lin et al., MICCAI 2023): figures of papers and their captions, CLIP's ResNet-50 and PubMedBERT.

Needs open_clip and transformers.
"""

from __future__ import annotations

from typing import Any

from osler.encoders.entry import Entry
from osler.encoders.export import parts
from osler.encoders.export.towers import Towers
from osler.encoders.export.weights import Checkpoint, load_into

__all__ = ["UNUSED", "build", "module"]

# the tower that joins both, for masked words, and PubMedBERT's own pooler
UNUSED = (
    "fusion_module.",
    "mlm_projection",
    "img_special_token",
    "positional_embedding",
    "ln_final.",
    "text_encoder.pooler.",
)


def module(options: dict[str, Any]) -> Any:
    """Return the model with random weights.

    Parameters
    ----------
    options : dict
        ``heads`` of the attention that pools a picture, 32 in the authors' configuration, of which the weights know
        nothing; ``bert``: fields of BertConfig that differ from PubMedBERT's.

    Returns
    -------
    torch.nn.Module
    """
    import torch
    from torch import nn

    text = parts.bert({**parts.BERT, **options.get("bert", {})})
    resnet = parts.library("open_clip.modified_resnet").ModifiedResNet(
        layers=(3, 4, 6, 3), output_dim=768, heads=int(options.get("heads", 32)), image_size=224, width=64
    )
    return parts.tree(
        {
            "visual": resnet,
            "text_encoder": text,
            "text_projection": nn.Parameter(torch.randn(text.config.hidden_size, 768) * 0.03),
            "logit_scale": nn.Parameter(torch.tensor(2.6593)),
        }
    )


def build(entry: Entry, checkpoint: Checkpoint) -> Towers:
    """Return the towers of a PMC-CLIP checkpoint.

    The authors give no attention mask, so that padding is attended to and a text is always padded to its full length.

    Raises
    ------
    EncoderError
        The checkpoint is of another model.
    """
    assert entry.architecture is not None
    model = module(entry.architecture.options)
    load_into(model, checkpoint.tensors, entry.name, unused=UNUSED)

    def image(batch: Any) -> Any:
        return model.visual(batch)

    def text(ids: Any) -> Any:
        return parts.bert_states(model.text_encoder, ids, None)[-1][:, 0] @ model.text_projection

    libraries = ("open_clip_torch", "transformers")
    return parts.as_towers(entry, model, image, text, (3, 224, 224), libraries, masked=False, dynamic=False)
