"""The models and data that all comparisons share: trained a little, so that the curvature is that of a real run."""

import itertools

import numpy as np
import torch
from scipy.ndimage import shift, zoom
from sklearn.datasets import load_digits
from torch import nn


def images(n: int, side: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Handwritten digits scaled to side × side; beyond the 1797 there are, the same ones shifted by a pixel."""
    digits = load_digits()
    order = np.random.default_rng(seed).permutation(len(digits.target))
    index = np.resize(order, n)
    scaled = np.stack([zoom(digits.images[i] / 16, side / 8, order=1) for i in index])
    for k in range(len(order), n):
        scaled[k] = shift(scaled[k], (0, 1), order=0)
    return torch.tensor(scaled, dtype=torch.float32), torch.tensor(digits.target[index])


def mlp(n: int = 2000, widths: tuple[int, ...] = (784, 128, 10)):
    """784-128-10, 101,770 parameters."""
    torch.manual_seed(0)
    x, y = images(n, int(widths[0] ** 0.5))
    layers = [layer for a, b in itertools.pairwise(widths) for layer in (nn.Linear(a, b), nn.ReLU())]
    return nn.Sequential(*layers[:-1]), x.flatten(1), y


def cnn(n: int = 128):
    """Two convolutions and two dense layers on 16 × 16 images, about 102,000 parameters."""
    torch.manual_seed(0)
    x, y = images(n, 16)
    model = nn.Sequential(
        nn.Conv2d(1, 32, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(1024, 80),
        nn.ReLU(),
        nn.Linear(80, 10),
    )
    return model, x[:, None], y


class Transformer(nn.Module):
    """Two encoder layers over the sixteen rows of an image, their mean to ten classes."""

    def __init__(self, width: int = 64):
        super().__init__()
        self.embed = nn.Linear(16, width)
        layer = nn.TransformerEncoderLayer(width, 4, 128, dropout=0.0, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(width, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.encoder(self.embed(x)).mean(dim=1))


def transformer(n: int = 128):
    torch.manual_seed(0)
    x, y = images(n, 16)
    return Transformer(), x, y


def train(model: nn.Module, x: torch.Tensor, y: torch.Tensor, *, steps: int, rate: float) -> None:
    """Full-batch gradient descent."""
    optimizer = torch.optim.SGD(model.parameters(), lr=rate)
    for _ in range(steps):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    optimizer.zero_grad()
