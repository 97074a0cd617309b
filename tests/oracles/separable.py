"""Data shared by the oracle tests."""

import numpy as np


def separable(n: int, d: int, seed: int, *, gap: float = 0.3) -> tuple[np.ndarray, np.ndarray]:
    """Gaussian inputs with a planted separator and none closer to it than `gap`."""
    rng = np.random.default_rng(seed)
    u = rng.normal(size=d)
    u /= np.linalg.norm(u)
    x = rng.normal(size=(10 * n + 100, d))
    x = x[np.abs(x @ u) > gap][:n]
    return x, np.sign(x @ u)


def sparse(n: int, d: int, seed: int, *, k: int = 2) -> tuple[np.ndarray, np.ndarray]:
    """Gaussian inputs and targets of a k-sparse signal."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, d)) / np.sqrt(n)
    w = np.zeros(d)
    w[:k] = 1 + rng.normal(size=k)
    return x, x @ w
