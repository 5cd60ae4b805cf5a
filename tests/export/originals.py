"""The code of authors, where a package index has it, for tests that compare with it; none of it is part of osler.

``python tests/export/originals.py`` puts the packages into target/originals, without what they depend on: they are
old, and the modules that are compared need only PyTorch, timm, MONAI and transformers of today.
"""

from __future__ import annotations

import importlib
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).resolve().parents[2] / "target" / "originals"
PACKAGES = {
    "conch-fork": "0.1.0",
    "hi-ml-multimodal": "0.2.2",
    "kaiko-eva": "0.4.5",
    "medclip": "0.0.3",
    "medimageinsights": "0.1.1",
    "medmetric": "0.1.1",
    "merlin-vlm": "0.0.7",
    "segment-anything": "1.0",
}

__all__ = ["original"]


def original(package: str, module: str) -> Any:
    """Import a module of one of the packages without what its parents import; skips the test where it is not there."""
    place = FOLDER / package
    if not place.is_dir():
        pytest.skip(f"{package} is not in target/originals; run tests/export/originals.py")
    parents = module.split(".")[:-1]
    for depth in range(1, len(parents) + 1):
        name = ".".join(parents[:depth])
        if name not in sys.modules:
            shell = types.ModuleType(name)
            shell.__path__ = [str(place.joinpath(*parents[:depth]))]
            sys.modules[name] = shell
    with pytest.MonkeyPatch.context() as patch:
        for name, content in _stand_ins().items():
            shell = types.ModuleType(name)
            shell.__dict__.update(content)
            if name not in sys.modules:
                patch.setitem(sys.modules, name, shell)
        return importlib.import_module(module)


def _stand_ins() -> dict[str, dict[str, Any]]:
    """Return what the authors' modules import and do not use in what is compared: downloads, training, registries."""
    import timm.layers

    class Registry:
        @staticmethod
        def register(_: str) -> Any:
            return lambda kind: kind

    return {
        "mup": {"MuReadout": object, "set_base_shapes": None},
        "mup.init": {},
        "requests": {},
        "timm.models.layers": vars(timm.layers),
        "MedImageInsights.Utils": {"is_main_process": lambda: False, "register_norm_module": lambda kind: kind},
        "eva.vision.models.networks.backbones.registry": {"backbone_registry": Registry()},
    }


def main() -> None:
    for name, version in PACKAGES.items():
        if not (FOLDER / name).is_dir():
            subprocess.run(
                [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(FOLDER / name),
                 f"{name}=={version}"],
                check=True,
            )  # fmt: skip


if __name__ == "__main__":
    main()
