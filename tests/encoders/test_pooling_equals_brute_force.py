"""Every pooling kind gives the state that its definition names, whatever the padding and the batch."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import onnx
import osler
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from osler.encoders.pooling import pool

END, PAD = 9, 0
KINDS = ["mean", "cls", "eot", "eos", "token", "last", "end"]


def by_hand(states: list[list[float]], kind: str, mask: list[int], ids: list[int], pool_id: int) -> list[float]:
    """Follow the definition for one row, in plain Python."""
    tokens = [i for i, m in enumerate(mask) if m]
    if kind == "mean":
        return [sum(states[i][d] for i in tokens) / len(tokens) for d in range(len(states[0]))]
    position = {
        "cls": 0,
        "end": len(ids) - 1,
        "last": tokens[-1],
        "eot": ids.index(max(ids)),
        "eos": ids.index(pool_id) if pool_id in ids else 0,
        "token": ids.index(pool_id) if pool_id in ids else 0,
    }[kind]
    return states[position]


@given(st.data())
def test_pooling_equals_its_definition(data: st.DataObject) -> None:
    rows, width, pad = (
        data.draw(st.integers(1, 4)),
        data.draw(st.integers(3, 7)),
        data.draw(st.sampled_from([PAD, END])),
    )
    lengths = [data.draw(st.integers(2, width)) for _ in range(rows)]
    ids = np.full((rows, width), pad)
    for row, length in enumerate(lengths):
        ids[row, 1 : length - 1] = data.draw(st.lists(st.integers(1, 8), min_size=length - 2, max_size=length - 2))
        ids[row, 0], ids[row, length - 1] = 8, END
    mask = (np.arange(width) < np.array(lengths)[:, None]).astype(np.int64)
    states = np.random.default_rng(0).standard_normal((rows, width, 3)).astype(np.float32)
    for kind in KINDS:
        expected = [by_hand(states[r].tolist(), kind, mask[r].tolist(), ids[r].tolist(), END) for r in range(rows)]
        np.testing.assert_allclose(pool(states, kind, mask, ids, END), expected, rtol=1e-5, atol=1e-6)
    for kind in ("eot", "eos", "token", "last"):  # CLIP's end of the text, found in four ways
        np.testing.assert_array_equal(
            pool(states, kind, mask, ids, END), states[np.arange(rows), np.array(lengths) - 1]
        )


def test_without_a_mask_every_token_counts() -> None:
    states = np.arange(12, dtype=np.float32).reshape(1, 4, 3)
    np.testing.assert_allclose(pool(states, "mean", None), states.mean(axis=1))
    np.testing.assert_array_equal(pool(states, "last", None), states[:, -1])


def test_the_end_of_the_text_that_is_not_the_greatest_id_is_missed_by_eot_and_found_by_eos() -> None:
    states = np.arange(4, dtype=np.float32).reshape(1, 4, 1)
    ids = np.array([[5, 30, 9, 0]])  # an id above the end of the text: not CLIP's vocabulary
    assert pool(states, "eot", None, ids).item() == 1.0
    assert pool(states, "eos", None, ids, 9).item() == 2.0


@pytest.mark.parametrize("kind", ["eos", "token"])
def test_a_token_that_is_not_there_is_an_error(kind: str) -> None:
    with pytest.raises(osler.EncoderError, match=rf"a text has no token 9, where pooling '{kind}' looks"):
        pool(np.zeros((2, 3, 1), np.float32), kind, None, np.array([[1, 9, 0], [1, 2, 0]]), 9)


@pytest.mark.parametrize("kind", ["mean", "last", "eot", "eos"])
def test_states_that_are_no_tokens_are_an_error(kind: str) -> None:
    ids = np.ones((1, 3), np.int64)
    with pytest.raises(osler.EncoderError, match=r"the model gives 4 states for 3 tokens"):
        pool(np.zeros((1, 4, 2), np.float32), kind, ids, ids, 1)


def deep_model(weights: list[np.ndarray], slot: bool = False) -> bytes:
    """ids to three outputs of states, each a table of its own; `slot` appends a state that no token has, as CoCa's."""
    nodes = [helper.make_node("Gather", [f"table{i}", "ids"], [f"plain{i}"], axis=0) for i in range(3)]
    shape = ["batch", "more" if slot else "tokens", weights[0].shape[1]]
    constants = [numpy_helper.from_array(table, f"table{i}") for i, table in enumerate(weights)]
    for i in range(3):
        if not slot:
            nodes.append(helper.make_node("Identity", [f"plain{i}"], [f"states{i}"]))
            continue
        nodes.append(helper.make_node("ReduceSum", [f"plain{i}", "axes"], [f"sum{i}"], keepdims=1))
        nodes.append(helper.make_node("Concat", [f"plain{i}", f"sum{i}"], [f"states{i}"], axis=1))
    if slot:
        constants.append(numpy_helper.from_array(np.array([1], np.int64), "axes"))
    graph = helper.make_graph(
        nodes,
        "deep",
        [helper.make_tensor_value_info("ids", TensorProto.INT64, ["batch", "tokens"])],
        [helper.make_tensor_value_info(f"states{i}", TensorProto.FLOAT, shape) for i in range(3)],
        constants,
    )
    model: onnx.ModelProto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    return model.SerializeToString()


