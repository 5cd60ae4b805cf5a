"""Weights of other frameworks, from installed packages, to ONNX without these frameworks, once for each user.

One file for each architecture, `graph` for what they share, `cache` for where the result is kept.
"""

from __future__ import annotations

from osler.encoders.convert.cache import cached_model, check_packages, is_converted

__all__ = ["cached_model", "check_packages", "is_converted"]
