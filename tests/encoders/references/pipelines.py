"""The original pipelines, each run with the library that its authors used; needs torch, open_clip, transformers, cv2.

Every function takes a PIL image (8 bits) or a uint16 array (deep) and returns (H, W, C) float32. Used to make the
goldens and by tests/export; nothing else may import it, since those libraries live in an environment of their own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import torch
from open_clip.transform import image_transform
from PIL import Image
from torchvision import transforms as tv
from torchvision.transforms import InterpolationMode
from transformers import CLIPImageProcessor, SiglipImageProcessor
from transformers.models.bit.image_processing_pil_bit import BitImageProcessorPil
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

# Intel's IPP, where a build of OpenCV has it, has arithmetic of its own
cv2.ipp.setUseIPP(False)

OPENAI = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
CUBIC, LINEAR = InterpolationMode.BICUBIC, InterpolationMode.BILINEAR

Pipeline = Callable[[Any], np.ndarray]


def last(tensor: Any) -> np.ndarray:
    """(C, H, W) tensor or array to (H, W, C) array."""
    return np.ascontiguousarray(np.asarray(tensor, dtype=np.float32).transpose(1, 2, 0))


def open_clip(size: int, mode: str = "shortest", norm: Any = OPENAI) -> Pipeline:
    transform = image_transform(size, is_train=False, mean=norm[0], std=norm[1], resize_mode=mode)
    return lambda image: last(transform(image))


def transformers(processor: Any, **options: Any) -> Pipeline:
    made = processor(**options)
    return lambda image: last(made(images=image, return_tensors="np")["pixel_values"][0])


def torchvision(*steps: Any, norm: Any = None) -> Pipeline:
    whole = [*steps, tv.ToTensor()] + ([tv.Normalize(*norm)] if norm else [])
    transform = tv.Compose(whole)
    return lambda image: last(transform(image.convert("RGB")))


def tensorflow_then_siglip(image: Any) -> np.ndarray:
    from tensorflow.image import resize

    resized = resize(np.asarray(image.convert("RGB")), [448, 448], method="bilinear", antialias=False)
    small = resized.numpy().astype(np.uint8)
    return (small.astype(np.float32) / np.float32(255) - np.float32(0.5)) / np.float32(0.5)


def flair(image: Any) -> np.ndarray:
    values = np.asarray(image.convert("RGB"), dtype=np.float32)
    if values.max() > 0:
        values = values / np.float32(255)
    tensor = torch.tensor(values.transpose(2, 0, 1)[None].copy())
    height, width = tensor.shape[-2:]
    scale = max(height, width) / 512
    small = tv.Resize((int(height / scale), int(width / scale)), antialias=True)(tensor)
    canvas = torch.nn.functional.pad(small, (0, 512 - small.shape[-1], 0, 512 - small.shape[-2]))
    return last(canvas[0])


def mgca(image: Any) -> np.ndarray:
    if isinstance(image, np.ndarray):
        grey = cv2.convertScaleAbs(image, alpha=255.0 / image.max())
    else:
        values = np.asarray(image)
        grey = values if values.ndim == 2 else cv2.cvtColor(values, cv2.COLOR_RGB2GRAY)
    height, width = grey.shape
    if height >= width:
        size = (256, int(float(width) * (256 / float(height))))
    else:
        size = (int(float(height) * (256 / float(width))), 256)
    small = cv2.resize(grey, size[::-1], interpolation=cv2.INTER_AREA)
    before = [(256 - side) // 2 for side in small.shape]
    square = np.pad(small, [(b, 256 - side - b) for b, side in zip(before, small.shape, strict=True)])
    return torchvision(tv.CenterCrop(224), norm=HALF)(Image.fromarray(square))


def medclip(image: Any) -> np.ndarray:
    side = max(224, *image.size)
    canvas = Image.new("L", (side, side), 0)
    canvas.paste(image, (int((side - image.size[0]) / 2), int((side - image.size[1]) / 2)))
    # the feature extractor of transformers 4.23 multiplied in float32, where later ones go by float64
    small = np.asarray(canvas.resize((224, 224), Image.Resampling.BICUBIC)).astype(np.float32) * (1 / 255.0)
    normal = (small - np.float32(0.5862785803043838)) / np.float32(0.27950088968644304)
    return np.repeat(normal[:, :, None], 3, axis=2)


def biovil(crop: int) -> Pipeline:
    transform = tv.Compose([tv.Resize(512), tv.CenterCrop(crop), tv.ToTensor()])

    def run(image: Any) -> np.ndarray:
        values = np.asarray(image).astype(float)
        values = values - values.min()
        values = values / values.max() * 255
        return np.repeat(last(transform(Image.fromarray(values.astype(np.uint8)).convert("L"))), 3, axis=2)

    return run


def clahe(image: Any) -> np.ndarray:
    equal = cv2.createCLAHE(4.0, (8, 8)).apply(np.asarray(image.convert("L")))
    return torchvision(tv.Resize(224), tv.CenterCrop(224), norm=HALF)(Image.fromarray(equal))


def shown_between(low: float, high: float) -> Pipeline:
    def run(image: Any) -> np.ndarray:
        if isinstance(image, np.ndarray):
            black, white = np.percentile(image, low * 100), np.percentile(image, high * 100)
            shown = (np.clip(image, black, white) - black) / (white - black) * 255.0
            image = Image.fromarray(shown.astype(np.uint8))
        return torchvision(tv.Resize((480, 480), interpolation=CUBIC), norm=IMAGENET)(image)

    return run


def squash(size: int, kind: Any, norm: Any) -> Pipeline:
    return torchvision(tv.Resize((size, size), interpolation=kind), norm=norm)


def short(size: int, kind: Any, norm: Any) -> Pipeline:
    return torchvision(tv.Resize(size, interpolation=kind), tv.CenterCrop(size), norm=norm)


PIPELINES: dict[str, Pipeline] = {
    "open_clip-224": open_clip(224),
    "open_clip-half-224": open_clip(224, norm=HALF),
    "open_clip-336": open_clip(336),
    "open_clip-518": open_clip(518),
    "open_clip-squash-224": open_clip(224, "squash"),
    "open_clip-squash-378": open_clip(378, "squash"),
    "open_clip-longest-224": open_clip(224, "longest"),
    "open_clip-siglip-224": open_clip(224, "squash", HALF),
    "conceptclip-384": open_clip(384, "squash", HALF),
    "clip-transformers-224": transformers(CLIPImageProcessorPil),
    "clip-transformers-336": transformers(
        CLIPImageProcessorPil, size={"shortest_edge": 336}, crop_size={"height": 336, "width": 336}
    ),
    "clip-transformers-squash-512": transformers(
        CLIPImageProcessorPil, size={"height": 512, "width": 512}, do_center_crop=False
    ),
    "clip-transformers-squash-518": transformers(
        CLIPImageProcessorPil, size={"height": 518, "width": 518}, do_center_crop=False
    ),
    "clip-transformers-fast-224": transformers(CLIPImageProcessor),
    "siglip-fast-384": transformers(SiglipImageProcessor, size={"height": 384, "width": 384}),
    "medsiglip-448": tensorflow_then_siglip,
    "medsiglip-448-transformers": transformers(
        SiglipImageProcessorPil, size={"height": 448, "width": 448}, resample=Image.Resampling.BILINEAR
    ),
    "imagenet-bicubic-224": short(224, CUBIC, IMAGENET),
    "imagenet-bilinear-224": short(224, LINEAR, IMAGENET),
    "rad-dino-518": transformers(
        BitImageProcessorPil,
        size={"shortest_edge": 518},
        crop_size={"height": 518, "width": 518},
        image_mean=[0.5307] * 3,
        image_std=[0.2583] * 3,
    ),
    "flair-512": flair,
    "mgca-224": mgca,
    "medclip-224": medclip,
    "biovil-480": biovil(480),
    "biovil-t-448": biovil(448),
    "cxr-clip-224": short(224, LINEAR, HALF),
    "cxr-clip-imagenet-224": short(224, LINEAR, IMAGENET),
    "cxr-clip-clahe-224": clahe,
    "benchx-224": short(224, LINEAR, ((0.4978,) * 3, (0.2449,) * 3)),
    "kimianet-1000": torchvision(norm=IMAGENET),
    "conch-448": open_clip(448),
    "medimageinsight-480": squash(480, CUBIC, IMAGENET),
    "medimageinsight-480-p1-99": shown_between(0.01, 0.99),
    "medimageinsight-480-p10-99": shown_between(0.1, 0.99),
    "pmc-clip-224": squash(224, CUBIC, OPENAI),
    "pmc-clip-short-224": open_clip(224),
    "lvmmed-rn50-1024": squash(1024, LINEAR, IMAGENET),
    "lvmmed-vit-224": squash(224, LINEAR, IMAGENET),
    "capricorn-224": squash(224, LINEAR, None),
}
for side in (224, 256, 384, 512):
    shape = {"height": side, "width": side}
    PIPELINES[f"siglip-{side}"] = transformers(SiglipImageProcessorPil, size=shape)
    PIPELINES[f"siglip2-{side}"] = transformers(SiglipImageProcessorPil, size=shape, resample=Image.Resampling.BILINEAR)

# those that read more than 8 bits by a rule of their own
DEEP = ("mgca-224", "biovil-480", "biovil-t-448", "medimageinsight-480-p1-99", "medimageinsight-480-p10-99")


def fails_there(name: str, height: int, width: int) -> bool:
    """Whether the original cannot take this size.

    PyTorch 2.15 repeats the first pixel of a float tensor that is, or becomes, one column (with antialias); FLAIR,
    MGCA and open_clip's ``longest`` make the short side of a very long picture 0; KimiaNet takes one size.
    """
    if name == "kimianet-1000":
        return (height, width) != (1000, 1000)
    if name == "flair-512":
        return width == 1 or width * 512 < 2 * max(height, width) or height * 512 < width
    if name == "open_clip-longest-224":
        return round(min(height, width) / (max(height, width) / 224)) == 0
    return name == "mgca-224" and min(height, width) * 256 < max(height, width)
