"""What every oracle does at its door: arrays become float64 NumPy, and data that cannot be meant is refused."""

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

# A number as people type it: int is no float to a runtime type checker.
Scalar = float | int

EPS = float(np.finfo(np.float64).eps)


def as_float64(array: ArrayLike | Scalar, name: str, ndim: int | tuple[int, ...]) -> np.ndarray:
    """A finite, non-empty float64 copy on the host with one of the given numbers of axes, or a `ValueError`."""
    allowed = (ndim,) if isinstance(ndim, int) else ndim
    result = np.array(array, dtype=np.float64)
    if result.ndim not in allowed or result.size == 0:
        wanted = " or ".join(str(k) for k in allowed)
        raise ValueError(
            f"{name} must be a non-empty array with {wanted} axes; got shape {result.shape}. Examples are rows: "
            f"reshape one example to (1, d), images to (n, d)."
        )
    bad = np.argwhere(~np.isfinite(result))
    if len(bad):
        where = tuple(int(i) for i in bad[0])
        raise ValueError(
            f"{name} must be finite; {len(bad)} of its {result.size} entries are NaN or infinite, the first at index "
            f"{where} ({result[where]}). Remove or impute those examples first."
        )
    return result


def same_length(first: np.ndarray, second: np.ndarray, names: tuple[str, str]) -> None:
    """Refuse two arrays whose first axes differ."""
    if first.shape[0] != second.shape[0]:
        raise ValueError(
            f"{names[0]} and {names[1]} must have one row per example; got {first.shape[0]} and {second.shape[0]} "
            f"(shapes {first.shape} and {second.shape}). Check that no example was dropped from one of them."
        )


def labelled(x: ArrayLike, y: ArrayLike) -> tuple[Float[np.ndarray, "n d"], Float[np.ndarray, " n"]]:
    """The examples and their ±1 labels, checked."""
    x, y = as_float64(x, "x", 2), as_float64(y, "y", 1)
    same_length(x, y, ("x", "y"))
    wrong = np.flatnonzero(np.abs(y) != 1.0)
    if len(wrong):
        raise ValueError(
            f"y must hold labels -1 and +1; got {y[wrong[0]]:g} at index {wrong[0]} (values {np.unique(y)[:5]}). "
            f"For labels 0 and 1 pass 2 * y - 1; for more classes use max_margin_multiclass."
        )
    return x, y


def regression(
    x: ArrayLike, y: ArrayLike, ndim: int | tuple[int, ...] = 1
) -> tuple[Float[np.ndarray, "n d"], Float[np.ndarray, "n ..."]]:
    """The examples and their targets, checked."""
    x, y = as_float64(x, "x", 2), as_float64(y, "y", ndim)
    same_length(x, y, ("x", "y"))
    return x, y


def like(array: ArrayLike, shape: tuple[int, ...], name: str) -> np.ndarray:
    """A finite float64 array of exactly this shape, or a `ValueError`."""
    result = as_float64(array, name, len(shape))
    if result.shape != shape:
        raise ValueError(f"{name} must have shape {shape}, that of the weights; got {result.shape}.")
    return result


def norm2(v: np.ndarray) -> float:
    """Euclidean (Frobenius) length of an array of any shape."""
    return float(np.linalg.norm(np.ravel(v)))
