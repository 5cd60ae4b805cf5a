"""The networks of the papers' own layouts give what their authors' code gives, on random weights under the same names.

Where a package index has that code it runs here (see `originals`); else the libraries run as the authors called them.
"""

from __future__ import annotations

import functools
import importlib
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

sys.path.insert(0, str(Path(__file__).resolve().parent))
from originals import original
from osler.encoders.entry import Entry, entries
from osler.encoders.export.weights import Checkpoint
from published_forms import SAM, renamed

pytestmark = pytest.mark.timeout(600)

SMALL = {"num_hidden_layers": 3, "hidden_size": 96, "num_attention_heads": 4, "intermediate_size": 128}


def builder(name: str) -> Any:
    return importlib.import_module(f"osler.encoders.export.{name}")


@torch.no_grad()
def drawn(module: Any, seed: int = 0) -> Any:
    """Draw every weight and statistic anew, so that each of them counts; gives the module in evaluation mode."""
    chance = torch.Generator().manual_seed(seed)
    for name, value in [*module.named_parameters(), *module.named_buffers()]:
        if not value.is_floating_point() or name.endswith(("attn_mask", "pos_embed")):
            continue
        normal = torch.randn(value.shape, generator=chance)
        if name.endswith("running_var"):
            value.copy_(normal.abs() + 0.5)
        elif value.dim() >= 2:
            value.copy_(normal * value[0].numel() ** -0.5)
        elif name.endswith("weight"):
            value.copy_(1 + normal * 0.2)
        elif value.dim() == 1:
            value.copy_(normal * 0.1)
    return module.eval()


def filled(name: str, state: dict[str, Any], options: dict[str, Any], entry: str) -> Any:
    """Build the towers of an entry, with other options, from a state dict of published names."""
    data = entries()[entry].model_dump()
    data["architecture"]["options"] = options
    return builder(name).build(Entry.model_validate(data), Checkpoint(state, (), Path()))


def alike(found: Any, expected: Any) -> None:
    """Equal but for rounding, and far from equal among themselves."""
    found, expected = found.double(), expected.double()
    assert found.shape == expected.shape
    off = float((found - expected).abs().max())
    assert off <= 2e-6 * float(expected.abs().max())
    assert float((expected - expected.mean(0)).abs().max()) > 1000 * off


def same_names(ours: dict[str, Any], theirs: dict[str, Any], unused: tuple[str, ...] = ()) -> None:
    """Every tensor of the authors' module is ours in name and shape, but for those that are declared unused."""
    assert {key: value.shape for key, value in ours.items()} == {
        key: value.shape for key, value in theirs.items() if not key.startswith(unused or ("\0",))
    }


def tokens(lengths: list[int], vocabulary: int, seed: int = 1) -> tuple[Any, Any]:
    """Return random ids, padded with 0, and their mask."""
    chance = torch.Generator().manual_seed(seed)
    ids = torch.randint(5, vocabulary, (len(lengths), max(lengths)), generator=chance)
    mask = torch.zeros_like(ids)
    for row, length in enumerate(lengths):
        mask[row, :length] = 1
    return ids * mask, mask


def alone(run: Any, ids: Any, mask: Any) -> Any:
    """Run each text by itself, without padding."""
    return torch.cat([run(ids[i : i + 1, : int(mask[i].sum())]) for i in range(len(ids))])


@torch.no_grad()
def test_merlin_image() -> None:
    import torchvision

    build = original("merlin-vlm", "merlin.models.build")
    bottleneck = torchvision.models.resnet.Bottleneck
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torchvision.models, "resnet152", lambda **_: torchvision.models.ResNet(bottleneck, [2, 2, 3, 2]))
        theirs = drawn(build.ImageEncoder())
    options = {"blocks": (2, 2, 3, 2), "bert": SMALL, "shape": (64, 72, 40)}
    ours = builder("merlin").module(options)
    head = "encode_image."
    state = {head + key: value for key, value in theirs.state_dict().items()}
    same_names({k: v for k, v in ours.state_dict().items() if k.startswith(head)}, state, builder("merlin").unused({}))
    text = {key: value for key, value in ours.state_dict().items() if not key.startswith(head)}
    towers = filled("merlin", state | text, options, "merlin")
    scans = torch.rand(2, 1, 64, 72, 40)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # checkpointing without gradients
        expected = theirs(scans)[0]
    alike(towers.image.module(scans), expected)
    features = filled("merlin", state | text, {**options, "vector": "pooled"}, "merlin-image")
    theirs.i3_resnet.ImageEmbedding = True
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # the authors' own image-only answer has an axis more in front
        alike(features.image.module(scans), theirs.i3_resnet(scans).flatten(0, 1))
    assert features.text is None


