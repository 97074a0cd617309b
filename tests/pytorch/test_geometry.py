"""Thresholds of stability: real optimizers run on quadratics a little below and a little above them."""

import numpy as np
import pytest
import scipy.optimize
import torch
from torch.optim import LBFGS, SGD, Adagrad, Adam, AdamW, RMSprop

from gradbias.errors import NotApplicable
from gradbias.pytorch import measure
from gradbias.pytorch.geometry import geometry_of

SLOW = 1 - 1e-9  # an average that hardly moves keeps the preconditioner as it was set


def quadratic(seed=0, size=6):
    """A positive definite matrix with eigenvalues between 0.5 and 1."""
    rng = np.random.default_rng(seed)
    q = np.linalg.qr(rng.normal(size=(size, size)))[0]
    return q @ np.diag(np.linspace(0.5, 1, size)) @ q.T


def first_parameters():
    return [torch.nn.Parameter(torch.zeros(2, 2, dtype=torch.float64))]


def second_parameters():
    return [torch.nn.Parameter(torch.zeros(2, dtype=torch.float64))]


def parameters_of(optimizer):
    return [p for group in optimizer.param_groups for p in group["params"]]


def set_averages(optimizer, step=None, seed=3):
    """Averages as after some steps; made by a real step, so that the optimizer lays out its state itself."""
    rng = np.random.default_rng(seed)
    parameters = parameters_of(optimizer)
    for p in parameters:
        p.grad = torch.full_like(p, 1e-20)
    optimizer.step()
    for p in parameters:
        state = optimizer.state[p]
        for name in ("exp_avg_sq", "square_avg", "sum", "max_exp_avg_sq"):
            if name in state:
                state[name] = torch.from_numpy(rng.uniform(0.5, 4, p.shape)) * (2 if name.startswith("max") else 1)
        if "grad_avg" in state:
            state["grad_avg"] = torch.from_numpy(rng.uniform(0.1, 0.6, p.shape))
        if step is not None:
            state["step"] = torch.tensor(float(step))


def curvature(geometry, hessian):
    scale = np.ones(len(hessian)) if geometry.scale is None else geometry.scale
    decay = np.broadcast_to(geometry.decay, len(hessian))
    return np.linalg.eigvalsh(scale[:, None] * (hessian + np.diag(decay)) * scale)[-1]


def strength(geometry, share):
    """The factor that puts the curvature of the quadratic at this share of the threshold."""
    return scipy.optimize.brentq(
        lambda c: curvature(geometry, c * quadratic()) - share * geometry.threshold, 0, 1e9, rtol=1e-12
    )


def growth(optimizer, hessian, step=None, steps=1500):
    """By how much the distance from the minimum grows."""
    parameters, matrix = parameters_of(optimizer), torch.from_numpy(hessian)
    rng = np.random.default_rng(5)
    with torch.no_grad():
        for p in parameters:
            p.copy_(1e-9 * torch.from_numpy(rng.normal(size=p.shape)))
    norms = []
    for _ in range(steps):
        if step is not None:
            for p in parameters:
                optimizer.state[p]["step"] = torch.tensor(float(step - 1))
        theta = torch.cat([p.detach().flatten() for p in parameters])
        norms.append(float(theta.norm()))
        if norms[-1] > 1e3 * norms[0]:
            break
        for p, g in zip(parameters, (matrix @ theta).split([p.numel() for p in parameters]), strict=True):
            p.grad = g.view_as(p).clone()
        optimizer.step()
    return norms[-1] / norms[0]


def groups(first, second=None):
    """The settings of two groups of parameters."""
    return [
        {"params": first_parameters(), **first},
        {"params": second_parameters(), **(first if second is None else second)},
    ]


