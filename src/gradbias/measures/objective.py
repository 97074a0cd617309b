r"""What a measure may ask of a model: the empirical risk over the probe data at the present weights, and its parts.

Two classes answer: `JaxObjective` for a `Problem`, `gradbias.pytorch.TorchObjective` for a `torch.nn.Module`. A measure
is written once, on this interface; a test holds both to the same numbers on the same weights.

A *vector* is flat, of `size` entries, in whatever the model computes with (a NumPy array, a torch tensor where it is).
Measures use on vectors only what both understand: arithmetic, `@`, slices and assignment into slices, `float(...)` of a
single number. Everything else (outputs, features, weight matrices, kernels) comes as float64 NumPy arrays.
"""

import abc
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

import numpy as np

from ..errors import NotApplicable
from .estimate import Work

Vector = Any
Rows = Any  # vectors stacked along a first axis
Objective = TypeVar("Objective", bound="AbstractObjective")  # `Self` is not understood by the checks at run time


@dataclass(frozen=True)
class SymmetricOperator:
    """A symmetric matrix known by its products; `epsilon` is the rounding unit of the arithmetic they are made in."""

    apply: Callable[[Vector], Vector]
    size: int
    epsilon: float
    asvector: Callable[[np.ndarray], Vector] = np.asarray
    allocate: Callable[[int], Rows] | None = None

    def __call__(self, v: Vector) -> Vector:
        """One product."""
        return self.apply(v)

    def rows(self, count: int) -> Rows:
        """Room for `count` vectors, zeros."""
        return np.zeros((count, self.size)) if self.allocate is None else self.allocate(count)


@dataclass(frozen=True)
class Layer:
    r"""A layer that multiplies by a weight: dense (`weight` of shape (out, in)) or convolutional.

    `weight` of a convolution has shape (out, in / groups, *kernel). `bias` is `None` where there is none. `shared` is
    true where the same weight is used by another layer too (tied weights).
    """

    name: str
    kind: Literal["dense", "convolution", "embedding"]
    weight: np.ndarray
    bias: np.ndarray | None = None
    shared: bool = False

    @property
    def matrix(self) -> np.ndarray:
        """The weight as a matrix, one row per output."""
        return self.weight.reshape(len(self.weight), -1)


@dataclass(frozen=True)
class OptimizerGeometry:
    r"""What the user's optimizer makes of curvature: $P^{-1/2} H P^{-1/2}$ against `threshold`.

    `scale` is $P^{-1/2}$ as a vector (`None` for the identity); the step is stable on a quadratic while the largest
    eigenvalue is below `threshold`. `decay`, a number or a vector, is added to the Hessian's diagonal (coupled weight
    decay). `norm` names the norm in which the method is steepest descent. `source` cites the threshold.
    """

    name: str
    threshold: float
    scale: Vector | None = None
    decay: float | Vector = 0.0
    norm: Literal["l2", "linf"] = "l2"
    source: str = ""


@dataclass
class Settings:
    """What goes with an objective besides the model: reference weights, optimizer, batch size, notes for the reader."""

    initial: "AbstractObjective | None" = None
    geometry: Callable[[], OptimizerGeometry] | None = None
    batch_size: int | None = None
    notes: list[str] = field(default_factory=list)