@torch.no_grad()
def test_merlin_text_is_longformer_without_global_tokens() -> None:
    options = {"blocks": (1, 1, 1, 1), "bert": {**SMALL, "vocab_size": 500}}
    ours = drawn(builder("merlin").module(options))
    config = transformers.LongformerConfig(
        **SMALL, vocab_size=500, max_position_embeddings=4098, type_vocab_size=1, pad_token_id=1, layer_norm_eps=1e-5,
        attention_window=512,
    )  # fmt: skip
    theirs = transformers.LongformerModel(config, add_pooling_layer=False).eval()
    missing, surplus = theirs.load_state_dict(ours.encode_text.text_encoder.state_dict(), strict=False)
    assert not surplus and all("_global." in key for key in missing)
    ids, mask = tokens([900, 620, 7], 500)
    ids = torch.where(mask > 0, ids, 1)
    first = theirs(input_ids=ids, attention_mask=mask).last_hidden_state[:, 0]
    towers = filled("merlin", ours.state_dict(), options, "merlin")
    alike(towers.text.module(ids, mask), ours.encode_text.linear_layer(first))


@pytest.mark.parametrize("depth", [10, 18, 34, 50])
@torch.no_grad()
def test_medicalnet(depth: int) -> None:
    theirs_of = original("medmetric", "medmetric.models.resnet")
    ours_of, shortcut = builder("medicalnet"), "A" if depth in (18, 34) else "B"
    block = theirs_of.BasicBlock if depth < 50 else theirs_of.Bottleneck
    theirs = drawn(theirs_of.MedicalNetResNet(block, ours_of._BLOCKS[depth], shortcut, no_cuda=True))
    options = {"depth": depth, "shortcut": shortcut, "shape": (24, 64, 64)}
    same_names(ours_of.module(options).state_dict(), theirs.state_dict())
    towers = filled("medicalnet", theirs.state_dict(), options, f"medicalnet-rn{depth}")
    scans = torch.randn(2, 1, 24, 64, 64)
    alike(towers.image.module(scans), theirs(scans).mean((2, 3, 4)))


@pytest.mark.parametrize("depth", [10, 18, 34, 50, 101, 152, 200])
def test_medicalnet_has_the_names_that_monai_loads(depth: int) -> None:
    import monai.networks.nets

    shortcut = "A" if depth in (18, 34) else "B"
    with torch.device("meta"):
        theirs = getattr(monai.networks.nets, f"resnet{depth}")(
            spatial_dims=3, n_input_channels=1, feed_forward=False, shortcut_type=shortcut, bias_downsample=False
        )
        ours = builder("medicalnet").module({"depth": depth, "shortcut": shortcut})
    same_names(ours.state_dict(), theirs.state_dict())


@pytest.mark.parametrize("temporal", [False, True])
@torch.no_grad()
def test_biovil_image(temporal: bool) -> None:
    of = original("hi-ml-multimodal", "health_multimodal.image.model.model")
    side, kind = (448, "resnet50_multi_image") if temporal else (480, "resnet50")
    theirs = drawn(of.ImageModel(img_encoder_type=kind, joint_feature_size=128))
    options = {"temporal": temporal, "side": side, "bert": SMALL}
    ours = builder("biovil").module(options)
    text = {key: value for key, value in ours.state_dict().items() if key.startswith(("bert.", "cls_"))}
    image = {key: value for key, value in ours.state_dict().items() if key not in text}
    same_names(image, theirs.state_dict(), builder("biovil").UNUSED)
    name = "biovil-t" if temporal else "biovil"
    towers = filled("biovil", theirs.state_dict() | text, options, name)
    pictures = torch.rand(2, 3, side, side)
    alike(towers.image.module(pictures), theirs(pictures).projected_global_embedding)
    alike(towers.image.tokens.module(pictures)[1], theirs(pictures).projected_patch_embeddings)


