"""Labels from an encoder or a collection, each with the part of the item that speaks for it."""

from osler.classify.prompts import LabelPrompts, PromptSet
from osler.classify.zero_shot import ZeroShot, zero_shot

__all__ = ["LabelPrompts", "PromptSet", "ZeroShot", "zero_shot"]
