"""A published file of the papers' own layouts loads as it was written, and no other does.

True shapes are compared without memory, on PyTorch's device "meta"; what is loaded is a smaller model of each family.
"""

from __future__ import annotations

import contextlib
import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent))
import published_forms
from checkpoints import random_checkpoint, weight_file
from osler import EncoderError, load_encoder
from osler.encoders.check import check_encoder
from osler.encoders.entry import Entry, entries
from osler.encoders.export import export_encoder
from osler.encoders.export.weights import Checkpoint, read_weights

BERT = {"num_hidden_layers": 3, "hidden_size": 96, "num_attention_heads": 4, "intermediate_size": 128}
HF = {**BERT, "model_type": "bert"}
SMALL: dict[str, dict[str, Any]] = {
    "flair": {"bert": BERT},
    "medclip-vit": {"vision": "swin", "bert": BERT},
    "medclip-rn50": {"vision": "resnet50", "bert": BERT},
    "biovil": {"bert": BERT},
    "biovil-t": {"bert": BERT},
    "mgca-vit": {"bert": BERT},
    "mgca-rn50": {"bert": BERT},
    "convirt": {"bert": BERT},
    "cxr-clip-r50-m": {"bert": BERT},
    "cxr-clip-swint-mcc": {"bert": BERT},
    "kimianet": {},
    "merlin": {"blocks": (1, 1, 1, 1), "bert": BERT},
    "medicalnet-rn10": {},
    "medimageinsight": {
        "image": {"depths": (1, 1, 1, 1), "widths": (32, 32, 64, 64), "heads": (1, 1, 2, 2)},
        "text": {"layers": 1, "width": 64, "heads": 2},
    },
    "conceptclip": {
        "vision_cfg": {"timm_model_name": "vit_tiny_patch16_384", "timm_pool": "avg", "timm_proj": "none",
                       "image_size": 384},
        "embed_dim": 192,
        "hf_text_config": HF,
    },
    "unimed-b16": {"vision_cfg": {"image_size": 224, "layers": 1, "width": 64, "patch_size": 16}, "hf_text_config": HF},
    "pmc-clip": {"bert": BERT},
    "conch": {"layers": 1, "vision": {"depth": 1}},
    "voco-b": {"width": 12},
    "lvmmed-rn50": {},
    "lvmmed-vit": {"depth": 2},
}  # fmt: skip
FAMILIES = {entries()[name].architecture.builder for name in SMALL}
OWN = sorted(name for name, entry in entries().items() if entry.architecture and entry.architecture.builder in FAMILIES)

