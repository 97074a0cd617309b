"""Measures of a `torch.nn.Module`: once, or in the user's own training loop within a budget of its time."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from ..errors import NotApplicable, ProbeError
from ..measures.catalogue import Asked, asked_for, take_all
from ..measures.estimate import Estimate
from ..measures.objective import OptimizerGeometry, Settings
from ..measures.recorder import Recorded, Recorder, Row, timed
from .geometry import optimizer_geometry
from .torch_objective import TorchObjective

if TYPE_CHECKING:
    pass

Loss = Callable[..., Any] | None
State = Mapping[str, Tensor] | nn.Module


def measure(
    model: nn.Module,
    loss_fn: Loss,
    data: Any,
    measures: Asked,
    *,
    seed: int = 0,
    optimizer: torch.optim.Optimizer | None = None,
    geometry: Callable[[], OptimizerGeometry] | None = None,
    initial: State | None = None,
    batch_size: int | None = None,
    **options: Any,
) -> dict[str, Estimate]:
    """Measure a model: each number with its bound, its cost and why it stopped there. The model stays as it is.

    `data`, and the further `options` (`mode`, `outputs`, `reduction`, `max_memory`, `dtype`, `check`), are those of
    `TorchObjective`. `optimizer` gives the threshold that curvature is held against, `initial` (a state dict or a
    model) the weights that drift is measured from, `batch_size` that of the training.

    Raises `UsageError` for an unknown measure or option, `NotApplicable` for a measure without a meaning here,
    `ProbeError` for a model, a loss or data that cannot be measured.
    """
    asked_for(measures)
    objective = TorchObjective(model, loss_fn, data, settings=Settings(batch_size=batch_size), **options)
    settings = objective.settings
    settings.geometry = _geometry(optimizer, geometry, objective)
    settings.initial = None if initial is None else at_state(objective, initial)
    return take_all(measures, objective.at(objective.parameters()), seed=seed)


def at_state(objective: TorchObjective, state: State) -> TorchObjective:
    """The same risk at the weights and buffers of a state dict, or of another model of the same architecture.

    Raises `ProbeError` naming what is missing, unexpected or of another shape.
    """
    held = dict(getattr(state, "_orig_mod", state).state_dict() if isinstance(state, nn.Module) else state)
    own = objective.model.state_dict(keep_vars=True)
    by_tensor = {id(own[name]): held[name] for name in held if name in own}
    held |= {name: by_tensor[id(t)] for name, t in own.items() if name not in held and id(t) in by_tensor}  # tied
    missing, unexpected = ([name for name in a if name not in b] for a, b in ((own, held), (held, own)))
    shapes = [name for name in own if name in held and own[name].shape != held[name].shape]
    told = {"missing": missing, "unexpected": unexpected, "of another shape": shapes}
    if any(told.values()):
        wrong = "; ".join(f"{what}: {', '.join(names)}" for what, names in told.items() if names)
        raise ProbeError(f"The initial weights are not those of this model: {wrong}.")
    computation = objective.computation
    copies = {name: held[name].detach().to(computation.device, copy=True) for name in own}
    leaves = [copies[name] for name in computation.names]
    fixed = dataclasses.replace(computation, fixed=copies)
    return objective._view(computation=fixed, theta=computation.flat(leaves, leaves), settings=Settings())


def _geometry(
    optimizer: torch.optim.Optimizer | None,
    geometry: Callable[[], OptimizerGeometry] | None,
    objective: TorchObjective,
) -> Callable[[], OptimizerGeometry] | None:
    if geometry is not None or optimizer is None:
        return geometry

    def read() -> OptimizerGeometry:
        return optimizer_geometry(optimizer, objective)

    return read


class Monitor(Recorded):
    """Measures in a training loop: `monitor.step()` after each step reads what its share of the budget pays for.

    `row = monitor.step()` is a flat dict of floats where something was read, else `None`. At most `budget` of the step
    time is spent; `every` restricts readings to every so many steps, and alone (`budget=None`) reads everything then.
    What takes a second at most is also read at construction, as step 0. A measure that fails is reported once, by a
    warning, and the training goes on.

    `optimizer`, `batch_size` and the further `options` are as in `measure`; `initial` are the weights that drift is
    measured from, by default those at construction. `max_memory` is by default what a training step on a batch (on the
    probe data, if `batch_size` is not given) holds, and 32 MiB at least. Nothing of the model, its gradients, the
    optimizer or the random numbers is changed.

    Raises `UsageError` for an unknown measure or option and `ProbeError` for a model, a loss or probe data that cannot
    be measured: at construction, never in the loop.
    """

    def __init__(
        self,
        model: nn.Module,
        loss_fn: Loss,
        probe_data: Any,
        measures: Asked,
        *,
        optimizer: torch.optim.Optimizer | None = None,
        geometry: Callable[[], OptimizerGeometry] | None = None,
        budget: float | None = 0.05,
        every: int | None = None,
        seed: int = 0,
        initial: State | None = None,
        batch_size: int | None = None,
        mode: Literal["eval", "train"] = "eval",
        **options: Any,
    ) -> None:
        asked = asked_for(measures)
        settings = Settings(batch_size=batch_size)
        whole = TorchObjective(model, loss_fn, probe_data, mode=mode, settings=settings, **options)
        self._objective = whole.limited(options.get("max_memory"), batch_size or whole.examples)
        settings.geometry = _patient(_geometry(optimizer, geometry, self._objective))
        if initial is not None or any("initial" in one.needs for one, _ in asked):
            settings.initial = at_state(self._objective, model if initial is None else initial)
        # Accelerate and Lightning wrap the optimizer.
        name = "none given" if optimizer is None else type(getattr(optimizer, "optimizer", optimizer)).__name__
        build_seconds, gradient_seconds = timed(self._now)
        self._recorder = Recorder(
            asked,
            budget=budget,
            every=every,
            seed=seed,
            facts={
                "model": f"{type(model).__name__}, {self._objective.size} trainable parameters, in {mode} mode",
                "probe data": f"{self._objective.examples} examples",
                "optimizer": name,
            },
            settings={"batch_size": batch_size},
            build_seconds=build_seconds,
            gradient_seconds=gradient_seconds,
        )
        self._recorder.start(self._now())

    def _now(self) -> TorchObjective:
        """The objective at the present weights, copied: what a reading computes twice it keeps, until it ends."""
        return self._objective.at(self._objective.parameters())

    def step(self) -> Row | None:
        """A step of the training is done: read what is due."""
        return self._recorder.step(self._now, settle=self._settle)

    def _settle(self) -> None:
        device = self._objective.computation.device
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        elif device.type == "mps":
            torch.mps.synchronize()


def _patient(geometry: Callable[[], OptimizerGeometry] | None) -> Callable[[], OptimizerGeometry] | None:
    """An optimizer without a threshold now (a learning rate of 0, no averages yet) may have one at a later reading."""
    if geometry is None:
        return None

    def read() -> OptimizerGeometry:
        try:
            return geometry()
        except NotApplicable as error:
            raise ProbeError(str(error)) from error

    return read
