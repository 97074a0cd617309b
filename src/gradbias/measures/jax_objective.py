"""The risk of a `Problem` as an objective for measures."""

from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, PyTree

from ..errors import NotApplicable, ProbeError
from ..problem import Problem
from .estimate import Work
from .objective import AbstractObjective, Layer, Settings, SymmetricOperator, class_numbers

CHUNK_BYTES = 1 << 28  # of per-example derivatives held at once


@eqx.filter_jit
def _risk(problem: Problem, theta: PyTree) -> Array:
    return problem.risk(theta)


@eqx.filter_jit
def _gradient(problem: Problem, theta: PyTree) -> Array:
    return ravel_pytree(jax.grad(problem.risk)(theta))[0]


@eqx.filter_jit
def _hessian_product(problem: Problem, theta: PyTree, v: Array) -> Array:
    tangent = ravel_pytree(theta)[1](v)
    return ravel_pytree(jax.jvp(jax.grad(problem.risk), (theta,), (tangent,))[1])[0]


@eqx.filter_jit
def _gauss_newton_product(problem: Problem, theta: PyTree, v: Array) -> Array:
    tangent = ravel_pytree(theta)[1](v)
    f, df = jax.jvp(problem.outputs, (theta,), (tangent,))

    def risk(f: Array) -> Array:
        return jnp.mean(jax.vmap(problem.loss)(f, problem.y))

    hdf = jax.jvp(jax.grad(risk), (f,), (df,))[1]
    return ravel_pytree(jax.vjp(problem.outputs, theta)[1](hdf)[0])[0]


@eqx.filter_jit
def _outputs(problem: Problem, theta: PyTree) -> Array:
    return problem.outputs(theta)


@eqx.filter_jit
def _each_gradient(problem: Problem, theta: PyTree) -> Array:
    one = jax.grad(lambda t, x, y: problem.loss(problem.predict(t, x), y))
    return jax.vmap(lambda x, y: ravel_pytree(one(theta, x, y))[0])(problem.x, problem.y)


@eqx.filter_jit
def _each_margin_gradient(problem: Problem, theta: PyTree, labels: Array) -> Array:
    one = jax.grad(lambda t, x, c: _margin(problem.predict(t, x), c))
    return jax.vmap(lambda x, c: ravel_pytree(one(theta, x, c))[0])(problem.x, labels)


def _margin(f: Float[Array, " k"], label: Array) -> Array:
    if f.shape[0] == 1:
        return jnp.where(label == 1, f[0], -f[0])
    return f[label] - jnp.max(jnp.where(jnp.arange(f.shape[0]) == label, -jnp.inf, f))


@eqx.filter_jit
def _input_jacobian_squares(problem: Problem, theta: PyTree, signs: Array | None) -> Array:
    def exact(x: Array) -> Array:
        return jnp.sum(jax.jacrev(lambda x: problem.predict(theta, x))(x) ** 2)[None]

    def sampled(x: Array, u: Array) -> Array:
        pull = jax.vjp(lambda x: problem.predict(theta, x), x)[1]
        return jax.vmap(lambda row: jnp.sum(pull(row)[0] ** 2))(u)

    inputs = jnp.asarray(problem.x)
    return jax.vmap(exact)(inputs) if signs is None else jax.vmap(sampled)(inputs, signs)


@eqx.filter_jit
def _input_gradient_norms(problem: Problem, theta: PyTree) -> Array:
    one = jax.grad(lambda x, y: problem.loss(problem.predict(theta, x), y))
    return jax.vmap(lambda x, y: jnp.sqrt(jnp.sum(one(x, y) ** 2)))(jnp.asarray(problem.x), problem.y)


@eqx.filter_jit
def _jacobian_product(problem: Problem, theta: PyTree, v: Array) -> Array:
    return jax.jvp(problem.outputs, (theta,), (ravel_pytree(theta)[1](v),))[1]


@eqx.filter_jit
def _jacobian(problem: Problem, theta: PyTree) -> PyTree:
    return jax.vmap(lambda x: jax.jacrev(lambda t: problem.predict(t, x))(theta))(jnp.asarray(problem.x))