# From the authors' repositories: a few names of each file, and what must be their shape.
PUBLISHED = {
    "flair": {
        "vision_model.model.conv1.weight": (64, 3, 7, 7),
        "vision_model.projection_head_vision.projection.weight": (512, 2048),
        "text_model.model.embeddings.word_embeddings.weight": (28996, 768),
        "text_model.projection_head_text.projection.weight": (512, 768),
        "logit_scale": (),
    },
    "medclip-vit": {
        "vision_model.model.encoder.layers.2.blocks.5.attention.self.relative_position_bias_table": (169, 12),
        "vision_model.model.encoder.layers.0.downsample.reduction.weight": (192, 384),
        "vision_model.projection_head.weight": (512, 768),
        "text_model.projection_head.weight": (512, 768),
    },
    "medclip-rn50": {"vision_model.model.fc.weight": (512, 2048)},
    "biovil": {
        "projector.model.0.weight": (128, 2048, 1, 1),
        "projector.model.3.bias": (128,),
        "cls_projection_head.dense_to_hidden.weight": (128, 768),
        "bert.embeddings.word_embeddings.weight": (30522, 768),
    },
    "biovil-t": {
        "encoder.backbone_to_vit.weight": (256, 2048, 1, 1),
        "encoder.missing_previous_emb": (1, 256, 1, 1),
        "projector.model.0.weight": (128, 512, 1, 1),
    },
    "mgca-vit": {
        "img_encoder_q.model.pos_embed": (1, 197, 768),
        "img_encoder_q.global_embed.head.3.weight": (128, 2048),
        "img_encoder_q.global_embed.head.4.running_var": (128,),
        "text_encoder_q.model.encoder.layer.5.output.dense.weight": (768, 3072),
    },
    "mgca-rn50": {"img_encoder_q.global_embed.head.0.weight": (2048, 2048)},
    "convirt": {"vis_proj.0.weight": (768, 2048), "lin_proj.2.bias": (768,), "visual.model.bn1.running_mean": (64,)},
    "cxr-clip-r50-mcc": {
        "image_encoder.resnet.layer4.2.conv3.weight": (2048, 512, 1, 1),
        "image_projection.projection.weight": (512, 2048),
        "text_projection.projection.bias": (512,),
    },
    "cxr-clip-swint-m": {
        "image_encoder.image_encoder.layernorm.weight": (768,),
        "image_projection.projection.weight": (512, 768),
        "text_encoder.text_encoder.embeddings.word_embeddings.weight": (28996, 768),
    },
    "kimianet": {"model.0.conv0.weight": (64, 3, 7, 7), "model.0.norm5.bias": (1024,)},
    "merlin": {
        "encode_image.i3_resnet.conv1.weight": (64, 3, 3, 7, 7),
        "encode_image.i3_resnet.layer3.35.conv2.weight": (256, 256, 3, 3, 3),
        "encode_image.i3_resnet.contrastive_head.weight": (512, 2048, 1, 1, 1),
        "encode_text.text_encoder.embeddings.position_embeddings.weight": (4098, 768),
        "encode_text.text_encoder.embeddings.word_embeddings.weight": (50265, 768),
        "encode_text.linear_layer.weight": (512, 768),
    },
    "medicalnet-rn50": {"conv1.weight": (64, 1, 7, 7, 7), "layer4.2.conv3.weight": (2048, 512, 1, 1, 1)},
    "medimageinsight": {
        "image_encoder.convs.0.proj.weight": (256, 3, 7, 7),
        "image_encoder.blocks.2.8.channel_block.channel_attn.fn.qkv.weight": (3072, 1024),
        "image_encoder.blocks.3.0.spatial_block.conv1.fn.dw.weight": (2048, 1, 3, 3),
        "image_encoder.norms.weight": (2048,),
        "image_projection": (2048, 1024),
        "lang_encoder.resblocks.15.attn.in_proj_weight": (3072, 1024),
        "lang_encoder.positional_embedding": (77, 1024),
        "lang_projection": (1024, 1024),
    },
    "conceptclip": {
        "visual.trunk.pos_embed": (1, 729, 1152),
        "visual.trunk.attn_pool.latent": (1, 1, 1152),
        "visual.trunk.blocks.26.mlp.fc1.weight": (4304, 1152),
        "text.proj.weight": (1152, 768),
        "text.transformer.pooler.dense.weight": (768, 768),
        "logit_bias": (),
    },
    "unimed-b16": {
        "visual.proj": (768, 512),
        "text_encoder.proj.0.weight": (640, 768),
        "text_encoder.proj.2.weight": (512, 640),
    },
    "unimed-l14-336-large": {
        "visual.positional_embedding": (577, 1024),
        "text_encoder.proj.0.weight": (896, 1024),
        "text_encoder.transformer.encoder.layer.23.output.dense.bias": (1024,),
    },
    "pmc-clip": {
        "visual.attnpool.positional_embedding": (50, 2048),
        "visual.attnpool.c_proj.weight": (768, 2048),
        "visual.layer1.0.downsample.0.weight": (256, 64, 1, 1),
        "text_projection": (768, 768),
    },
    "conch": {
        "visual.attn_pool_contrast.attn.k_proj_weight": (512, 768),
        "visual.trunk.pos_embed": (1, 785, 768),
        "text.token_embedding.weight": (32007, 768),
        "text.positional_embedding": (128, 768),
        "text.cls_emb": (768,),
        "text.text_projection": (768, 512),
    },
    "voco-h": {
        "swinViT.patch_embed.proj.weight": (192, 1, 2, 2, 2),
        "swinViT.layers1.0.downsample.reduction.weight": (384, 1536),
        "swinViT.layers1c.0.layer.conv1.conv.weight": (192, 192, 3, 3, 3),
        "encoder10.layer.conv2.conv.weight": (3072, 3072, 3, 3, 3),
    },
    "vocomni-l": {
        "swinViT.patch_embed.proj.weight": (96, 1, 2, 2, 2),
        "encoder10.layer.conv1.conv.weight": (1536, 1536, 3, 3, 3),
    },
    "lvmmed-rn50": {"layer1.0.downsample.0.weight": (256, 64, 1, 1)},
    "lvmmed-vit": {
        "blocks.2.attn.rel_pos_h": (127, 64),
        "blocks.3.attn.rel_pos_w": (27, 64),
        "blocks.11.mlp.lin1.weight": (3072, 768),
    },
}