FROZEN = {"betas": (0.9, SLOW)}
CASES = {
    "SGD": lambda: SGD(groups({"lr": 0.3})),
    "SGD with weight decay": lambda: SGD(groups({"lr": 0.3, "weight_decay": 2.0})),
    "heavy ball": lambda: SGD(groups({"lr": 0.3, "momentum": 0.8})),
    "heavy ball with dampening": lambda: SGD(groups({"lr": 0.3, "momentum": 0.8, "dampening": 0.4})),
    "dampening without momentum": lambda: SGD(groups({"lr": 0.3, "dampening": 0.4})),
    "Nesterov": lambda: SGD(groups({"lr": 0.3, "momentum": 0.9, "nesterov": True})),
    "SGD with groups": lambda: SGD(groups({"lr": 0.3}, {"lr": 0.9, "weight_decay": 0.7})),
    "groups of different kinds": lambda: SGD(
        groups({"lr": 0.2, "momentum": 0.9, "nesterov": True}, {"lr": 0.5, "momentum": 0.3, "weight_decay": 1.0})
    ),
    "RMSprop": lambda: RMSprop(groups({"lr": 0.1}), alpha=SLOW, eps=0.3),
    "RMSprop with momentum": lambda: RMSprop(groups({"lr": 0.1, "weight_decay": 1.0}), alpha=SLOW, momentum=0.7),
    "centered RMSprop": lambda: RMSprop(groups({"lr": 0.1}, {"lr": 0.3}), alpha=SLOW, centered=True),
    "Adagrad": lambda: Adagrad(groups({"lr": 0.1}, {"lr": 0.2}), eps=0.2),
    "Adam": lambda: Adam(groups({"lr": 0.1}), **FROZEN),
    "Adam with groups and decay": lambda: Adam(groups({"lr": 0.1, "weight_decay": 3.0}, {"lr": 0.02}), **FROZEN),
    "AMSGrad": lambda: Adam(groups({"lr": 0.1}), amsgrad=True, **FROZEN),
    "AdamW": lambda: AdamW(groups({"lr": 0.1, "weight_decay": 3.0}), **FROZEN),
    "AdamW with groups": lambda: AdamW(
        groups({"lr": 0.1, "weight_decay": 4.0}, {"lr": 0.3, "weight_decay": 0}), **FROZEN
    ),
    "AdamW with betas by group": lambda: AdamW(
        groups({"lr": 0.1, "betas": (0.5, SLOW)}, {"lr": 0.3, "betas": (0.95, SLOW)}), eps=0.1
    ),
}


CORRECTED = [name for name in CASES if name.startswith(("Adam", "AMSGrad"))]  # by the number of the step
STEPS = [*((name, None) for name in CASES if name not in CORRECTED), *((n, t) for n in CORRECTED for t in (3, 10**12))]


@pytest.mark.parametrize(("name", "step"), STEPS)
def test_an_optimizer_converges_below_its_threshold_and_diverges_above(name, step):
    for share, diverges in ((0.99, False), (1.01, True)):
        optimizer = CASES[name]()
        if "SGD" not in type(optimizer).__name__:
            set_averages(optimizer, step)
        geometry = geometry_of(optimizer, parameters_of(optimizer))
        hessian = strength(geometry, share) * quadratic()
        assert (growth(optimizer, hessian, step) > 100) is diverges


def test_the_thresholds_of_the_literature():
    for make, threshold in (
        (lambda: SGD(groups({"lr": 0.5})), 4),
        (lambda: SGD(groups({"lr": 0.5, "momentum": 0.9})), 7.6),
        (lambda: SGD(groups({"lr": 0.5, "momentum": 0.9, "nesterov": True})), 3.8 / (0.5 * 2.8)),
        (lambda: RMSprop(groups({"lr": 0.5})), 4),
        (lambda: Adam(groups({"lr": 0.5})), 38 / 0.5),
        (lambda: AdamW(groups({"lr": 0.5, "weight_decay": 0})), 38 / 0.5),
    ):
        optimizer = make()
        set_averages(optimizer)
        assert geometry_of(optimizer, parameters_of(optimizer)).threshold == pytest.approx(threshold, rel=1e-12)


def test_the_threshold_is_that_of_the_group_with_the_smallest():
    optimizer = SGD(groups({"lr": 0.1}, {"lr": 0.4}))
    geometry = geometry_of(optimizer, parameters_of(optimizer))
    assert geometry.threshold == 2 / 0.4
    np.testing.assert_allclose(geometry.scale, [0.5] * 4 + [1, 1], rtol=1e-15)


def test_one_setting_of_sgd_needs_no_scale():
    optimizer = SGD(groups({"lr": 0.5, "weight_decay": 0.1}))
    geometry = geometry_of(optimizer, parameters_of(optimizer))
    assert geometry.scale is None
    assert geometry.decay == 0.1


