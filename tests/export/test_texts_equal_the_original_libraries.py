"""Ids, cleaned texts and pooled vectors equal those of open_clip and transformers, run here, on many texts and models.

The models have random weights. What is not equal is stated: text that ftfy takes for wrongly decoded, letters that
Unicode does not know yet, special tokens written out in a text.
"""

from __future__ import annotations

import importlib.util
import json
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from osler.encoders.clean import clean
from osler.encoders.pooling import pool
from osler.encoders.tokenize import Tokenizer, padded
from osler.encoders.tokenizer_files import tokenizer_json

_spec = importlib.util.spec_from_file_location("make_golden_ids", Path(__file__).with_name("make_golden_ids.py"))
assert _spec is not None and _spec.loader is not None
golden = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(golden)

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.filterwarnings("ignore")

assigned = st.characters(exclude_categories=("Cn", "Co", "Cs"), exclude_characters="\u0345")
texts = st.one_of(
    st.text(assigned, min_size=1, max_size=60),
    st.text(st.sampled_from("abc XYZ.,;:'\"&<>#-_0123456789\n\té\u2019\ufb01\uff21"), min_size=1, max_size=120),
    st.lists(st.sampled_from(golden.texts()), min_size=1, max_size=4).map(" ".join),
).filter(lambda text: bool(text.strip()))


def row(tokenizer: Tokenizer, text: str, width: int) -> list[int]:
    ids: list[int] = padded([tokenizer(text, "text 0")], width, tokenizer.pad_id)[0][0].tolist()
    return ids


def as_utf8_read_wrongly(text: str) -> bool:
    """Whether ftfy would take the text for one that was decoded by the wrong table, which the rules do not do."""
    import ftfy

    return ftfy.fix_text(text) != ftfy.fix_text(text, fix_encoding=False)


@given(texts)
def test_open_clip_cleans_as_we_do(text: str) -> None:
    from open_clip.tokenizer import get_clean_fn

    if as_utf8_read_wrongly(text):
        return
    for name in ("whitespace", "lower", "canonicalize"):
        assert clean(text, f"open_clip_{name}") == get_clean_fn(name)(text)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def real_clip() -> tuple[Any, Tokenizer]:
    """CLIP's real vocabulary of 49,408, as open_clip ships it."""
    import open_clip

    folder = Path(open_clip.__file__).parent
    assert (folder / "bpe_simple_vocab_16e6.txt.gz").stat().st_size == 1_356_917
    ours = Tokenizer(tokenizer_json(folder, "clip"), 77, "open_clip_lower", 0)
    assert ours.largest_id == 49407
    return open_clip.tokenizer.SimpleTokenizer(), ours


@given(text=texts)
def test_ids_of_real_clip_are_those_of_open_clip(real_clip: tuple[Any, Tokenizer], text: str) -> None:
    theirs, ours = real_clip
    if as_utf8_read_wrongly(text) or not clean(text, "open_clip_lower"):
        return
    assert row(ours, text, 77) == theirs([text])[0].tolist()


@pytest.fixture(scope="module")
def hub_tokenizers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Callable[[str], list[int]], Tokenizer]]:
    """Real CLIP and real BERT through transformers, and the small ones of the fixtures."""
    import open_clip
    import transformers

    def hub(tokenizer: Any, width: int) -> Callable[[str], list[int]]:
        options = {"padding": "max_length", "truncation": True, "max_length": width}
        return lambda text: tokenizer(text, **options)["input_ids"]

    whole = Path(open_clip.__file__).with_name("bpe_simple_vocab_16e6.txt.gz")
    clip, bert, cased = golden.transformers_clip(whole), golden.wordpiece(True), golden.wordpiece(False)
    roberta = golden.FOLDER / "byte-bpe"
    return {
        "clip": (
            hub(transformers.CLIPTokenizer.from_pretrained(clip), 77),
            Tokenizer(tokenizer_json(clip, "clip"), 77),
        ),
        "bert": (
            hub(transformers.BertTokenizer.from_pretrained(bert), 64),
            Tokenizer(tokenizer_json(bert, "wordpiece"), 64),
        ),
        "bert, capitals": (
            hub(transformers.BertTokenizer.from_pretrained(cased), 64),
            Tokenizer(tokenizer_json(cased, "wordpiece"), 64),
        ),
        "roberta": (
            hub(transformers.RobertaTokenizer.from_pretrained(roberta), 128),
            Tokenizer(tokenizer_json(roberta, "byte-bpe"), 128),
        ),
    }