@pytest.fixture
def deep(tiny, rng) -> Any:
    """The tiny encoder with a text tower of three outputs; the tokenizer's ids are [CLS] 2, [SEP] 3, words 4 to 7."""
    tables = [rng.standard_normal((8, 5)).astype(np.float32) for _ in range(3)]
    (tiny.folder / "text.onnx").write_bytes(deep_model(tables))
    tiny.manifest["text"] |= {"file": tiny.enter("text.onnx"), "output": "states2", "pooling": "mean"}
    tiny.tables = tables
    return tiny


def unit(vectors: Any) -> np.ndarray:
    vectors = np.asarray(vectors, dtype=np.float64)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def test_layers_are_averaged_before_the_tokens(deep) -> None:
    """FLAIR and MedCLIP: the mean over the tokens of the mean over three hidden states."""
    deep.manifest["text"] |= {"layers": ["states0", "states1"]}
    encoder = osler.load_encoder(deep.save())
    ids = [[2, 4, 3], [2, 5, 6, 7, 3]]
    expected = unit([np.mean([table[row].mean(axis=0) for table in deep.tables], axis=0) for row in ids])
    found = encoder.encode_texts(["lung", "heart brain clear"])  # one batch, so the first is padded
    np.testing.assert_allclose(found, expected, atol=1e-6)
    one = encoder.encode_texts(["lung"])
    np.testing.assert_array_equal(found[:1], one)


@pytest.mark.parametrize(
    ("pooling", "pool_id", "position"), [("cls", None, 0), ("last", None, -1), ("eos", 3, -1), ("token", 2, 0)]
)
def test_an_encoder_takes_the_state_that_its_manifest_names(deep, pooling: str, pool_id: Any, position: int) -> None:
    """In the tiny model a state depends on its token only, so the tables say which token was taken."""
    deep.manifest["text"] |= {"pooling": pooling, "pad_to_max": True} | ({"pool_id": pool_id} if pool_id else {})
    found = osler.load_encoder(deep.save()).encode_texts(["lung", "heart brain"])
    token = [2, 3][position]
    np.testing.assert_allclose(found, unit([deep.tables[2][token]] * 2), atol=1e-6)


def test_the_greatest_id_must_be_that_of_the_end_of_the_text(deep) -> None:
    deep.manifest["text"] |= {"pooling": "eot", "pool_id": 3}
    encoder = osler.load_encoder(deep.save())
    with pytest.raises(
        osler.EncoderError, match=r"^pooling 'eot' takes the greatest id of a text, and the tokenizer has"
    ):
        encoder.encode_texts(["lung"])
    deep.manifest["text"] |= {"pool_id": 7}
    with pytest.raises(osler.EncoderError, match=r"^the tokenizer does not put token 7 into a text; correct pool_id$"):
        osler.load_encoder(deep.save()).encode_texts(["lung"])