class AbstractObjective(abc.ABC):
    r"""$L(\theta) = \frac1n \sum_i \ell(f(\theta, x_i), y_i)$ over the probe data, at the present weights."""

    size: int
    """Number of trainable parameters."""
    examples: int
    """Number n of examples."""
    epsilon: float
    """Rounding unit of the coarsest parameter dtype."""
    blocks: Mapping[str, slice]
    """Where each parameter tensor sits in a vector, by name; insertion order is that of the vector."""
    work: Work
    settings: Settings

    @abc.abstractmethod
    def at(self, theta: Vector) -> "AbstractObjective":
        """The same data and model at other weights; the user's model is untouched."""

    @abc.abstractmethod
    def subset(self, index: np.ndarray) -> "AbstractObjective":
        """The risk over the examples `index` alone, at the same weights."""

    @abc.abstractmethod
    def with_inputs(self, x: np.ndarray | Callable[[np.ndarray], np.ndarray]) -> "AbstractObjective":
        r"""The same weights at other inputs: `x` of shape (m, ...), or a function from the present inputs to them.

        The targets are the present ones, repeated in turn: only what does not depend on them has a meaning. Work counts
        by m / n. Raises `NotApplicable` where the inputs are not one array of real numbers (tokens, several arrays).
        """

    @abc.abstractmethod
    def parameters(self) -> Vector:
        """The present weights, copied."""

    @abc.abstractmethod
    def asvector(self, host: np.ndarray) -> Vector:
        """A NumPy array as a vector."""

    @abc.abstractmethod
    def asnumpy(self, vector: Vector) -> np.ndarray:
        """A vector, or stacked vectors, as float64."""

    @abc.abstractmethod
    def risk(self) -> float:
        r"""$L(\theta)$. Counts one forward pass."""

    @abc.abstractmethod
    def gradient(self) -> Vector:
        r"""$\nabla L(\theta)$. Counts one gradient."""

    @abc.abstractmethod
    def hessian(self) -> SymmetricOperator:
        r"""$\nabla^2 L(\theta)$ by products. Counts one product each; what is built once counts as one gradient."""

    @abc.abstractmethod
    def gauss_newton(self) -> SymmetricOperator:
        r"""$\frac1n \sum_i J_i^\top \nabla_f^2 \ell\, J_i$ by products, $J_i = \partial f_i / \partial \theta$."""

    @abc.abstractmethod
    def outputs(self) -> np.ndarray:
        r"""$f(\theta, x_i)$, shape (n, k): further axes of a model's outputs are flattened. Counts one forward pass."""

    @abc.abstractmethod
    def targets(self) -> np.ndarray:
        """$y_i$ as given, shape (n, ...)."""

    @abc.abstractmethod
    def labels(self) -> np.ndarray:
        """Class numbers 0 … k-1 (0 and 1 with one output), shape (n,). Raises `NotApplicable` for a regression."""

    @abc.abstractmethod
    def per_example_gradients(self, of: Literal["loss", "margin"] = "loss") -> Iterator[Rows]:
        r"""Rows $\nabla \ell_i$, or $\nabla q_i$ of the margin $q_i$, in chunks, in the order of the examples.

        $q_i = f_{y_i} - \max_{j \ne y_i} f_j$; with one output, $\pm f$. Counts one gradient in all.
        """

    @abc.abstractmethod
    def input_jacobian_squares(self, directions: int | None, rng: np.random.Generator) -> np.ndarray:
        r"""$\|\partial f_i / \partial x_i\|_F^2$, shape (n, 1); or unbiased samples of it, shape (n, directions).

        A sample is $\|u^\top \partial f / \partial x\|^2$ for a random sign vector u. Raises `NotApplicable` where the
        inputs are not real numbers (tokens).
        """

    @abc.abstractmethod
    def input_gradient_norms(self) -> np.ndarray:
        r"""$\|\partial \ell_i / \partial x_i\|_2$, shape (n,). Raises `NotApplicable` as above."""

    @abc.abstractmethod
    def layers(self) -> list[Layer]:
        """Layers with a weight, in the order in which the forward pass reaches them."""

    @abc.abstractmethod
    def features(self) -> dict[str, np.ndarray]:
        """What each layer of `layers()` is given as input, flattened to (n, d), by the layer's name, in that order."""

    @abc.abstractmethod
    def ntk(self) -> np.ndarray:
        r"""$K_{ia,jb} = \nabla f_a(x_i) \cdot \nabla f_b(x_j)$, shape (n, k, n, k)."""

    @abc.abstractmethod
    def jacobian_product(self, v: Vector) -> np.ndarray:
        r"""$J v$, how fast each output changes along v, shape (n, k). Counts up to two gradients."""

    def inputs(self) -> np.ndarray:
        """$x_i$ as float64, shape (n, ...). Raises `NotApplicable` as `with_inputs`."""
        seen = []

        def keep(x: np.ndarray) -> np.ndarray:
            seen.append(np.array(x, dtype=np.float64))
            return x

        self.with_inputs(keep)
        return seen[0]

    def with_settings(self: Objective, **changes: Any) -> Objective:
        """Change `settings` in place, and return the objective."""
        for name, value in changes.items():
            setattr(self.settings, name, value)
        return self


def class_numbers(targets: np.ndarray, outputs: int) -> np.ndarray:
    """Targets as class numbers from 0; with one output, labels 0/1 or -1/+1 become 0 and 1.

    Raises `NotApplicable` unless there is one target per example that can be a class number.
    """
    whole = targets.ndim == 1 and np.all(targets == np.round(targets))
    if outputs == 1 and whole and set(np.unique(targets)) <= {-1, 0, 1} and len(np.unique(targets)) <= 2:
        return (targets > 0).astype(int)
    integers = whole and np.issubdtype(targets.dtype, np.integer)
    if outputs > 1 and integers and targets.min() >= 0 and targets.max() < outputs:
        return targets.astype(int)
    raise NotApplicable(
        f"This measure is of a classifier: one class number per example, below the number of outputs ({outputs}), or "
        f"labels 0/1 or -1/+1 with one output. The targets are {targets.dtype} of shape {targets.shape}."
    )