@given(text=texts)
def test_ids_are_those_of_transformers(hub_tokenizers: Any, text: str) -> None:
    for name, (theirs, ours) in hub_tokenizers.items():
        found = theirs(text)
        assert row(ours, text, len(found)) == found, name


@pytest.fixture(scope="module")
def siglip() -> tuple[Any, Tokenizer]:
    import lzma
    import tempfile

    import transformers

    folder = Path(tempfile.mkdtemp())
    (folder / "spiece.model").write_bytes(lzma.decompress((golden.FOLDER / "siglip" / "spiece.model.xz").read_bytes()))
    (folder / "tokenizer_config.json").write_text(json.dumps({"pad_token": "</s>"}))
    theirs = transformers.SiglipTokenizer(str(folder / "spiece.model"), pad_token="</s>")
    return theirs, Tokenizer(tokenizer_json(folder, "sentencepiece"), 64, "siglip")


@given(text=texts)
def test_ids_of_siglip_are_those_of_sentencepiece(siglip: tuple[Any, Tokenizer], text: str) -> None:
    """But for a letter that is folded and carries marks, where the library tokenizers loses the marks."""
    theirs, ours = siglip
    marked = any(unicodedata.category(c).startswith("M") or c in "\u200d\u200c" for c in text)
    if marked or not clean(text, "siglip"):
        return
    found = theirs(text, padding="max_length", truncation=True, max_length=64)["input_ids"]
    assert row(ours, text, 64) == found


WIDTH = 16


@pytest.fixture
def batch(real_clip: tuple[Any, Tokenizer]) -> tuple[np.ndarray, np.ndarray]:
    """Ids of real CLIP with padding 0, and the mask."""
    tokens = [real_clip[1](text, "text 0") for text in ("effusion", "a chest x-ray of a small left effusion", "no")]
    ids, mask, _ = padded(tokens, WIDTH, 0)
    return ids, mask


def close(ours: np.ndarray, theirs: Any) -> None:
    np.testing.assert_allclose(ours, theirs.detach().numpy(), atol=2e-6)


def test_eot_is_the_pooling_of_open_clip(batch: tuple[np.ndarray, np.ndarray]) -> None:
    from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg

    torch.manual_seed(0)
    text = CLIPTextCfg(context_length=WIDTH, width=32, heads=2, layers=2)
    model = CLIP(16, CLIPVisionCfg(layers=1, width=64, patch_size=32, image_size=32), text).eval()
    states: list[Any] = []
    model.ln_final.register_forward_hook(lambda module, inputs, output: states.append(output))
    vectors = model.encode_text(torch.from_numpy(batch[0]))
    pooled = pool(states[0].detach().numpy(), "eot", batch[1], batch[0], 49407)
    close(pooled @ model.text_projection.detach().numpy(), vectors)


@pytest.mark.parametrize("pad", [49407, 0])
def test_eos_is_the_pooling_of_clip_in_transformers(batch: tuple[np.ndarray, np.ndarray], pad: int) -> None:
    """With the padding of MedImageInsight and of today's transformers, and with that of open_clip."""
    from transformers import CLIPTextConfig, CLIPTextModelWithProjection

    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    ends = {"bos_token_id": 49406, "eos_token_id": 49407, "pad_token_id": pad, "vocab_size": 49408}
    config = CLIPTextConfig(projection_dim=16, max_position_embeddings=WIDTH, **sizes, **ends)
    model = CLIPTextModelWithProjection(config).eval()
    ids = np.where(batch[1] == 1, batch[0], pad)
    output = model(input_ids=torch.from_numpy(ids), attention_mask=torch.from_numpy(batch[1]))
    states = output.last_hidden_state.detach().numpy()
    for kind in ("eos", "eot", "last"):
        pooled = pool(states, kind, batch[1], ids, 49407)
        close(pooled @ model.text_projection.weight.detach().numpy().T, output.text_embeds)


def test_end_is_the_pooling_of_siglip() -> None:
    from transformers import SiglipTextConfig, SiglipTextModel

    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    model = SiglipTextModel(SiglipTextConfig(vocab_size=100, max_position_embeddings=WIDTH, **sizes)).eval()
    ids = np.random.default_rng(0).integers(2, 100, (3, WIDTH))
    ids[0, 5:], ids[1, 9:] = 1, 1
    output = model(input_ids=torch.from_numpy(ids))
    head = getattr(model, "text_model", model).head
    pooled = pool(output.last_hidden_state.detach().numpy(), "end", None, ids)
    close(head(torch.from_numpy(pooled)).detach().numpy(), output.pooler_output)