@torch.no_grad()
def test_biovil_text() -> None:
    of = original("hi-ml-multimodal", "health_multimodal.text.model.modelling_cxrbert")
    options = {"temporal": False, "side": 480, "bert": {**SMALL, "vocab_size": 300}}
    ours = drawn(builder("biovil").module(options))
    bert = transformers.BertModel(transformers.BertConfig(**SMALL, vocab_size=300), add_pooling_layer=False).eval()
    bert.load_state_dict(ours.bert.state_dict())
    head = of.BertProjectionHead(transformers.BertConfig(**SMALL, projection_size=128)).eval()
    head.load_state_dict(ours.cls_projection_head.state_dict())
    ids, mask = tokens([20, 5, 11], 300)
    expected = head(bert(input_ids=ids, attention_mask=mask).last_hidden_state[:, 0])
    alike(filled("biovil", ours.state_dict(), options, "biovil").text.module(ids, mask), expected)


@pytest.mark.parametrize("vision", ["swin", "resnet50"])
@torch.no_grad()
def test_medclip_and_a_text_alone_whatever_it_is_batched_with(vision: str) -> None:
    import torchvision

    of = original("medclip", "medclip.modeling_medclip")

    def made(name: str, **more: Any) -> Any:
        if "swin" in name:
            return transformers.SwinModel(transformers.SwinConfig(**builder("parts")._SWIN_TINY))
        return transformers.BertModel(transformers.BertConfig(**SMALL, vocab_size=300, **more))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(of.AutoModel, "from_pretrained", made)
        patch.setattr(of.AutoTokenizer, "from_pretrained", lambda _: None)
        full = torchvision.models.resnet50
        patch.setattr(torchvision.models, "resnet50", lambda **_: full(weights=None))
        image = of.MedCLIPVisionModelViT() if vision == "swin" else of.MedCLIPVisionModel()
        text = of.MedCLIPTextModel.__new__(of.MedCLIPTextModel)
        torch.nn.Module.__init__(text)
        text.model = made("bert", output_hidden_states=True)
        text.projection_head = torch.nn.Linear(SMALL["hidden_size"], 512, bias=False)
    drawn(image), drawn(text, 1)
    options = {"vision": vision, "bert": {**SMALL, "vocab_size": 300}}
    state = {
        **{f"vision_model.{key}": value for key, value in image.state_dict().items()},
        **{f"text_model.{key}": value for key, value in text.state_dict().items()},
        "logit_scale": torch.tensor(2.0),
    }
    same_names(builder("medclip").module(options).state_dict(), state, builder("medclip").UNUSED)
    towers = filled("medclip", state, options, "medclip-vit" if vision == "swin" else "medclip-rn50")
    pictures = torch.randn(3, 1, 224, 224)
    alike(towers.image.module(pictures.expand(-1, 3, -1, -1)), image(pictures))
    ids, mask = tokens([20, 5, 11], 300)
    alike(towers.text.module(ids, mask), alone(lambda one: text(one, torch.ones_like(one)), ids, mask))
    assert float(towers.logit_scale) == pytest.approx(7.389, abs=1e-3)


