"""`PromptSet`: what is said of each label, as data with its source, and one vector a label made of it.

Reads one JSON file; knows no collection. Averaging over prompts is CLIP's recipe (Radford et al. 2021, section 3.1.4).
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from osler.collection.space import mean_direction
from osler.encoders.registry import shipped

if TYPE_CHECKING:
    from osler.encoders import Encoder

__all__ = ["LabelPrompts", "PromptSet", "label_vectors"]

_Text = Annotated[str, Field(min_length=1)]


class LabelPrompts(BaseModel):
    """What is said of one label.

    Attributes
    ----------
    synonyms : tuple of str
        Names that are put into every template; empty means the label itself.
    descriptions : tuple of str
        Whole sentences, used as they are (expert knowledge in FLAIR's sense).
    negatives : tuple of str
        Whole sentences that say the label is absent, for ``mode="pairs"``.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    synonyms: tuple[_Text, ...] = ()
    descriptions: tuple[_Text, ...] = ()
    negatives: tuple[_Text, ...] = ()


class PromptSet(BaseModel):
    """Prompts for a set of labels: templates times synonyms, and descriptions.

    Attributes
    ----------
    name : str
    about : str
        What is classified, in a sentence.
    citation : str
        Where the labels or the form of the prompts come from.
    templates : tuple of str
        Each holds ``{}`` once, where a name goes.
    negative_templates : tuple of str
        The same for the absence of a label, for ``mode="pairs"``.
    labels : dict of str to LabelPrompts

    Examples
    --------
    >>> from osler.classify import PromptSet
    >>> prompts = PromptSet(name="lungs", templates=("a radiograph of {}",), labels={"effusion": {}})
    >>> prompts.texts("effusion")
    ['a radiograph of effusion']
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: _Text
    about: str = ""
    citation: str = ""
    templates: tuple[_Text, ...] = ("{}",)
    negative_templates: tuple[_Text, ...] = ()
    labels: dict[_Text, LabelPrompts] = Field(min_length=1)

    @field_validator("templates", "negative_templates")
    @classmethod
    def _has_one_gap(cls, templates: tuple[str, ...]) -> tuple[str, ...]:
        for template in templates:
            if template.count("{}") != 1:
                raise ValueError("each template holds {} exactly once")
        return templates

    @classmethod
    def load(cls, name_or_path: str | os.PathLike[str]) -> PromptSet:
        """Read a prompt set: a file, or the name of one that comes with Osler.

        Parameters
        ----------
        name_or_path : str or path
            A path ending in ``.json``, or a name of `names`.

        Returns
        -------
        PromptSet

        Raises
        ------
        FileNotFoundError
            If there is none of that name; the message says which there are.
        ValueError
            If the file is no prompt set; the message names the field.

        Examples
        --------
        >>> from osler.classify import PromptSet
        >>> sorted(PromptSet.load("modality").labels)[:2]
        ['computed tomography', 'magnetic resonance']
        """
        path = Path(name_or_path)
        if path.suffix.lower() != ".json":
            known = _shipped()
            if str(name_or_path) not in known:
                raise FileNotFoundError(
                    f"no prompt set {str(name_or_path)!r}; there are {', '.join(known)}, or pass a file ending in .json"
                )
            path = known[str(name_or_path)]
        try:
            return cls.model_validate_json(path.read_bytes())
        except ValidationError as error:
            first = error.errors(include_input=False, include_url=False)[0]
            where = ".".join(str(step) for step in first["loc"]) or "the document"
            raise ValueError(f"{path.name} is no prompt set: {where}: {first['msg'].lower()}") from None

    @staticmethod
    def names() -> list[str]:
        """Return the names of the prompt sets that come with Osler.

        Examples
        --------
        >>> from osler.classify import PromptSet
        >>> "modality" in PromptSet.names()
        True
        """
        return list(_shipped())

    def texts(self, label: str) -> list[str]:
        """Return the prompts of one label: every template with every synonym, then the descriptions."""
        return self._filled(label, self.templates) + list(self.labels[label].descriptions)

    def negatives(self, label: str) -> list[str]:
        """Return the prompts that say that a label is absent.

        Examples
        --------
        >>> from osler.classify import PromptSet
        >>> PromptSet.load("modality").negatives("ultrasound")[0]
        'a picture that is not ultrasound'
        """
        return self._filled(label, self.negative_templates) + list(self.labels[label].negatives)

    def _filled(self, label: str, templates: Sequence[str]) -> list[str]:
        names = self.labels[label].synonyms or (label,)
        return [template.replace("{}", name) for template in templates for name in names]


def label_vectors(prompts: Mapping[str, Any], encoder: Encoder | None, dim: int) -> np.ndarray:
    """Return one unit vector a label: the normalised mean of its prompts' unit vectors.

    Parameters
    ----------
    prompts : mapping of str to list of str or array (n, dim)
        Texts, or vectors that stand for texts.
    encoder : Encoder or None
        Needed where texts are given.
    dim : int

    Returns
    -------
    ndarray of float32, shape (labels, dim)

    Raises
    ------
    ValueError
        If a label has no prompt, vectors of another width, or prompts that cancel out.

    Examples
    --------
    >>> import numpy as np
    >>> from osler.classify.prompts import label_vectors
    >>> label_vectors({"a": np.array([[3.0, 0.0], [1.0, 0.0]])}, None, 2)
    array([[1., 0.]], dtype=float32)
    """
    texts = list(dict.fromkeys(text for given in prompts.values() if is_texts(given) for text in given))
    encoded: dict[str, np.ndarray] = {}
    if texts:
        if encoder is None:
            raise ValueError("the prompts are texts and the collection has no encoder; pass encoder=, or vectors")
        encoded = dict(zip(texts, np.asarray(encoder.encode_texts(texts), dtype=np.float64), strict=True))
    rows = []
    for label, given in prompts.items():
        vectors = np.array([encoded[text] for text in given]) if is_texts(given) else np.asarray(given, np.float64)
        if vectors.ndim != 2 or len(vectors) == 0 or vectors.shape[1] != dim:
            raise ValueError(f"the prompts of {label!r} have shape {vectors.shape}; give at least one row of {dim}")
        rows.append(mean_direction(vectors, f"the prompts of {label!r}"))
    return np.array(rows, dtype=np.float32).reshape(len(rows), dim)


def is_texts(given: Any) -> bool:
    """Say whether the prompts of a label are texts; what is no array and holds no text is left to numpy."""
    if isinstance(given, str):
        raise ValueError("the prompts of a label are a list of texts, not one text; put it into a list")
    return not isinstance(given, np.ndarray) and all(isinstance(one, str) for one in given)


def _shipped() -> dict[str, Path]:
    """Return the files of the prompt sets that come with Osler, by name; they lie beside the encoders."""
    models = next(iter(shipped().values())).parent
    return {path.stem: path for path in sorted((models / "prompts").glob("*.json"))}