@eqx.filter_jit
def _factors(rows: Float[Array, "n k m d"]) -> tuple[Array, Array, Array]:
    """Each matrix as a product of two vectors, and whether all are, but for rounding: so they are in a dense layer."""
    n, k, _, d = rows.shape
    largest = jnp.argmax(jnp.abs(rows.reshape(n, k, -1)), axis=-1)
    left = jnp.take_along_axis(rows, (largest % d)[..., None, None], axis=3)[..., 0]
    right = jnp.take_along_axis(rows, (largest // d)[..., None, None], axis=2)[..., 0, :]
    pivot = jnp.take_along_axis(right, (largest % d)[..., None], axis=2)
    right = right / jnp.where(pivot == 0, jnp.ones_like(pivot), pivot)
    # The entries, rounded products themselves, take part in three more roundings; 16 units leave room for the rest.
    room = 16 * jnp.finfo(rows.dtype).eps * jnp.abs(rows) + jnp.finfo(rows.dtype).tiny
    return left, right, jnp.all(jnp.abs(left[..., None] * right[..., None, :] - rows) <= room)


@eqx.filter_jit
def _features(features: Callable[..., Mapping[str, Array]], x: Array, theta: PyTree) -> Mapping[str, Array]:
    return jax.vmap(lambda one: features(theta, one))(x)


def _compact(rows: Array) -> tuple[np.ndarray, ...]:
    """Rows of a Jacobian, (n, k, ...), as their two factors where they have them: their products are quicker then."""
    if rows.ndim == 4 and min(rows.shape[2:]) > 1:
        left, right, exact = _factors(rows)
        if exact:
            return np.asarray(left), np.asarray(right)
    return (np.asarray(rows),)


def _product(factors: tuple[np.ndarray, ...]) -> tuple[np.ndarray, ...]:
    return factors if len(factors) == 1 else (factors[0][..., None] * factors[1][..., None, :],)


class JaxObjective(AbstractObjective):
    """A `Problem` at the weights `theta`, a pytree of floating arrays.

    `features(theta, x_i)`, where given, returns the inputs of the layers by their names; `layers` maps those names to
    the path of the weight in the pytree. Without them, the layers are the leaves of two and more axes, in the order of
    the pytree, and measures of features do not apply.
    """

    def __init__(
        self,
        problem: Problem,
        theta: PyTree,
        *,
        features: Callable[..., Mapping[str, Array]] | None = None,
        settings: Settings | None = None,
        work: Work | None = None,
    ) -> None:
        self.problem, self.theta, self._features = problem, theta, features
        self._flat, self._unravel = ravel_pytree(theta)
        if not self._flat.size or not jnp.issubdtype(self._flat.dtype, jnp.inexact):
            raise ProbeError("There are no trainable parameters: theta must be a pytree with floating arrays.")
        self.size, self.examples = self._flat.size, len(problem.x)
        leaves = jax.tree_util.tree_leaves_with_path(theta)
        ends = np.cumsum([0, *(leaf.size for _, leaf in leaves)]).tolist()
        names = [jax.tree_util.keystr(path, simple=True, separator=".") or "theta" for path, _ in leaves]
        self.blocks = {name: slice(a, b) for name, a, b in zip(names, ends[:-1], ends[1:], strict=True)}
        self.epsilon = max(float(jnp.finfo(leaf.dtype).eps) for _, leaf in leaves)
        self.settings, self.work = settings or Settings(), work or Work()

    def at(self, theta: np.ndarray) -> "JaxObjective":
        moved = self._unravel(jnp.asarray(theta, dtype=self._flat.dtype))
        return JaxObjective(self.problem, moved, features=self._features, settings=self.settings, work=self.work)

    def subset(self, index: np.ndarray) -> "JaxObjective":
        work = self.work.part(len(index) / self.examples)
        problem = self.problem.batch(jnp.asarray(index))
        return JaxObjective(problem, self.theta, features=self._features, settings=self.settings, work=work)

    def with_inputs(self, x: np.ndarray | Callable[[np.ndarray], np.ndarray]) -> "JaxObjective":
        self._require_real_inputs()
        given = np.asarray(x(np.asarray(self.problem.x)) if callable(x) else x)
        if not len(given) or given.shape[1:] != self.problem.x.shape[1:]:
            raise ProbeError(f"Inputs of shape (m, *{self.problem.x.shape[1:]}) are needed; got {given.shape}.")
        repeated = jnp.asarray(self.problem.y)[np.arange(len(given)) % self.examples]
        moved = jnp.asarray(given, dtype=self.problem.x.dtype)
        problem = Problem(self.problem.predict, self.problem.loss, moved, repeated, self.problem.theta0)
        work = self.work.part(len(given) / self.examples)
        return JaxObjective(problem, self.theta, features=self._features, settings=self.settings, work=work)

    def parameters(self) -> np.ndarray:
        return np.array(self._flat)

    def asvector(self, host: np.ndarray) -> np.ndarray:
        return np.asarray(host, dtype=self._flat.dtype)

    def asnumpy(self, vector: Any) -> np.ndarray:
        return np.asarray(vector, dtype=np.float64)

    def risk(self) -> float:
        self.work.add(forwards=1)
        return float(_risk(self.problem, self.theta))

    def gradient(self) -> np.ndarray:
        self.work.add(gradients=1)
        return np.asarray(_gradient(self.problem, self.theta))

    def hessian(self) -> SymmetricOperator:
        return self._operator(_hessian_product)

    def gauss_newton(self) -> SymmetricOperator:
        return self._operator(_gauss_newton_product)

    def _operator(self, product: Callable[..., Array]) -> SymmetricOperator:
        def apply(v: np.ndarray) -> np.ndarray:
            self.work.add(products=1)
            return np.asarray(product(self.problem, self.theta, self.asvector(v)))

        return SymmetricOperator(apply, self.size, self.epsilon, self.asvector, self._rows)

    def _rows(self, count: int) -> np.ndarray:
        return np.zeros((count, self.size), dtype=self._flat.dtype)

    def outputs(self) -> np.ndarray:
        return self._outputs

    @cached_property
    def _outputs(self) -> np.ndarray:
        self.work.add(forwards=1)
        return np.asarray(_outputs(self.problem, self.theta), dtype=np.float64)

    def targets(self) -> np.ndarray:
        return np.asarray(self.problem.y)

    def labels(self) -> np.ndarray:
        return class_numbers(self.targets(), self.outputs().shape[1])

    def per_example_gradients(self, of: Literal["loss", "margin"] = "loss") -> Iterator[np.ndarray]:
        self.work.add(gradients=1)
        labels = self.labels() if of == "margin" else None
        size = max(1, CHUNK_BYTES // (self.size * self._flat.dtype.itemsize))
        for start in range(0, self.examples, size):
            index = np.arange(start, min(start + size, self.examples))
            part = self.problem.batch(jnp.asarray(index))
            if labels is None:
                yield np.asarray(_each_gradient(part, self.theta))
            else:
                yield np.asarray(_each_margin_gradient(part, self.theta, jnp.asarray(labels[index])))

    def _require_real_inputs(self) -> None:
        if not jnp.issubdtype(self.problem.x.dtype, jnp.inexact):
            raise NotApplicable(
                f"A derivative with respect to the inputs needs real inputs; they are {self.problem.x.dtype}. Give the "
                "embedded inputs instead."
            )

    def input_jacobian_squares(self, directions: int | None, rng: np.random.Generator) -> np.ndarray:
        self._require_real_inputs()
        signs = None
        if directions is not None:
            outputs = jax.eval_shape(self.problem.predict, self.theta, self.problem.x[0])
            drawn = rng.choice([-1.0, 1.0], size=(self.examples, directions, outputs.shape[0]))
            signs = jnp.asarray(drawn, dtype=outputs.dtype)
        self.work.add(gradients=1 if directions is None else directions)
        return np.asarray(_input_jacobian_squares(self.problem, self.theta, signs), dtype=np.float64)

    def input_gradient_norms(self) -> np.ndarray:
        self._require_real_inputs()
        self.work.add(gradients=1)
        return np.asarray(_input_gradient_norms(self.problem, self.theta), dtype=np.float64)

    def layers(self) -> list[Layer]:
        leaves = dict(zip(self.blocks, jax.tree.leaves(self.theta), strict=True))
        weights = {name: np.asarray(leaf, dtype=np.float64) for name, leaf in leaves.items() if leaf.ndim >= 2}
        return [Layer(name, "dense" if w.ndim == 2 else "convolution", w) for name, w in weights.items()]

    def features(self) -> dict[str, np.ndarray]:
        if self._features is None:
            raise NotApplicable(
                "The features inside a JAX model are not visible from outside: pass features=, a function (theta, x_i) "
                "that returns the input of each layer by the name of its weight."
            )
        self.work.add(forwards=1)
        told = _features(self._features, jnp.asarray(self.problem.x), self.theta)
        return {name: np.asarray(a, dtype=np.float64).reshape(self.examples, -1) for name, a in told.items()}

    def jacobian_product(self, v: np.ndarray) -> np.ndarray:
        self.work.add(gradients=1)
        return np.asarray(_jacobian_product(self.problem, self.theta, jnp.asarray(self.asvector(v))), dtype=np.float64)

    def ntk(self) -> np.ndarray:
        told: list[list[tuple[np.ndarray, ...]]] = [[] for _ in jax.tree.leaves(self.theta)]
        for part in self._parts():
            for leaf, rows in zip(told, jax.tree.leaves(_jacobian(part, self.theta)), strict=True):
                leaf.append(_compact(rows))
        n, k = self.examples, told[0][0][0].shape[1]
        self.work.add(gradients=k)
        kernel = np.zeros((n * k, n * k))
        for leaf in told:
            if len({len(factors) for factors in leaf}) > 1:
                leaf = [_product(factors) for factors in leaf]
            gram = 1.0
            for factor in (np.concatenate(parts).reshape(n * k, -1) for parts in zip(*leaf, strict=True)):
                gram = gram * (factor @ factor.T)
            kernel += gram
        return kernel.reshape(n, k, n, k)

    def _parts(self) -> Iterator[Problem]:
        outputs = jax.eval_shape(self.problem.predict, self.theta, self.problem.x[0]).shape[0]
        size = max(1, CHUNK_BYTES // (outputs * self.size * self._flat.dtype.itemsize))
        for start in range(0, self.examples, size):
            yield self.problem.batch(jnp.arange(start, min(start + size, self.examples)))
