"""`pull` of a checkpoint, with the extra export installed, ends in an encoder that works where it is carried to."""

from __future__ import annotations

import io
import json
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import osler
import pytest
from osler.encoders.fetch import plan_pull, pull_encoder
from osler.encoders.registry import home_folder

torch = pytest.importorskip("torch", reason="the extra export is not installed here")
pytest.importorskip("open_clip", reason="the extra export is not installed here")

from hub_entry import HUB, REVISION, checkpoint_entry, enter, tiny_hub  # noqa: E402
from hub_server import HubServer  # noqa: E402
from tiny_encoder import TinyEncoder, tiny_encoder  # noqa: E402

pytestmark = pytest.mark.sockets

CONFIG = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 64, "head_width": 32, "patch_size": 16},
    "text_cfg": {"context_length": 8, "vocab_size": 8, "width": 32, "heads": 2, "layers": 1},
}
STEPS = [
    {"op": "window", "rule": "full"},
    {"op": "rgb"},
    {"op": "resize", "mode": "squash", "height": 32, "width": 32, "filter": "bicubic"},
    {"op": "normalise", "scale": 1 / 255, "mean": [0.5], "std": [0.25]},
]


@pytest.fixture
def tiny(tmp_path: Path, rng: np.random.Generator) -> TinyEncoder:
    return tiny_encoder(tmp_path / "tiny", rng)


@pytest.fixture
def hub(tiny: TinyEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    from osler.encoders.export.open_clip import module

    torch.manual_seed(0)
    with tiny_hub(tiny, tmp_path / "home", monkeypatch) as server:
        stream = io.BytesIO()
        torch.save(module(CONFIG).state_dict(), stream)
        server.repositories[HUB].commits[REVISION]["weights.bin"] = stream.getvalue()
        architecture = {"builder": "open_clip", "options": CONFIG}
        doubts = {"logit_scale": "read from the checkpoint at export", "image.recipe": "mean not seen"}
        entry = checkpoint_entry("tokenizer.json", dim=16, architecture=architecture, uncertain=doubts)
        entry["text"] |= {"max_length": 8, "pad_to_max": True}
        enter(entry, STEPS)
        yield server


def test_pull_exports_and_the_folder_runs_elsewhere(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator
) -> None:
    pulled = pull_encoder(plan_pull("tiny-hub"))
    folder = home_folder("tiny-hub")
    assert (pulled.state, pulled.next, pulled.folder) == ("ready", None, folder)
    encoder = osler.load_encoder("tiny-hub")
    assert encoder.manifest.image.origin.weights == (pulled.sha256["weights.bin"],)
    assert encoder.logit_scale == pytest.approx(1 / 0.07, rel=1e-3)
    assert encoder.manifest.uncertain == {"image.recipe": "mean not seen"}, "what was read off is settled, no more"
    record = json.loads((folder / "checkpoint" / "source.json").read_text())
    assert {one["path"]: one["sha256"] for one in record["files"]} == pulled.sha256
    picture = rng.integers(0, 256, (40, 50, 3), dtype=np.uint8)
    before = encoder.encode_images([picture])
    assert pull_encoder(plan_pull("tiny-hub")).fetched == 0, "the second pull finds everything"
    hub.close()
    shutil.copytree(folder, tmp_path / "carried", ignore=shutil.ignore_patterns("checkpoint"))
    shutil.rmtree(folder)

    def refuse(*arguments: Any, **options: Any) -> Any:
        raise AssertionError("a socket was asked for")

    for name in ("socket", "create_connection", "getaddrinfo"):
        monkeypatch.setattr(socket, name, refuse)
    carried = osler.load_encoder(tmp_path / "carried")
    np.testing.assert_array_equal(carried.encode_images([picture]), before)
    assert carried.encode_texts(["lung clear"]).shape == (1, 16)
    assert carried.fingerprint == pulled.fingerprint