def builder(entry: Entry) -> Any:
    assert entry.architecture is not None
    return importlib.import_module(f"osler.encoders.export.{entry.architecture.builder}")


@contextlib.contextmanager
def no_memory() -> Iterator[None]:
    """Make modules on the device that holds no values, but for the few numbers that MONAI reads while it does."""
    plain = torch.linspace
    with pytest.MonkeyPatch.context() as patch, torch.device("meta"):
        patch.setattr(torch, "linspace", lambda *given, **more: plain(*given, **{**more, "device": "cpu"}))
        yield


def unmade(entry: Entry) -> dict[str, Any]:
    """Return the state dict of an entry's true shape, without memory."""
    with no_memory():
        return dict(builder(entry).module(entry.architecture.options).state_dict())


def small(name: str) -> tuple[Entry, dict[str, Any]]:
    data = entries()[name].model_dump()
    data["dim"] = {"conceptclip": 192, "voco-b": 288}.get(name, data["dim"])
    options = {**data["architecture"]["options"], **SMALL[name]}
    data["architecture"]["options"] = options
    return Entry.model_validate(data), options


@pytest.mark.parametrize("name", sorted(PUBLISHED))
def test_names_and_shapes(name: str) -> None:
    entry = entries()[name]
    form = getattr(published_forms, entry.architecture.builder, None)
    state = unmade(entry)
    found = form(state, entry) if form is not None else state
    for wrap in ("state_dict", "model"):
        found = found.get(wrap, found) if isinstance(found.get(wrap), dict) else found
    found = {key.removeprefix("module."): tuple(value.shape) for key, value in found.items()}
    assert PUBLISHED[name].items() <= found.items(), {
        key: found.get(key, "lacking") for key in PUBLISHED[name] if found.get(key) != PUBLISHED[name][key]
    }


@pytest.mark.parametrize("name", OWN)
def test_another_checkpoint_is_refused_with_one_sentence(name: str) -> None:
    entry = entries()[name]
    state = unmade(entry)
    last = next(key for key in reversed(state) if not key.endswith("num_batches_tracked"))
    first = next(iter(sorted(key for key in state if state[key].dim() > 1)))
    less = {key: value for key, value in state.items() if key != last}
    other = {**state, first: torch.empty(3, 3, device="meta")}
    for wrong, words in (
        (less, "lacks "),
        ({}, "lacks "),
        ({**state, "backbone.stem.weight": torch.empty(1)}, "has unknown backbone.stem.weight;"),
        (other, "has, in another shape, "),
    ):
        with no_memory(), pytest.raises(EncoderError) as caught:
            builder(entry).build(entry, Checkpoint(wrong, (), Path()))
        told = str(caught.value)
        assert told.startswith(f"this is not a checkpoint of {name}: it {words}") and "\n" not in told
        assert caught.value.code == "wrong_checkpoint"


@pytest.mark.parametrize("name", sorted(SMALL))
def test_what_was_published_loads_as_it_was_written(name: str, tmp_path: Path) -> None:
    entry, options = small(name)
    random_checkpoint(entry, tmp_path, options)
    source = entry.source("checkpoint")
    assert source is not None
    files = entry.architecture.options.get("files", {})
    read = read_weights(tmp_path, [file.path for file in source.files] or [weight_file(entry)], files)
    assert len(read.hashes) == max(1, len(files))
    towers = builder(entry).build(entry, read)
    assert (towers.image is not None, towers.text is not None) == (entry.image is not None, entry.text is not None)
    if entry.logit_scale == "checkpoint":
        assert towers.logit_scale == pytest.approx(20.0855, rel=1e-4)  # the exponential of what was written
    assert towers.logit_bias == (-10.0 if name == "conceptclip" else None)


def test_a_scale_is_cut_where_the_authors_cut_it() -> None:
    entry, options = small("flair")
    state = {**builder(entry).module(options).state_dict(), "logit_scale": torch.tensor(5.0)}
    assert builder(entry).build(entry, Checkpoint(state, (), Path())).logit_scale == 100.0


