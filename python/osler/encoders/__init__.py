"""Images and texts to unit vectors: `load_encoder`, `list_encoders`, `Encoder`; knows no index.

An encoder is a folder with manifest.json; models/README.md says how one is described, made and checked.
"""

from __future__ import annotations

from osler.encoders.encoder import Encoder, load_encoder
from osler.encoders.registry import EncoderInfo, list_encoders
from osler.encoders.tokenize import TruncatedTextWarning

__all__ = ["Encoder", "EncoderInfo", "TruncatedTextWarning", "list_encoders", "load_encoder"]
