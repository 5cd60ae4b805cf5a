"""Writes goldens.json: what the original pipelines give, as SHA-256 of the exact tensor and three of its values.

Run from the repository root in the environment of `make test-export`, with python and tests on PYTHONPATH:
``python tests/encoders/references/make.py``. Recipes whose library is missing there (TensorFlow) keep what they have.
"""

from __future__ import annotations

import importlib.util
import json
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

from encoders.references import operations, pictures, pipelines
from encoders.references.digest import digest
from PIL import Image

GOLDENS = Path(__file__).with_name("goldens.json")


@contextmanager
def horizontal_first() -> Iterator[None]:
    """Resize in Pillow along the width first, as releases before 13 always did."""
    original = Image.Image.resize

    def resize(self: Any, size: Any, resample: Any = None, *rest: Any, **options: Any) -> Any:
        between = original(self, (size[0], self.size[1]), resample, *rest, **options)
        return original(between, size, resample, *rest, **options)

    Image.Image.resize = resize  # type: ignore[method-assign]
    try:
        yield
    finally:
        Image.Image.resize = original  # type: ignore[method-assign]


def both(run: Callable[[], Any]) -> dict[str, Any]:
    """Return what is kept of a result, and of that of older releases of Pillow where it is another."""
    kept = digest(run())
    with horizontal_first():
        older = digest(run())
    return kept if older == kept else {**kept, "before_pillow_13": older}


def of_recipe(name: str, pipeline: pipelines.Pipeline) -> dict[str, Any]:
    found: dict[str, Any] = {"eight_bit": {}, "deep": {}, "files": {}, "as_they_are": {}}
    inputs = pictures.patches() if name == "kimianet-1000" else pictures.eight_bit()
    for key, picture in inputs.items():
        flat = name.startswith("biovil") and picture.min() == picture.max()
        if not pipelines.fails_there(name, *picture.shape[:2]) and not flat:
            found["eight_bit"][key] = both(lambda picture=picture: pipeline(Image.fromarray(picture)))
    for key, picture in pictures.deep().items() if name in pipelines.DEEP else ():
        found["deep"][key] = both(lambda picture=picture: pipeline(picture))
    for key, (_, content) in pictures.files().items() if name != "kimianet-1000" else ():
        with Image.open(BytesIO(content)) as image:
            found["files"][key] = both(lambda image=image: pipeline(pictures.as_agreed(image)))
            try:
                found["as_they_are"][key] = digest(pipeline(image))["sha256"]
            except Exception:
                found["as_they_are"][key] = None
    return found


def main() -> None:
    warnings.simplefilter("ignore")
    before = json.loads(GOLDENS.read_text()) if GOLDENS.exists() else {"recipes": {}}
    recipes = {}
    for name, pipeline in sorted(pipelines.PIPELINES.items()):
        if name == "medsiglip-448" and importlib.util.find_spec("tensorflow") is None:
            recipes[name] = before["recipes"][name]
            continue
        recipes[name] = of_recipe(name, pipeline)
    steps = {}
    for name, (step, shape, kind) in operations.steps().items():
        picture = operations.picture(step, shape, kind)
        steps[name] = both(lambda step=step, picture=picture: operations.reference(step, picture))
    lines = [f"{json.dumps(name)}: {json.dumps(found)}" for name, found in recipes.items()]
    lines += [f'"steps": {json.dumps(steps)}']
    GOLDENS.write_text('{"recipes": {\n' + ",\n".join(lines[:-1]) + "\n},\n" + lines[-1] + "}\n")


if __name__ == "__main__":
    main()