@pytest.mark.parametrize("name", sorted(set(SMALL) - {"medicalnet-rn10"}))
def test_a_smaller_model_is_exported_at_parity(name: str, tmp_path: Path) -> None:
    entry, options = small(name)
    random_checkpoint(entry, tmp_path / "checkpoint", options)
    made = export_encoder(name, tmp_path / "checkpoint", tmp_path / "encoder", entry=entry)
    for kind in entry.modalities:
        assert getattr(made, kind) >= 0.99999 and getattr(made, f"{kind}_centred") >= 0.9999
    encoder = load_encoder(tmp_path / "encoder")
    assert encoder.dim == entry.dim and encoder.modalities == entry.modalities
    if entry.text is not None:
        together = encoder.encode_texts(["Small left pleural effusion, unchanged.", "no finding"])
        alone = encoder.encode_texts(["no finding"])
        np.testing.assert_allclose(together[1:], alone, atol=1e-5)


OTHER = [("merlin", "fp16"), ("merlin", "int8"), ("medclip-vit", "fp16"), ("medclip-vit", "int8"), ("voco-b", "fp16"),
         ("unimed-b16", "fp32"), ("unimed-b16", "fp16"), ("unimed-b16", "int8")]  # fmt: skip


@pytest.mark.parametrize(("name", "precision"), OTHER, ids="-".join)
def test_tensors_lie_outside_the_graph_where_they_are_large(
    name: str, precision: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As of a model over 2 GB, in every precision; the folder is whole, and moves."""
    monkeypatch.setattr("osler.encoders.export.graph._LARGEST", 1000)
    entry, options = small(name)
    random_checkpoint(entry, tmp_path / "checkpoint", options)
    made = export_encoder(name, tmp_path / "checkpoint", tmp_path / "encoder", entry=entry, precision=precision)
    (tmp_path / "encoder").rename(tmp_path / "elsewhere")
    encoder = load_encoder(tmp_path / "elsewhere")
    names = {path.name for path in (tmp_path / "elsewhere").iterdir()}
    for kind in entry.modalities:
        assert getattr(made, kind) >= {"fp32": 0.99999, "fp16": 0.999, "int8": 0.95}[precision]
        assert [file.path for file in getattr(encoder.manifest, kind).external] == [f"{kind}.onnx.data"]
        graph = (tmp_path / "elsewhere" / f"{kind}.onnx").stat().st_size
        assert graph < (tmp_path / "elsewhere" / f"{kind}.onnx.data").stat().st_size
    assert not [name for name in names if name.startswith(".")], "what was quantised is not left behind"
    assert check_encoder(encoder).passed


def test_the_half_of_vocomni_that_segments_is_left_out() -> None:
    entry, options = small("voco-b")
    state = dict(builder(entry).module(options).state_dict())
    whole = {
        **state,
        "decoder5.transp_conv.conv.weight": torch.zeros(192, 96, 2, 2, 2),
        "decoder1.conv_block.conv3.conv.weight": torch.zeros(12, 24, 1, 1, 1),
        "out.conv.conv.weight": torch.zeros(21, 12, 1, 1, 1),
        "out.conv.conv.bias": torch.zeros(21),
    }
    assert builder(entry).build(entry, Checkpoint(whole, (), Path())).image is not None


def test_two_files_are_one_encoder(tmp_path: Path) -> None:
    entry, options = small("biovil")
    path = random_checkpoint(entry, tmp_path, options)
    files = entry.architecture.options["files"]
    with pytest.raises(EncoderError, match="published in several files") as caught:
        read_weights(path, [], files)
    assert "pytorch_model.bin" in str(caught.value) and str(tmp_path) not in str(caught.value)
    (tmp_path / "pytorch_model.bin").unlink()
    with pytest.raises(EncoderError, match=r"the folder lacks pytorch_model\.bin") as caught:
        read_weights(tmp_path, [], files)
    assert caught.value.code == "file_missing"


def test_hub_names_of_conceptclip_may_stand_under_one_more_word(tmp_path: Path) -> None:
    entry, options = small("conceptclip")
    random_checkpoint(entry, tmp_path, options)
    read = read_weights(tmp_path, ["model.safetensors"])
    under = {f"model.{key}": value for key, value in read.tensors.items()}
    towers = builder(entry).build(entry, Checkpoint(under, (), tmp_path))
    assert towers.logit_bias == -10.0