def test_what_the_optimizer_does_not_move_has_scale_zero():
    first, second = first_parameters(), second_parameters()
    optimizer = SGD(first, lr=0.1)
    np.testing.assert_array_equal(geometry_of(optimizer, [*first, *second]).scale, [1, 1, 1, 1, 0, 0])
    optimizer = SGD([{"params": first, "lr": 0.1}, {"params": second, "lr": 0.0}])
    np.testing.assert_array_equal(geometry_of(optimizer, [*first, *second]).scale, [1, 1, 1, 1, 0, 0])
    optimizer = Adam([*first, *second])
    first[0].grad = torch.ones_like(first[0])
    optimizer.step()
    assert np.all(geometry_of(optimizer, [*first, *second]).scale[4:] == 0)


@pytest.mark.parametrize("kind", [Adam, AdamW, RMSprop, Adagrad])
def test_an_adaptive_method_has_no_threshold_before_its_first_step(kind):
    parameters = first_parameters()
    with pytest.raises(NotApplicable, match="Take a training step first"):
        geometry_of(kind(parameters, lr=0.1), parameters)


def test_an_unknown_method_is_named_with_the_remedy():
    class Changed(Adam):
        def step(self, closure=None):
            return None

    parameters = first_parameters()
    for optimizer in (LBFGS(parameters), torch.optim.NAdam(parameters), Changed(parameters)):
        with pytest.raises(NotApplicable, match=rf"{type(optimizer).__name__} is not known.*geometry="):
            geometry_of(optimizer, parameters)


def test_a_subclass_that_keeps_the_step_and_a_wrapper_are_seen_through():
    class Named(SGD):
        pass

    class Wrapper(torch.optim.Optimizer):
        def __init__(self, inner):
            self.optimizer = inner

    parameters = first_parameters()
    assert geometry_of(Named(parameters, lr=0.1), parameters).threshold == 20
    assert geometry_of(Wrapper(Named(parameters, lr=0.1)), parameters).threshold == 20


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: SGD(p, lr=0.0), "learning rate of the optimizer is 0"),
        (lambda p: SGD(second_parameters(), lr=0.1), "holds none of the model's"),
        (lambda p: SGD(p, lr=0.1, maximize=True), "maximizes"),
        (lambda p: SGD(p, lr=0.1, momentum=0.9, dampening=1.0), "dampening = 1"),
    ],
)
def test_settings_without_a_threshold_are_refused_with_the_reason(make, message):
    parameters = first_parameters()
    with pytest.raises(NotApplicable, match=message):
        geometry_of(make(parameters), parameters)


def test_a_division_by_zero_is_refused():
    parameters = first_parameters()
    optimizer = RMSprop(parameters, lr=0.1, eps=0.0)
    parameters[0].grad = torch.zeros_like(parameters[0])
    optimizer.step()
    with torch.no_grad():
        parameters[0].zero_()
    with pytest.raises(NotApplicable, match="divides by zero"):
        geometry_of(optimizer, parameters)


def test_the_preconditioned_sharpness_counts_the_weight_decay_of_each_group():
    rng = np.random.default_rng(0)
    x, y = torch.from_numpy(rng.normal(size=(20, 4))), torch.from_numpy(rng.normal(size=(20, 1)))
    model = torch.nn.Linear(4, 1, dtype=torch.float64)
    groups = [{"params": [model.weight], "weight_decay": 0.7}, {"params": [model.bias], "lr": 0.05}]
    optimizer = SGD(groups, lr=0.1)

    def half_square(f, y):
        return 0.5 * ((f - y) ** 2).mean()

    found = measure(model, half_square, (x, y), ["preconditioned_sharpness"], optimizer=optimizer)
    estimate = found["preconditioned_sharpness"]
    inputs = np.column_stack([x.numpy(), np.ones(20)])
    scale = np.sqrt([1, 1, 1, 1, 0.5])
    matrix = inputs.T @ inputs / 20 + np.diag([0.7, 0.7, 0.7, 0.7, 0])
    exact = np.linalg.eigvalsh(scale[:, None] * matrix * scale)[-1]
    assert abs(float(estimate) - exact) <= estimate.bound <= 0.02 * exact
    assert estimate.details["threshold"] == pytest.approx(20)
