"""What encoders of the papers' own layouts share: named trees, trunks without their heads, BERT with every state.

Builds modules with random weights and takes vectors out of them. Needs PyTorch, torchvision and transformers, each
imported where it is used.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from osler.encoders.entry import Entry
from osler.encoders.export.towers import ImageModel, TextModel, Tokens, Towers
from osler.errors import EncoderError

__all__ = [
    "BERT",
    "CLINICAL_BERT",
    "as_towers",
    "at_mask_end",
    "bert",
    "bert_states",
    "call",
    "library",
    "linear_map",
    "masked_mean",
    "renamed",
    "resnet50",
    "resnet50_map",
    "swin_names",
    "swin_tiny",
    "tree",
    "unit",
]

# BERT-base as Google published it; vocabularies differ
BERT: dict[str, Any] = {"vocab_size": 30522, "layer_norm_eps": 1e-12, "hidden_act": "gelu"}
CLINICAL_BERT: dict[str, Any] = {**BERT, "vocab_size": 28996}

_SWIN_TINY = {"image_size": 224, "embed_dim": 96, "depths": [2, 2, 6, 2], "num_heads": [3, 6, 12, 24], "window_size": 7}
# transformers 5 names the parts of Swin anew; checkpoints have the older names
_SWIN_NAMES = (
    (".attention.self.query.", ".attention.q_proj."),
    (".attention.self.key.", ".attention.k_proj."),
    (".attention.self.value.", ".attention.v_proj."),
    (".attention.output.dense.", ".attention.o_proj."),
    (".attention.self.relative_position_", ".attention.relative_position_bias.relative_position_"),
    (".intermediate.dense.", ".mlp.fc1."),
    (".output.dense.", ".mlp.fc2."),
)


def library(name: str) -> Any:
    """Import a library of the original model.

    Raises
    ------
    EncoderError
        It is not installed (code ``package_missing``).
    """
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        missing = (error.name or name).partition(".")[0]
        raise EncoderError(
            f'exporting this encoder needs the package {missing}; pip install "osler[export]" {missing}',
            code="package_missing",
        ) from None


def tree(named: Mapping[str, Any]) -> Any:
    """Return a module whose parts lie under the dotted names of a published checkpoint.

    Parameters
    ----------
    named : mapping of str to torch.nn.Module or torch.nn.Parameter

    Returns
    -------
    torch.nn.Module
        Without a forward pass of its own, in evaluation mode.
    """
    from torch import nn

    root = nn.Module()
    for name, part in named.items():
        *path, last = name.split(".")
        place = root
        for step in path:
            if step not in place._modules:
                place.add_module(step, nn.Module())
            place = getattr(place, step)
        if isinstance(part, nn.Parameter):
            place.register_parameter(last, part)
        else:
            place.add_module(last, part)
    return root.eval()


def call(function: Callable[..., Any], model: Any, inputs: int = 1) -> Any:
    """Return a module that runs a function of one or two tensors over a model which it owns."""
    from torch import nn

    class Call(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

    # torch.export counts the parameters of the signature
    class One(Call):
        def forward(self, batch: Any) -> Any:
            return function(batch)

    class Two(Call):
        def forward(self, ids: Any, mask: Any) -> Any:
            return function(ids, mask)

    return (One if inputs == 1 else Two)().eval()


def renamed(tensors: Mapping[str, Any], names: Iterable[tuple[str, str]], within: str = "") -> dict[str, Any]:
    """Return the tensors with the first fitting part of each name replaced, where the name begins with `within`.

    Examples
    --------
    >>> from osler.encoders.export.parts import renamed
    >>> renamed({"image.mlp.lin1.bias": 0, "text.mlp.lin1.bias": 1}, [(".lin1.", ".fc1.")], "image.")
    {'image.mlp.fc1.bias': 0, 'text.mlp.lin1.bias': 1}
    """
    pairs = tuple(names)
    found = {}
    for key, value in tensors.items():
        fitting = (pair for pair in pairs if pair[0] in key) if key.startswith(within) else iter(())
        old, new = next(fitting, ("", ""))
        found[key.replace(old, new, 1) if old else key] = value
    return found


def as_towers(
    entry: Entry,
    model: Any,
    image: Callable[[Any], Any] | None,
    text: Callable[..., Any] | None,
    shape: tuple[int, ...],
    libraries: tuple[str, ...],
    *,
    masked: bool = True,
    dynamic: bool = True,
    bias: float | None = None,
    most: float = math.inf,
    tokens: Callable[[Any], Any] | None = None,
    grid: tuple[int, int] | None = None,
) -> Towers:
    """Wrap the two ways through a filled model.

    Parameters
    ----------
    entry : Entry
        A tower that it does not have is left out.
    model : torch.nn.Module
        With ``logit_scale``, the natural logarithm of the scale, where `entry` reads it from the checkpoint.
    image, text : callable or None
        ``image(batch)`` and ``text(ids, mask)``, or ``text(ids)`` where `masked` is false.
    shape : tuple of int
        Of one picture or volume.
    libraries : tuple of str
        Beside torch.
    masked, dynamic : bool
        See `TextModel`.
    bias : float, optional
        ``logit_bias`` as the weights have it.
    most : float
        What the authors' code cuts the scale to.
    tokens : callable, optional
        ``tokens(batch)`` gives the vectors and the patch tokens; see `Tokens`.
    grid : tuple of int, optional
        Of the tokens, where they are no map.
    """
    log = getattr(model, "logit_scale", None)
    scale = None
    if log is not None and entry.logit_scale == "checkpoint":
        scale = min(math.exp(float(log.detach())), most)
    seen = None
    if image is not None and entry.image is not None:
        seen = ImageModel(
            call(image, model), shape, tokens=None if tokens is None else Tokens(call(tokens, model), grid)
        )
    return Towers(
        image=seen,
        text=TextModel(call(text, model, 1 + masked), entry.text.max_length, masked=masked, dynamic=dynamic)
        if text is not None and entry.text is not None
        else None,
        logit_scale=scale,
        logit_bias=bias,
        libraries=("torch", *libraries),
    )


def unit(vectors: Any) -> Any:
    """Return rows of length 1."""
    return vectors / vectors.norm(dim=-1, keepdim=True)


def resnet50() -> Any:
    """Return torchvision's ResNet-50 up to its pooled 2048 features."""
    from torch import nn

    trunk = library("torchvision.models").resnet50(weights=None)
    trunk.fc = nn.Identity()
    return trunk


