"""The pictures that goldens are made of: small, of odd sizes, the same on every machine.

Integers only, so that no random generator and no rounding is part of them.
"""

from __future__ import annotations

from io import BytesIO
from typing import Any

import numpy as np
from PIL import Image

SIZES = {
    "one pixel": (1, 1),
    "one row": (1, 37),
    "one column": (53, 1),
    "tiny": (7, 13),
    "prime, wide": (31, 97),
    "prime, tall": (113, 41),
    "as wide as many models": (224, 224),
    "odd and larger": (251, 347),
    "a double": (448, 512),
    "very wide": (17, 611),
    "very tall": (701, 19),
}


def pattern(height: int, width: int, channels: int = 0, top: int = 255) -> np.ndarray:
    """Return edges, slopes and noise over 0..top as int64, (H, W) or (H, W, channels)."""
    y, x, c = np.ogrid[:height, :width, : max(1, channels)]
    noise = (x * 7919 + y * 104729 + c * 1299709) % 1009 * 37 % 256
    slope = (x * 3 + y * 2 + c * 40) % 256
    block = (x // 5 + y // 7 + c) % 2 * 200
    values = np.where((x + y) % 3 == 0, noise, np.where(x % 11 < 6, slope, block)) * top // 255
    values = np.broadcast_to(values, (height, width, max(1, channels)))
    return values if channels else values[:, :, 0]


def eight_bit() -> dict[str, np.ndarray]:
    """Return grey and colour pictures of every size, uint8."""
    found = {}
    for name, size in SIZES.items():
        found[f"{name}, grey"] = pattern(*size).astype(np.uint8)
        found[f"{name}, colour"] = pattern(*size, 3).astype(np.uint8)
    found["one grey"] = np.full((40, 50), 77, dtype=np.uint8)
    found["black"] = np.zeros((40, 50, 3), dtype=np.uint8)
    found["faint"] = (pattern(60, 90) // 8 + 20).astype(np.uint8)
    return found


def patches() -> dict[str, np.ndarray]:
    """Return patches of 1000 x 1000 pixels, uint8."""
    return {name: pattern(1000, 1000, c).astype(np.uint8) for name, c in (("grey patch", 0), ("colour patch", 3))}


def deep() -> dict[str, np.ndarray]:
    """Return grey pictures of more than 8 bits, uint16."""
    return {
        "16 bits": pattern(251, 347, top=65535).astype(np.uint16),
        "12 bits": pattern(113, 41, top=4095).astype(np.uint16),
        "from 1000 up": (pattern(97, 131, top=3000) + 1000).astype(np.uint16),
        "a bright pixel": np.pad(pattern(40, 60, top=900), ((0, 1), (0, 0)), constant_values=65000).astype(np.uint16),
    }


def files() -> dict[str, tuple[str, bytes]]:
    """Return pictures of every mode as files: suffix and bytes."""
    grey, colour = pattern(61, 83).astype(np.uint8), pattern(61, 83, 3).astype(np.uint8)
    alpha = (pattern(83, 61).T % 256).astype(np.uint8)
    rgb, luma = Image.fromarray(colour), Image.fromarray(grey)
    palette = Image.fromarray(grey // 16, mode="P")
    palette.putpalette([(i * 53 + c * 91) % 256 for i in range(16) for c in range(3)])
    turned = Image.Exif()
    turned[0x0112] = 6
    images: dict[str, tuple[Any, str, dict[str, Any]]] = {
        "grey": (luma, "PNG", {}),
        "colour": (rgb, "PNG", {}),
        "palette": (palette, "PNG", {}),
        "one bit": (Image.fromarray(grey > 128), "PNG", {}),
        "cmyk": (rgb.convert("CMYK"), "TIFF", {}),
        "opaque": (Image.merge("RGBA", (*rgb.split(), Image.new("L", rgb.size, 255))), "PNG", {}),
        "translucent": (Image.merge("RGBA", (*rgb.split(), Image.fromarray(alpha))), "PNG", {}),
        "grey translucent": (Image.merge("LA", (luma, Image.fromarray(alpha))), "PNG", {}),
        "transparent colour": (palette, "PNG", {"transparency": 3}),
        "turned": (rgb, "PNG", {"exif": turned}),
        "turned jpeg": (rgb, "JPEG", {"exif": turned, "quality": 90}),
    }
    found = {}
    for name, (image, kind, options) in images.items():
        stream = BytesIO()
        image.save(stream, kind, **options)
        found[name] = (kind.lower(), stream.getvalue())
    return found


def as_agreed(image: Any) -> Any:
    """Return what Osler makes of a PIL image before the recipe: upright, alpha on black, grey or RGB."""
    from PIL import ImageOps

    image = ImageOps.exif_transpose(image)
    if "A" in image.getbands() or "transparency" in image.info:
        grey = image.mode == "LA"
        layer = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", layer.size, (0, 0, 0, 255)), layer).convert("RGB")
        return image.getchannel("R") if grey else image
    return image.convert("L" if image.mode in ("1", "L") else "RGB")
