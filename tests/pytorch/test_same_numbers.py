"""Every measure gives the same numbers on a JAX model and on a torch model with the same weights and data."""

from collections import OrderedDict

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

import gradbias as gb
from gradbias.measures.catalogue import catalogue, take_all
from gradbias.measures.jax_objective import JaxObjective
from gradbias.measures.objective import OptimizerGeometry
from gradbias.pytorch.torch_objective import TorchObjective

TOLERANCE = {"float64": 1e-10, "float32": 1e-5}
N, D, HIDDEN, CLASSES = 24, 4, 8, 3
# Differences of larger numbers: what rounding does to them is relative to those.
OF_WHAT = {
    "adaptive_sharpness": lambda objective: objective.risk(),
    "example_margins": lambda objective: np.abs(objective.outputs()).max(),
}


class Case:
    """A network in torch, the same in JAX, and what a loss needs."""

    def __init__(self, activation, jax_activation, loss, jax_loss, targets, *, bias):
        outputs = 1 if targets == "real" else CLASSES
        shapes = [(D, HIDDEN), (HIDDEN, HIDDEN), (HIDDEN, outputs)]
        self.bias, self.jax_activation = bias, jax_activation
        self.loss, self.jax_loss, self.kind = loss, jax_loss, targets
        torch.manual_seed(0)
        first, second, head = (torch.nn.Linear(a, b, bias=bias) for a, b in shapes)
        self.model = torch.nn.Sequential(first, activation(), second, activation(), head)
        rng = np.random.default_rng(0)
        self.x = rng.normal(size=(N, D))
        self.y = rng.normal(size=(N, 1)) if targets == "real" else rng.integers(0, CLASSES, N)

    def inputs_of_layers(self, theta, x):
        inputs, h = OrderedDict(), x
        for number in ("0", "2", "4"):
            inputs[f"{number}.weight"] = h
            h = theta[f"{number}.weight"] @ h
            if self.bias:
                h = h + theta[f"{number}.bias"]
            h = h if number == "4" else self.jax_activation(h)
        return inputs, h

    def features(self, theta, x):
        return self.inputs_of_layers(theta, x)[0]

    def predict(self, theta, x):
        return self.inputs_of_layers(theta, x)[1]

    def in_torch(self, dtype, weights=None):
        kind = getattr(torch, dtype)
        model = self.model.to(kind)
        y = torch.tensor(self.y, dtype=kind if self.kind == "real" else torch.int64)
        objective = TorchObjective(model, self.loss, (torch.tensor(self.x, dtype=kind), y))
        return objective if weights is None else objective.at(objective.asvector(weights))

    def in_jax(self, dtype, weights=None):
        theta = OrderedDict((n, jnp.asarray(p.detach().numpy(), dtype=dtype)) for n, p in self.model.named_parameters())
        x = np.asarray(self.x, dtype=dtype)
        y = np.asarray(self.y, dtype=dtype) if self.kind == "real" else self.y
        objective = JaxObjective(gb.Problem(self.predict, self.jax_loss, x, y, theta), theta, features=self.features)
        return objective if weights is None else objective.at(objective.asvector(weights))


def half_square(f, y):
    return 0.5 * ((f - y) ** 2).sum(dim=1).mean()


CASES = {
    "tanh network with biases, cross-entropy": Case(
        torch.nn.Tanh, jnp.tanh, torch.nn.functional.cross_entropy, gb.losses.cross_entropy, "classes", bias=True
    ),
    "ReLU network without biases, cross-entropy": Case(
        torch.nn.ReLU, jax.nn.relu, torch.nn.functional.cross_entropy, gb.losses.cross_entropy, "classes", bias=False
    ),
    "tanh network, square loss": Case(torch.nn.Tanh, jnp.tanh, half_square, gb.losses.square, "real", bias=True),
}


def ready(objective, moved):
    """With what the measures may ask for: an optimizer's geometry, a batch size, the weights at initialization."""
    scale = 0.5 + np.random.default_rng(1).random(objective.size)

    def geometry():
        return OptimizerGeometry("a test", 2.0, scale=objective.asvector(scale), decay=0.1)

    return objective.with_settings(geometry=geometry, batch_size=8, initial=moved)


# In float32 one case is enough: what differs there is rounding, not what is computed.
@pytest.mark.parametrize(("case", "dtype"), [*((case, "float64") for case in CASES), (next(iter(CASES)), "float32")])
@pytest.mark.parametrize("name", catalogue())
def test_a_measure_is_the_same_number_in_both(name, case, dtype):
    case, taken = CASES[case], []
    for build in (case.in_torch, case.in_jax):
        initial = build(dtype)
        start = initial.asnumpy(initial.parameters())
        weights = start + 0.1 * np.random.default_rng(2).normal(size=initial.size)
        objective = ready(build(dtype, weights), initial)
        try:
            taken.append(take_all([name], objective, seed=3)[name])
        except gb.errors.NotApplicable as error:
            taken.append(str(error))
    here, there = taken
    assert isinstance(here, str) == isinstance(there, str)
    if isinstance(here, str):
        return
    assert here.converged == there.converged
    value, other = np.atleast_1d(here.value), np.atleast_1d(there.value)
    np.testing.assert_array_equal(np.isnan(value), np.isnan(other))
    known = ~np.isnan(other)
    scale = np.maximum(np.abs(other), 1e-3 * np.max(np.abs(other[known]), initial=0.0))[known]
    scale = np.maximum(scale, OF_WHAT[name](objective)) if name in OF_WHAT else scale
    np.testing.assert_array_less(np.abs(value - other)[known], TOLERANCE[dtype] * scale + 1e-300)