@torch.no_grad()
def test_flair_and_a_text_alone_whatever_it_is_batched_with() -> None:
    import torchvision

    options = {"bert": {**SMALL, "vocab_size": 300}, "side": 128}
    ours = drawn(builder("flair").module(options))
    resnet = torchvision.models.resnet50(weights=None).eval()
    resnet.fc = torch.nn.Identity()
    resnet.load_state_dict(ours.vision_model.model.state_dict())
    bert = transformers.BertModel(
        transformers.BertConfig(**SMALL, vocab_size=300, output_hidden_states=True), add_pooling_layer=False
    ).eval()
    bert.load_state_dict(ours.text_model.model.state_dict())
    towers = filled("flair", ours.state_dict(), options, "flair")
    pictures = torch.rand(3, 3, 128, 128)
    features = resnet(pictures)
    weight = ours.vision_model.projection_head_vision.projection.weight
    alike(towers.image.module(pictures), features / features.norm(dim=-1, keepdim=True) @ weight.T)

    def text(ids: Any) -> Any:
        hidden = bert(input_ids=ids, attention_mask=torch.ones_like(ids)).hidden_states
        stacked = torch.stack([hidden[1], hidden[2], hidden[-1]])
        pooled = stacked.permute(1, 0, 2, 3).mean(2).mean(1)
        unit = pooled / pooled.norm(dim=-1, keepdim=True)
        return unit @ ours.text_model.projection_head_text.projection.weight.T

    ids, mask = tokens([20, 5, 11], 300)
    alike(towers.text.module(ids, mask), alone(text, ids, mask))


@pytest.mark.parametrize("vision", ["vit", "resnet50"])
@torch.no_grad()
def test_mgca(vision: str) -> None:
    import timm
    import torchvision

    options = {"vision": vision, "bert": {**SMALL, "vocab_size": 300}}
    ours = drawn(builder("mgca").module(options))
    vision_state = ours.img_encoder_q.model.state_dict()
    pictures = torch.randn(2, 3, 224, 224)
    if vision == "vit":
        trunk = timm.create_model("vit_base_patch16_224", num_classes=0).eval()
        trunk.load_state_dict(vision_state)
        features = trunk(pictures)
    else:
        trunk = torchvision.models.resnet50(weights=None).eval()
        trunk.fc = torch.nn.Identity()
        trunk.load_state_dict(vision_state)
        features = trunk(torch.nn.Upsample(size=(299, 299), mode="bilinear", align_corners=True)(pictures))
    towers = filled("mgca", ours.state_dict(), options, "mgca-vit" if vision == "vit" else "mgca-rn50")
    alike(towers.image.module(pictures), head(ours.img_encoder_q.global_embed.head.state_dict(), features))
    bert = transformers.BertModel(transformers.BertConfig(**SMALL, vocab_size=300), add_pooling_layer=False).eval()
    bert.load_state_dict(ours.text_encoder_q.model.state_dict(), strict=False)
    bert.embeddings.token_type_embeddings.weight.zero_()
    ids, mask = tokens([20, 5, 11], 300)
    features = bert(input_ids=ids, attention_mask=mask).last_hidden_state[:, 0]
    alike(towers.text.module(ids, mask), head(ours.text_encoder_q.global_embed.head.state_dict(), features))


def head(state: dict[str, Any], features: Any) -> Any:
    """MGCA's projection by hand: dense, normalised by statistics, ReLU, dense, normalised by statistics alone."""
    hidden = features @ state["0.weight"].T + state["0.bias"]
    hidden = (hidden - state["1.running_mean"]) / (state["1.running_var"] + 1e-5).sqrt()
    hidden = (hidden * state["1.weight"] + state["1.bias"]).clamp(min=0)
    hidden = hidden @ state["3.weight"].T + state["3.bias"]
    return (hidden - state["4.running_mean"]) / (state["4.running_var"] + 1e-5).sqrt()


@torch.no_grad()
def test_cxr_clip_takes_the_first_cell_and_the_last_token() -> None:
    options = {"vision": "swin", "bert": {**SMALL, "vocab_size": 300}}
    ours = drawn(builder("cxr_clip").module(options))
    swin = transformers.SwinModel(transformers.SwinConfig(**builder("parts")._SWIN_TINY)).eval()
    swin.load_state_dict(ours.image_encoder.image_encoder.state_dict())
    bert = transformers.BertModel(transformers.BertConfig(**SMALL, vocab_size=300), add_pooling_layer=False).eval()
    bert.load_state_dict(ours.text_encoder.text_encoder.state_dict())
    towers = filled("cxr_clip", ours.state_dict(), options, "cxr-clip-swint-m")
    pictures = torch.randn(3, 3, 224, 224)
    first = swin(pictures).last_hidden_state[:, 0]
    alike(towers.image.module(pictures), ours.image_projection.projection(first))
    ids, mask = tokens([20, 5, 11], 300)
    states = bert(input_ids=ids, attention_mask=mask).last_hidden_state
    last = states[torch.arange(3), mask.sum(1) - 1]
    alike(towers.text.module(ids, mask), ours.text_projection.projection(last))


