"""Decisions about data, written down and undoable."""

from osler.curate.decisions import Decisions
from osler.curate.duplicates import near_duplicates
from osler.curate.filters import score_filter

__all__ = ["Decisions", "near_duplicates", "score_filter"]