def resnet50_map(trunk: Any, image: Any) -> Any:
    """Return the last feature map (n, 2048, height / 32, width / 32) of a torchvision ResNet."""
    found = trunk.maxpool(trunk.relu(trunk.bn1(trunk.conv1(image))))
    return trunk.layer4(trunk.layer3(trunk.layer2(trunk.layer1(found))))


def linear_map(layer: Any, found: Any) -> Any:
    """Return a linear layer over each place of a map (n, channels, rows, columns); it keeps the mean of the places."""
    return layer(found.movedim(1, -1)).movedim(-1, 1)


def swin_tiny() -> Any:
    """Return transformers' Swin-T at 224 px with windows of 7 and its pooling layer."""
    transformers = library("transformers")
    config = transformers.SwinConfig(**_SWIN_TINY)
    config._attn_implementation = "eager"
    return transformers.SwinModel(config)


def swin_names(model: Any) -> tuple[tuple[str, str], ...]:
    """Return how published names of Swin become those of the installed transformers."""
    return _SWIN_NAMES if any(".attention.q_proj." in key for key in model.state_dict()) else ()


def bert(config: Mapping[str, Any], *, pooler: bool = False) -> Any:
    """Return transformers' BertModel of a configuration.

    Parameters
    ----------
    config : mapping
        Fields of BertConfig; what it leaves out is BERT-base's.
    pooler : bool
        With the dense layer and tanh over the first token.
    """
    transformers = library("transformers")
    full = transformers.BertConfig(**{"attn_implementation": "eager", **config})
    return transformers.BertModel(full, add_pooling_layer=pooler)


def bert_states(
    model: Any, ids: Any, mask: Any | None, *, positions: Any | None = None, band: int | None = None
) -> list[Any]:
    """Return the embeddings and the states after each layer.

    Parameters
    ----------
    model : transformers.BertModel
    ids : torch.Tensor
        (n, tokens) int64.
    mask : torch.Tensor or None
        (n, tokens), 1 for tokens and 0 for padding; None where the authors gave none, so that padding is attended to.
    positions : torch.Tensor, optional
        (n, tokens) int64, where they do not count from 0.
    band : int, optional
        How far a token sees to either side, which is Longformer's attention without global tokens.

    Returns
    -------
    list of torch.Tensor
        Each (n, tokens, d).
    """
    import torch

    states = [model.embeddings(input_ids=ids, position_ids=positions)]
    bias = None
    if mask is not None:
        seen = mask[:, None, None, :] > 0
        if band is not None:
            places = torch.arange(ids.shape[1])
            seen = seen & ((places[:, None] - places[None, :]).abs() <= band)
        # the least number instead of infinity: a row of padding may see nothing
        bias = torch.where(seen, 0.0, torch.finfo(torch.float32).min)
    for layer in model.encoder.layer:
        found = layer(states[-1], bias)
        states.append(found[0] if isinstance(found, tuple) else found)
    return states


def masked_mean(states: Any, mask: Any) -> Any:
    """Return the mean (n, d) of the states under the mask."""
    weights = mask[:, :, None].to(states.dtype)
    return (states * weights).sum(1) / weights.sum(1)


def at_mask_end(states: Any, mask: Any) -> Any:
    """Return the last state (n, d) under the mask, which is [SEP]."""
    last = mask.sum(1) - 1
    return states.gather(1, last[:, None, None].expand(-1, 1, states.shape[-1]))[:, 0]