@torch.no_grad()
def test_convirt_of_benchx_uses_berts_pooler() -> None:
    options = {"bert": {**SMALL, "vocab_size": 300}}
    ours = drawn(builder("convirt").module(options))
    bert = transformers.BertModel(transformers.BertConfig(**SMALL, vocab_size=300)).eval()
    bert.load_state_dict(ours.linguistic.encoder.state_dict())
    ids, mask = tokens([20, 5, 11], 300)
    expected = ours.lin_proj(bert(input_ids=ids, attention_mask=mask).pooler_output)
    alike(filled("convirt", ours.state_dict(), options, "convirt").text.module(ids, mask), expected)


@torch.no_grad()
def test_pmc_clip_attends_to_padding() -> None:
    options = {"bert": {**SMALL, "vocab_size": 300}}
    ours = drawn(builder("pmc_clip").module(options))
    bert = transformers.BertModel(transformers.BertConfig(**SMALL, vocab_size=300), add_pooling_layer=False).eval()
    bert.load_state_dict(ours.text_encoder.state_dict())
    ids, _ = tokens([77, 5, 11], 300)
    ids[:, 0] = 2
    expected = bert(input_ids=ids).last_hidden_state[:, 0] @ ours.text_projection
    alike(filled("pmc_clip", ours.state_dict(), options, "pmc-clip").text.module(ids), expected)


@torch.no_grad()
def test_kimianet_has_no_relu_after_its_last_normalisation() -> None:
    import torchvision

    ours = drawn(builder("kimianet").module({}))
    dense = torchvision.models.densenet121(weights=None).eval()
    dense.features.load_state_dict(getattr(ours.model, "0").state_dict())
    pictures = torch.randn(3, 3, 160, 160)
    features = dense.features(pictures)
    found = filled("kimianet", ours.state_dict(), {"side": 160}, "kimianet").image.module(pictures)
    alike(found, torch.nn.AdaptiveAvgPool2d(1)(features).flatten(1))
    assert (found < 0).any()


@torch.no_grad()
def test_conch() -> None:
    of = original("conch-fork", "conch.open_clip_custom.coca_model")
    vision = {
        "image_size": 448,
        "patch_size": 16,
        "attentional_pool_caption": True,
        "attentional_pool_contrast": True,
        "attn_pooler_heads": 8,
        "n_queries_contrast": 1,
        "n_queries_caption": 256,
        "output_tokens": True,
    }
    text = {"context_length": 128, "vocab_size": 32007, "width": 768, "heads": 12, "layers": 12}
    theirs = of.CoCa(
        512, 768, vision_cfg=vision, text_cfg={**text, "embed_cls": True, "output_tokens": True}, multimodal_cfg=text
    )
    drawn(theirs)
    unused = (*builder("conch").UNUSED, "text_decoder.")
    same_names(builder("conch").module({}).state_dict(), theirs.state_dict(), unused)
    state = {key: value for key, value in theirs.state_dict().items() if not key.startswith("text_decoder.")}
    towers = filled("conch", state, {}, "conch")
    pictures = torch.rand(2, 3, 448, 448)
    alike(towers.image.module(pictures), theirs.encode_image(pictures, normalize=False, proj_contrast=True))
    ids, _ = tokens([127, 126, 60, 5], 32000)
    more = torch.cat([ids, torch.zeros(4, 1, dtype=torch.int64)], 1)
    alike(towers.text.module(ids), theirs.encode_text(more, normalize=False))


