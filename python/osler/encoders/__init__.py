"""Images and texts to unit vectors: `load_encoder`, `list_encoders`, `Encoder`, `split_text`; knows no index.

An encoder is a folder with manifest.json; models/README.md says how one is described, made and checked.
"""

from __future__ import annotations

from osler.encoders.encoder import Encoder, load_encoder
from osler.encoders.long_texts import SplitTextWarning, TruncatedTextWarning
from osler.encoders.passages import Passage, split_text
from osler.encoders.registry import EncoderInfo, list_encoders

__all__ = [
    "Encoder",
    "EncoderInfo",
    "Passage",
    "SplitTextWarning",
    "TruncatedTextWarning",
    "list_encoders",
    "load_encoder",
    "split_text",
]