def test_end_is_the_class_slot_of_coca() -> None:
    """CONCH is such a model: the class token is appended, and sees the tokens that are not padding."""
    from open_clip.transformer import TextTransformer

    torch.manual_seed(0)
    model = TextTransformer(
        context_length=WIDTH, vocab_size=50, width=32, heads=2, layers=2, output_dim=16, embed_cls=True, pad_id=0
    ).eval()
    ids = np.random.default_rng(0).integers(1, 50, (3, WIDTH))  # TextTransformer counts the slot apart
    ids[0, 5:], ids[1, 9:] = 0, 0
    states: list[Any] = []
    model.transformer.register_forward_hook(lambda module, inputs, output: states.append(output))
    vectors = model(torch.from_numpy(ids))
    vectors = vectors[0] if isinstance(vectors, tuple) else vectors
    assert states[0].shape[1] == WIDTH + 1
    pooled = torch.from_numpy(pool(states[0].detach().numpy(), "end", None, ids))
    close((model.ln_final(pooled) @ model.text_projection).detach().numpy(), vectors)


def bert() -> Any:
    from transformers import BertConfig, BertModel

    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 4, "num_attention_heads": 2}
    return BertModel(BertConfig(vocab_size=100, **sizes), add_pooling_layer=False).eval()


def bert_batch() -> tuple[np.ndarray, np.ndarray]:
    """Ids with [CLS] 2, [SEP] 3 and [PAD] 0, as in PubMedBERT."""
    ids = np.random.default_rng(1).integers(5, 100, (3, WIDTH))
    ids[:, 0] = 2
    for line, length in enumerate((5, 9, WIDTH)):
        ids[line, length - 1], ids[line, length:] = 3, 0
    return ids, (ids != 0).astype(np.int64)


@pytest.mark.parametrize(("kind", "name"), [("cls", "cls_last_hidden_state_pooler"), ("mean", "mean_pooler")])
def test_cls_and_mean_are_the_poolers_of_open_clip(kind: str, name: str) -> None:
    """BiomedCLIP, UniMed-CLIP and QuiltNet-B-16-PMB use the first of them."""
    from open_clip.hf_model import _POOLERS

    ids, mask = bert_batch()
    output = bert()(input_ids=torch.from_numpy(ids), attention_mask=torch.from_numpy(mask))
    theirs = _POOLERS["".join(name.split("_")) if name not in _POOLERS else name]()(output, torch.from_numpy(mask))
    close(pool(output.last_hidden_state.detach().numpy(), kind, mask, ids), theirs)


def test_the_mean_over_layers_is_that_of_flair_and_medclip_for_a_text_alone() -> None:
    """Both average hidden states 1, 2 and the last over all positions, padding too, so a vector depends on others."""
    model = bert()
    ids, mask = bert_batch()

    def original(ids: np.ndarray, mask: np.ndarray) -> Any:
        output = model(torch.from_numpy(ids), torch.from_numpy(mask), output_hidden_states=True)
        states = torch.stack([output.hidden_states[1], output.hidden_states[2], output.hidden_states[-1]])
        return output, states.permute(1, 0, 2, 3).mean(2).mean(1)

    output, in_batch = original(ids, mask)
    layers = [output.hidden_states[i].detach().numpy() for i in (1, 2, -1)]
    ours = pool(np.mean(layers, axis=0), "mean", mask, ids)
    for line, length in enumerate(mask.sum(axis=1)):
        close(ours[line : line + 1], original(ids[line : line + 1, :length], mask[line : line + 1, :length])[1])
    difference = np.abs(ours - in_batch.detach().numpy()).max(axis=1)
    assert difference[0] > 0.05 and difference[2] < 1e-5  # the last text fills the batch


def test_last_and_token_are_those_of_cxr_clip_and_pmc_clip() -> None:
    ids, mask = bert_batch()
    output = bert()(input_ids=torch.from_numpy(ids), attention_mask=torch.from_numpy(mask)).last_hidden_state
    states, rows = output.detach().numpy(), torch.arange(len(ids))
    close(pool(states, "last", mask, ids), output[rows, torch.from_numpy(mask).sum(dim=-1) - 1])
    close(pool(states, "token", mask, ids, 2), output[rows, torch.nonzero(torch.from_numpy(ids) == 2)[:, 1]])


def test_the_goldens_are_what_the_libraries_give_today() -> None:
    """In the versions that the file names; it is written anew where they changed their ids."""
    stored = json.loads((golden.FOLDER / "golden.json").read_text())
    assert golden.cleaned() == stored["cleaned"]