@torch.no_grad()
def test_medimageinsight() -> None:
    davit = original("medimageinsights", "MedImageInsights.ImageEncoder.davit_v1")
    language = original("medimageinsights", "MedImageInsights.LangEncoder.transformer")
    depths, widths, heads = (1, 1, 2, 1), (32, 64, 96, 128), (1, 2, 3, 4)
    image = davit.DaViT(
        img_size=232, num_classes=0, depths=depths, embed_dims=widths, base_embed_dims=widths, num_heads=heads,
        base_num_heads=heads, num_groups=heads, base_num_groups=heads, patch_size=(7, 3, 3, 3),
        patch_stride=(4, 2, 2, 2), patch_padding=(3, 1, 1, 1), patch_prenorm=(False, True, True, True), window_size=12,
        drop_path_rate=0.0,
    )  # fmt: skip
    text = language.Transformer(77, 49408, 128, 2, 4, autogressive=False)
    drawn(image), drawn(text, 1)
    options = {
        "image": {"depths": depths, "widths": widths, "heads": heads},
        "text": {"layers": 2, "width": 128, "heads": 4},
        "side": 232,
    }
    ours = builder("medimageinsight").module(options)
    state = {
        **{f"image_encoder.{key}": value for key, value in image.state_dict().items()},
        **{f"lang_encoder.{key}": value for key, value in text.state_dict().items()},
        **{key: value for key, value in ours.state_dict().items() if "." not in key},
    }
    same_names(ours.state_dict(), state)
    pictures = torch.rand(2, 3, 232, 232)
    ids, mask = tokens([77, 40, 5], 49400)
    ids = torch.where(mask > 0, ids, 49407)
    for row, length in enumerate((77, 40, 5)):
        ids[row, length - 1] = 49407
    # the names that the authors' loader also takes
    older = {_older(key): value for key, value in state.items()}
    assert sum(key not in state for key in older) > 200
    for given in (state, older):
        towers = filled("medimageinsight", given, options, "medimageinsight")
        alike(towers.image.module(pictures), image(pictures) @ state["image_projection"])
        states = text(ids, mask)["last_hidden_state"][torch.arange(3), ids.argmax(1)]
        alike(towers.text.module(ids, mask), states @ state["lang_projection"])
    # texts of one length may come without padding
    short = towers.text.module(ids[2:, :5], mask[2:, :5])
    torch.testing.assert_close(short, towers.text.module(ids, mask)[2:], rtol=1e-4, atol=1e-5)


def _older(key: str) -> str:
    pairs = (
        ("image_encoder.convs.", "image_encoder.conv_embeds."), ("image_encoder.blocks.", "image_encoder.main_blocks."),
        ("spatial_block.conv1.fn.dw", "0.cpe.0.proj"), ("spatial_block.conv2.fn.dw", "0.cpe.1.proj"),
        ("spatial_block.window_attn.fn", "0.attn"), ("spatial_block.window_attn.norm", "0.norm1"),
        ("spatial_block.ffn.fn.net", "0.mlp"), ("spatial_block.ffn.norm", "0.norm2"),
        ("channel_block.conv1.fn.dw", "1.cpe.0.proj"), ("channel_block.conv2.fn.dw", "1.cpe.1.proj"),
        ("channel_block.channel_attn.fn", "1.attn"), ("channel_block.channel_attn.norm", "1.norm1"),
        ("channel_block.ffn.fn.net", "1.mlp"), ("channel_block.ffn.norm", "1.norm2"),
        ("image_encoder.", "visual."), ("lang_encoder.", "text."),
        ("image_projection", "vision_projection"), ("lang_projection", "text_projection"),
    )  # fmt: skip
    for new, old in pairs:
        key = key.replace(new, old)
    return key


@torch.no_grad()
def test_voco() -> None:
    of = original("kaiko-eva", "eva.vision.models.networks.backbones.radiology.swin_unetr")
    theirs = drawn(of.SwinUNETREncoder(feature_size=24))
    options = {"width": 24}
    same_names(builder("voco").module(options).state_dict(), theirs.state_dict())
    scans = torch.rand(2, 1, 96, 96, 96)
    towers = filled("voco", theirs.state_dict(), options, "voco-b")
    alike(towers.image.module(scans), theirs(scans).flatten(1))


