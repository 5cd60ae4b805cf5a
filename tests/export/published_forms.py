"""How authors wrote what they published: names, wrappings, and tensors that a vector does not need.

A function a builder, of its name: from the state dict of its module and the entry to what the file holds.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from osler.encoders.entry import Entry

# transformers 5 to the names in which Swin was published
SWIN = (
    (".attention.q_proj.", ".attention.self.query."),
    (".attention.k_proj.", ".attention.self.key."),
    (".attention.v_proj.", ".attention.self.value."),
    (".attention.o_proj.", ".attention.output.dense."),
    (".attention.relative_position_bias.relative_position_", ".attention.self.relative_position_"),
    (".mlp.fc1.", ".intermediate.dense."),
    (".mlp.fc2.", ".output.dense."),
)
SAM = ((".mlp.fc1.", ".mlp.lin1."), (".mlp.fc2.", ".mlp.lin2."))

State = dict[str, Any]


def renamed(state: State, pairs: Iterable[tuple[str, str]], within: str = "") -> State:
    """Replace the first fitting part of each name."""
    found = {}
    for key, value in state.items():
        new = next((pair for pair in pairs if key.startswith(within) and pair[0] in key), ("", ""))
        found[key.replace(*new, 1) if new[0] else key] = value
    return found


def dense(name: str, after: int, before: int) -> State:
    """Return weight and bias of a dense layer."""
    return {f"{name}.weight": torch.zeros(after, before), f"{name}.bias": torch.zeros(after)}


def flair(state: State, entry: Entry) -> Any:
    return {**state, **dense("text_model.model.pooler.dense", 768, 768)}


def medclip(state: State, entry: Entry) -> Any:
    ids = {"text_model.model.embeddings.position_ids": torch.arange(512)[None]}
    return {**renamed(state, SWIN, "vision_model."), **ids, **dense("text_model.model.pooler.dense", 768, 768)}


def mgca(state: State, entry: Entry) -> Any:
    mark = entry.architecture.options.get("mark", "_q")
    layer = f"text_encoder{mark}.model.encoder.layer.5.crossattention.self.query"
    more = {**dense(layer, 768, 768), "prototype_layer.weight": torch.zeros(500, 128)}
    local = dense(f"img_encoder{mark}.local_embed.head.0", 2048, 768)
    return {"epoch": 3, "state_dict": {**state, **more, **local}, "hyper_parameters": {"softmax_temperature": 0.07}}


def convirt(state: State, entry: Entry) -> Any:
    return {"model": state}


def cxr_clip(state: State, entry: Entry) -> Any:
    more = dense("text_encoder.text_encoder.pooler.dense", 768, 768)
    return {"model": {**renamed(state, SWIN, "image_encoder."), **more}, "config": {"model": {"name": "clip_custom"}}}


def kimianet(state: State, entry: Entry) -> Any:
    older = renamed(state, [(f".{kind}{n}.", f".{kind}.{n}.") for kind in ("norm", "conv") for n in (1, 2)],
                    "model.0.denseblock")  # fmt: skip
    return {f"module.{key}": value for key, value in {**older, **dense("fc_4", 30, 1024)}.items()}


def merlin(state: State, entry: Entry) -> Any:
    query = "encode_text.text_encoder.encoder.layer.0.attention.self.query_global"
    classifier = {
        "encode_image.i3_resnet.classifier.weight": torch.zeros(1692, 2048, 1, 1, 1),
        "encode_image.i3_resnet.classifier.bias": torch.zeros(1692),
    }
    return {**state, **classifier, **dense(query, 768, 768), **dense("encode_text.text_encoder.pooler.dense", 768, 768)}


def medicalnet(state: State, entry: Entry) -> Any:
    return {"epoch": 80, "state_dict": {f"module.{key}": value for key, value in state.items()}}


def conceptclip(state: State, entry: Entry) -> Any:
    more = {"image_proj.0.weight": torch.zeros(8, 8), "concept_logit_scale": torch.zeros(())}
    return {**state, **more}


def pmc_clip(state: State, entry: Entry) -> Any:
    more = {"mlm_projection": torch.zeros(4, 4), **dense("fusion_module.resblocks.0.attn.out_proj", 8, 8)}
    more |= dense("text_encoder.pooler.dense", 768, 768)
    return {"epoch": 1, "state_dict": {f"module.{key}": value for key, value in {**state, **more}.items()}}


def conch(state: State, entry: Entry) -> Any:
    return {**state, "visual.attn_pool_caption.query": torch.zeros(256, 768), **dense("visual.ln_caption", 8, 8)}


def unimed(state: State, entry: Entry) -> Any:
    ids = {"text_encoder.transformer.embeddings.position_ids": torch.arange(512)[None]}
    return {"state_dict": {f"module.{key}": value for key, value in {**state, **ids}.items()}}


def lvmmed(state: State, entry: Entry) -> Any:
    return renamed(state, SAM) if entry.architecture.options["vision"] == "vit" else state
