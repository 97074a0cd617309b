"""What a measurement returns: a number, how far it can be off, what it cost, and why it stopped there."""

import dataclasses
import math
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Cost:
    """Work spent: products with a curvature matrix, gradients and forward passes over the whole probe data, seconds.

    Work on a part of the data counts as its share of the examples; one evaluation of all per-example gradients counts
    as one gradient.
    """

    products: float = 0.0
    gradients: float = 0.0
    forwards: float = 0.0
    seconds: float = 0.0

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(*(a + b for a, b in zip(dataclasses.astuple(self), dataclasses.astuple(other), strict=True)))

    def __sub__(self, other: "Cost") -> "Cost":
        return Cost(*(a - b for a, b in zip(dataclasses.astuple(self), dataclasses.astuple(other), strict=True)))

    def __str__(self) -> str:
        counts = ((self.products, "product"), (self.gradients, "gradient"), (self.forwards, "forward pass"))
        ends = {"product": "s", "gradient": "s", "forward pass": "es"}
        told = [f"{count:.4g} {name}{ends[name] * (count != 1)}" for count, name in counts if count]
        return ", ".join([*told, f"{self.seconds:.2g} s"])


@dataclass
class Work:
    """Counters that an objective advances as it works; `spent` reads them off over a stretch of code."""

    total: Cost = field(default_factory=Cost)
    whole: "Work | None" = None
    share: float = 1.0

    def add(self, *, products: float | int = 0, gradients: float | int = 0, forwards: float | int = 0) -> None:
        """Count work, here and, by its share, for the whole data."""
        self.total = self.total + Cost(float(products), float(gradients), float(forwards))
        if self.whole is not None:
            self.whole.add(
                products=products * self.share, gradients=gradients * self.share, forwards=forwards * self.share
            )

    def part(self, share: float) -> "Work":
        """Counters of an objective on this share of the examples."""
        return Work(whole=self, share=share)

    @contextmanager
    def spent(self) -> Iterator[list[Cost]]:
        """A list that holds, after the block, the one cost of what ran in it."""
        told: list[Cost] = []
        before, start = self.total, time.perf_counter()
        yield told
        told.append(self.total - before + Cost(seconds=time.perf_counter() - start))


@dataclass(frozen=True, repr=False)
class Estimate:
    r"""`value` ± `bound`, what it cost and why the measurement stopped.

    `value` is a number, or an array whose entries along its one axis carry `names`. The truth lies within `bound` of
    `value`: always, where `confidence` is `None`; with that probability, where the error is of random probes. A value
    that did not converge is NaN, never a number that looks fine: the best one at hand is `details["unconverged"]`,
    the interval known to hold the truth is in `reason`. `details` holds what else was found (eigenvectors, a density's
    grid, a threshold), `notes` what a reader of the number must know.
    """

    value: Any
    bound: Any
    converged: bool = True
    reason: str = ""
    cost: Cost = Cost()
    names: tuple[str, ...] = ()
    confidence: float | None = None
    details: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        value, bound = np.asarray(self.value, dtype=np.float64), np.asarray(self.bound, dtype=np.float64)
        if value.shape != bound.shape or value.ndim > 1:
            raise ValueError(
                f"An estimate is a number or a vector, with a bound of the same shape; got a value of shape "
                f"{value.shape} and a bound of shape {bound.shape}."
            )
        if value.ndim == 1 and len(self.names) != len(value):
            raise ValueError(f"An estimate of {len(value)} values needs as many names; got {len(self.names)}.")
        if np.any(bound < 0) or np.any(np.isnan(bound)):
            raise ValueError(f"A bound is not negative, and infinite where nothing is known; got {bound}.")
        object.__setattr__(self, "value", float(value) if value.ndim == 0 else value)
        object.__setattr__(self, "bound", float(bound) if bound.ndim == 0 else bound)

    def __float__(self) -> float:
        """The value, NaN if it did not converge; raises `TypeError` for an estimate of several values."""
        if self.names:
            raise TypeError(f"This estimate has {len(self.names)} values; use estimate[name] with one of its names.")
        return float(self.value)

    def __getitem__(self, name: str) -> float:
        """The value of one of several."""
        if name not in self.names:
            raise KeyError(f"There is no {name!r} here; there are {', '.join(self.names) or 'no names'}.")
        return float(self.value[self.names.index(name)])

    def items(self) -> Iterator[tuple[str, float, float]]:
        """Name, value and bound of each value; a single one has the name ''."""
        if self.names:
            yield from zip(self.names, self.value.tolist(), self.bound.tolist(), strict=True)
        else:
            yield "", self.value, self.bound

    def __repr__(self) -> str:
        return f"Estimate({self}; {self.cost}{f'; {self.reason}' if self.converged and self.reason else ''})"

    def __str__(self) -> str:
        if self.names:
            return ", ".join(f"{name} {_told(value, bound)}" for name, value, bound in self.items())
        if not self.converged:
            return f"not converged ({self.reason})"
        rate = "" if self.confidence is None else f" ({self.confidence:.0%} confidence)"
        return _told(self.value, self.bound) + rate


def _told(value: float, bound: float) -> str:
    return "not converged" if math.isnan(value) else f"{value:.6g} ± {bound:.1g}"