@pytest.mark.parametrize("side", [224, 320])
@torch.no_grad()
def test_lvmmed_vit_is_the_encoder_of_sam_without_its_neck(side: int) -> None:
    of = original("segment-anything", "segment_anything.modeling.image_encoder")
    theirs = drawn(
        of.ImageEncoderViT(
            img_size=1024, patch_size=16, embed_dim=768, depth=4, num_heads=12, use_abs_pos=False, use_rel_pos=True,
            window_size=14, global_attn_indexes=(2,), norm_layer=functools.partial(torch.nn.LayerNorm, eps=1e-6),
        )
    )  # fmt: skip
    options = {"vision": "vit", "depth": 4, "side": side}
    ours = renamed(builder("lvmmed").module(options).state_dict(), SAM)
    same_names(ours, theirs.state_dict(), builder("lvmmed").UNUSED)
    towers = filled("lvmmed", theirs.state_dict(), options, "lvmmed-vit")
    theirs.neck = torch.nn.Identity()
    pictures = torch.rand(2, 3, side, side)
    alike(towers.image.module(pictures), torch.nn.AdaptiveAvgPool2d(1)(theirs(pictures)).flatten(1))


@torch.no_grad()
def test_lvmmed_resnet_comes_under_the_names_of_torchvision_or_of_transformers() -> None:
    config = transformers.ResNetConfig(embedding_size=64, hidden_sizes=[256, 512, 1024, 2048], depths=[3, 4, 6, 3],
                                       layer_type="bottleneck", downsample_in_bottleneck=False)  # fmt: skip
    theirs = drawn(transformers.ResNetModel(config))
    towers = filled("lvmmed", theirs.state_dict(), {"vision": "resnet50"}, "lvmmed-rn50")
    pictures = torch.rand(3, 3, 96, 96)
    alike(towers.image.module(pictures), theirs(pictures).pooler_output.flatten(1))


MEANS = {
    "flair": {"bert": SMALL, "side": 128},
    "medclip-vit": {"vision": "swin", "bert": SMALL},
    "medclip-rn50": {"vision": "resnet50", "bert": SMALL},
    "cxr-clip-r50-m": {"vision": "resnet50", "bert": SMALL},
    "kimianet": {"side": 128},
    "lvmmed-rn50": {"vision": "resnet50"},
    "lvmmed-vit": {"vision": "vit", "depth": 3},
    "biovil": {"temporal": False, "side": 128, "bert": {**SMALL, "hidden_size": 96}},
    "biovil-t": {"temporal": True, "side": 128, "bert": {**SMALL, "hidden_size": 96}},
}


@torch.no_grad()
@pytest.mark.parametrize("entry", MEANS)
def test_the_mean_of_the_tokens_is_the_vector(entry: str) -> None:
    """Where a tower pools by the mean, its tokens lie in the space of its vectors, or this would not be so."""
    architecture = entries()[entry].architecture
    assert architecture is not None
    made = drawn(builder(architecture.builder).module(MEANS[entry]))
    image = filled(architecture.builder, made.state_dict(), MEANS[entry], entry).image
    pictures = torch.randn((2, *image.shape), generator=torch.Generator().manual_seed(3))
    vectors, found = image.tokens.module(pictures)
    means = found.mean((2, 3)) if image.tokens.grid is None else found.mean(1)
    assert found.dim() == 4 or found.shape[1] == image.tokens.grid[0] * image.tokens.grid[1]
    for one in (vectors, means):
        assert float(torch.cosine_similarity(one, image.module(pictures)).min()) > 0.999999


@torch.no_grad()
@pytest.mark.parametrize("entry", ["biomedclip", "dfn2b-b16"])
def test_tokens_go_the_way_of_the_class_token(entry: str) -> None:
    """A picture whose patches all become what the class token is has that vector in every token."""
    from osler.encoders.export import open_clip

    architecture = entries()[entry].architecture
    assert architecture is not None
    visual = open_clip.module(architecture.options).visual
    dense, grid = open_clip.with_tokens(visual)
    assert dense is not None and grid == (14, 14)
    last = visual.trunk.blocks[-1] if hasattr(visual, "trunk") else visual.transformer.resblocks[-1]
    last.register_forward_hook(lambda module, inputs, output: output[:, :1].expand_as(output))
    pictures = torch.randn((2, 3, 224, 224), generator=torch.Generator().manual_seed(3))
    vectors, found = dense(pictures)
    torch.testing.assert_close(vectors, visual(pictures))
    torch.testing.assert_close(found, vectors[:, None].expand_as(found))