def greatest_last(tiny: Any) -> None:
    """Give the tiny tokenizer CLIP's order of ids: the end of the text is the greatest."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    words = ["lung", "heart", "brain", "clear", "[UNK]", "<start>", "<end>"]
    made = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.post_processor = processors.BertProcessing(("<end>", 6), ("<start>", 5))
    (tiny.folder / "tokenizer.json").write_text(made.to_str())
    tiny.manifest["text"]["tokenizer"] = tiny.enter("tokenizer.json")


@pytest.mark.parametrize("pad_id", [0, 6])
def test_clip_finds_the_end_of_the_text_however_it_is_padded(deep, pad_id: int) -> None:
    greatest_last(deep)
    deep.manifest["text"] |= {"pooling": "eot", "pool_id": 6, "pad_id": pad_id, "pad_to_max": True}
    found = osler.load_encoder(deep.save()).encode_texts(["lung", "heart brain clear"])
    np.testing.assert_allclose(found, unit([deep.tables[2][6]] * 2), atol=1e-6)


def test_padding_above_the_end_of_the_text_is_refused(deep) -> None:
    greatest_last(deep)
    deep.manifest["text"] |= {"pooling": "eot", "pool_id": 6, "pad_id": 7}
    with pytest.raises(osler.EncoderError, match=r"the tokenizer has ids above 6; use pooling 'eos'"):
        osler.load_encoder(deep.save()).encode_texts(["lung"])


def test_the_last_position_is_taken_padding_or_not(deep) -> None:
    """SigLIP: texts are padded with what ends them, and the last state is the vector."""
    deep.manifest["text"] |= {"pooling": "end", "pad_to_max": True, "pad_id": 6}
    found = osler.load_encoder(deep.save()).encode_texts(["lung", "heart brain clear lung"])  # 3 and 6 of 6 tokens
    np.testing.assert_allclose(found, unit([deep.tables[2][6], deep.tables[2][3]]), atol=1e-6)


def test_the_slot_that_a_model_appends_is_its_last_state(deep) -> None:
    """CoCa: the graph appends a class token; here it is the sum over all positions, padding too."""
    (deep.folder / "text.onnx").write_bytes(deep_model(deep.tables, slot=True))
    deep.manifest["text"] |= {"file": deep.enter("text.onnx"), "pooling": "end", "pad_to_max": True, "pad_id": 1}
    found = osler.load_encoder(deep.save()).encode_texts(["lung", "heart brain"])
    ids = [[2, 4, 3, 1, 1, 1], [2, 5, 6, 3, 1, 1]]
    np.testing.assert_allclose(found, unit([deep.tables[2][row].sum(axis=0) for row in ids]), atol=1e-6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pooling": "eot"}, "pool_id belongs to pooling 'eot', 'eos' and 'token'"),
        ({"pooling": "mean", "pool_id": 3}, "pool_id belongs to pooling 'eot', 'eos' and 'token'"),
        ({"pooling": "end"}, "pooling 'end' needs pad_to_max"),
        ({"pooling": "none", "layers": ["states0"]}, "layers are averaged before pooling"),
        ({"layers": ["states2"]}, "must name different outputs"),
        ({"layers": ["states0", "states0"]}, "must name different outputs"),
        ({"pad_id": -1}, "text.pad_id: "),
        ({"pooling": "median"}, "text.pooling: "),
    ],
)
def test_a_pooling_that_says_too_little_is_refused(deep, changes: dict[str, Any], message: str) -> None:
    deep.manifest["text"] |= changes
    with pytest.raises(osler.EncoderError, match=message) as caught:
        osler.load_encoder(deep.save())
    assert str(caught.value).startswith("manifest.json: ") and "\n" not in str(caught.value)


def test_an_output_that_is_no_layer_is_named(deep) -> None:
    deep.manifest["text"] |= {"layers": ["states9"]}
    with pytest.raises(osler.EncoderError, match=r"the model has no output 'states9'"):
        osler.load_encoder(deep.save()).encode_texts(["lung"])


def test_an_image_tower_pools_in_three_ways_only(tiny) -> None:
    tiny.manifest["image"]["pooling"] = "last"
    with pytest.raises(osler.EncoderError, match=r"^manifest\.json: image\.pooling: "):
        osler.load_encoder(tiny.save())


def test_every_choice_is_part_of_the_fingerprint_and_none_of_them_where_it_is_not_set(deep) -> None:
    choices: list[dict[str, Any]] = [
        {},
        {"clean": "siglip"},
        {"pad_id": 1},
        {"pad_id": 0},
        {"pooling": "eos", "pool_id": 3},
        {"pooling": "token", "pool_id": 3},
        {"pooling": "token", "pool_id": 2},
        {"layers": ["states0"]},
        {"layers": ["states1"]},
        {"layers": ["states0", "states1"]},
    ]
    before = dict(deep.manifest["text"])
    seen = []
    for choice in choices:
        deep.manifest["text"] = before | choice
        seen.append(osler.load_encoder(deep.save()).fingerprint)
    assert all(a != b for a, b in itertools.combinations(seen, 2))
    deep.manifest["text"] = before | {"clean": "none", "layers": [], "pad_id": None, "pool_id": None}
    assert osler.load_encoder(deep.save()).fingerprint == seen[0]


def test_fingerprints_from_before_these_fields_are_what_they_were() -> None:
    fingerprint = osler.load_encoder("minilm").fingerprint
    assert fingerprint == "9264895a6d04497fde6a94fce8118b26505d3444107574f52c2ac56c4a15eb48"
