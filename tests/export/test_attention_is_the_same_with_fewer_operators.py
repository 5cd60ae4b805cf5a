"""While a tower is traced, PyTorch's attention is written with fewer operators and gives the same."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="the extra export is not installed here")
onnx = pytest.importorskip("onnx")

from osler.encoders.export import graph  # noqa: E402
from osler.encoders.export.attention import lean_attention  # noqa: E402
from osler.encoders.export.parts import call  # noqa: E402
from osler.encoders.export.towers import ImageModel  # noqa: E402


def attention(**options: Any) -> Any:
    torch.manual_seed(0)
    made = torch.nn.MultiheadAttention(48, 4, **{"batch_first": True, **options}).eval()
    if made.in_proj_bias is not None:
        torch.nn.init.normal_(made.in_proj_bias)
        torch.nn.init.normal_(made.out_proj.bias)
    return made


@torch.no_grad()
@pytest.mark.parametrize("causal", [False, True])
def test_the_same_vectors(causal: bool) -> None:
    made, tokens = attention(), torch.randn(3, 7, 48)
    mask = torch.full((7, 7), float("-inf")).triu(1) if causal else None
    expected = made(tokens, tokens, tokens, need_weights=False, attn_mask=mask)[0]
    with lean_attention():
        found, weights = made(tokens, tokens, tokens, need_weights=False, attn_mask=mask)
    assert weights is None
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    assert torch.nn.MultiheadAttention.forward.__qualname__ == "MultiheadAttention.forward"


@torch.no_grad()
def test_what_is_asked_otherwise_is_pytorch_s_own() -> None:
    made, tokens, others = attention(), torch.randn(3, 7, 48), torch.randn(3, 9, 48)
    hidden = torch.tensor([[False] * 7, [False] * 5 + [True] * 2, [False] * 7])
    first = attention(batch_first=False)
    cases: list[tuple[Any, tuple[Any, ...], dict[str, Any]]] = [
        (made, (tokens, others, others), {"need_weights": False}),
        (made, (tokens, tokens, tokens), {"need_weights": True}),
        (made, (tokens, tokens, tokens), {"need_weights": False, "key_padding_mask": hidden}),
        (made, (tokens, tokens, tokens), {"need_weights": False, "attn_mask": torch.eye(7) == 0}),
        (first, (tokens, tokens, tokens), {"need_weights": False}),
        (attention(bias=False), (tokens, tokens, tokens), {"need_weights": False}),
        (attention(add_bias_kv=True), (tokens, tokens, tokens), {"need_weights": False}),
    ]
    for module, given, options in cases:
        expected = module(*given, **options)
        with lean_attention():
            found = module(*given, **options)
        torch.testing.assert_close(found[0], expected[0])
        assert (found[1] is None) == (expected[1] is None)


def test_a_block_has_few_operators_that_move_values(tmp_path: Path) -> None:
    nn = torch.nn
    block = nn.Sequential(nn.LayerNorm(48), nn.Linear(48, 96), nn.GELU(), nn.Linear(96, 48))
    made = attention()

    def run(batch: Any) -> Any:
        tokens = batch.flatten(2).movedim(1, 2)
        return block(made(tokens, tokens, tokens, need_weights=False)[0]).mean(1)

    tower = call(run, nn.ModuleList([block, made]).eval())
    graph.write_image(ImageModel(tower, (48, 3, 3)), tmp_path, "fp32")
    kinds = Counter(node.op_type for node in onnx.load(tmp_path / "image.onnx").graph.node)
    assert kinds["Gelu"] == 1 and kinds["Erf"] == 0
    assert kinds["Transpose"] <= 4
