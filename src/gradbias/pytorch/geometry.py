r"""The threshold of stability of a torch optimizer, and the scale in which the Hessian is held against it."""

import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from torch import Tensor
from torch.optim import SGD, Adagrad, Adam, AdamW, Optimizer, RMSprop

from ..errors import NotApplicable
from ..measures.objective import OptimizerGeometry
from .torch_objective import TorchObjective


def optimizer_geometry(optimizer: Optimizer, objective: TorchObjective) -> OptimizerGeometry:
    """`geometry_of` for the trainable parameters of an objective, in its vectors."""
    computation = objective.computation
    held = dict(computation.model.named_parameters())
    return geometry_of(optimizer, [held[name] for name in computation.names], objective.asvector)


def geometry_of(
    optimizer: Optimizer, parameters: list[Tensor], asvector: Callable[[np.ndarray], Any] = np.asarray
) -> OptimizerGeometry:
    r"""$P^{-1/2}$ and the threshold of an optimizer as it stands: its settings, and the averages of its last step.

    With its preconditioner held as it is, the optimizer diverges on a quadratic with Hessian H once
    $\lambda_{\max}(P^{-1/2} (H + D) P^{-1/2})$ passes the threshold; D is coupled weight decay.

    - SGD: $P = I$, $2 / \eta$; with momentum β and dampening τ $(2 + 2\beta) / ((1 - \tau) \eta)$, with Nesterov's
      momentum $(2 + 2\beta) / ((1 + 2\beta) \eta)$ [@cohen2021gradient, number not checked].
    - RMSprop: $P = \mathrm{diag}(\sqrt v + \epsilon)$, $(2 + 2\beta) / \eta$; Adagrad, with the sum of squares for v
      and no momentum, $2 / \eta$.
    - Adam: $P = (1 - \beta_1^t)\,\mathrm{diag}(\sqrt{v / (1 - \beta_2^t)} + \epsilon)$, with AMSGrad of the largest v,
      $(2 + 2\beta_1) / ((1 - \beta_1) \eta)$: $38 / \eta$ at $\beta_1 = 0.9$ [@cohen2022adaptive, number not checked].
    - AdamW: the same times $1 - \eta w / 2$, for its weights shrink by $1 - \eta w$ in every step besides.

    At the threshold the iterates change sign from step to step without decay. So groups with different settings are
    held against one threshold T, the smallest of theirs, by scaling the parameters of a group with threshold $T_g$ by
    $\sqrt{T / T_g}$ more. Parameters that the optimizer does not move have scale 0.

    Raises `NotApplicable` for other classes, before the first step where the optimizer has averages, where every
    learning rate is 0, and for an optimizer that maximizes.
    """
    optimizer, method = _known(optimizer)
    if any(group.get("maximize", False) for group in optimizer.param_groups):
        raise NotApplicable("This optimizer maximizes its loss; a threshold of stability is of descent.")
    owners = {id(p): group for group in optimizer.param_groups for p in group["params"]}
    parts = [_part(method, owners.get(id(p)), optimizer.state.get(p, {}), p) for p in parameters]
    moved = [part for part in parts if part is not None]
    if not moved:
        raise NotApplicable(_why_nothing_moves(optimizer, method, owners, parameters))
    if not all(np.all(part.preconditioner > 0) for part in moved):
        raise NotApplicable(
            "The optimizer divides by zero, or by what is no number: an average of squared gradients is 0 and so is "
            "eps, or it has overflowed. Set eps > 0, or look for the step that spoiled its state."
        )
    threshold = min(part.threshold for part in moved)
    scale = [
        np.zeros(p.numel())
        if part is None
        else np.broadcast_to(np.sqrt(threshold / part.threshold / part.preconditioner), p.numel())
        for part, p in zip(parts, parameters, strict=True)
    ]
    decays = [0.0 if part is None else part.decay for part in parts]
    plain = np.concatenate(scale)
    told = {part.decay for part in moved}
    decay = told.pop() if len(told) == 1 else asvector(np.repeat(decays, [p.numel() for p in parameters]))
    return OptimizerGeometry(
        name=method.name,
        threshold=threshold,
        scale=None if np.all(plain == 1) else asvector(plain),
        decay=decay,
        norm=method.norm,
        source=method.source,
    )


@dataclass(frozen=True)
class _Part:
    """What an optimizer does to one parameter tensor."""

    threshold: float
    preconditioner: Any  # a number or flat
    decay: float = 0.0


@dataclass(frozen=True)
class _Method:
    """A class of optimizers; `part` is given a group's settings and a parameter's state."""

    name: str
    part: Callable[[Mapping[str, Any], Mapping[str, Any]], _Part]
    averages: str | None  # the entry of the state without which it has made no step
    norm: Literal["l2", "linf"]
    source: str


def _sgd(group: Mapping[str, Any], state: Mapping[str, Any]) -> _Part:
    rate, momentum, decay = (float(group[name]) for name in ("lr", "momentum", "weight_decay"))
    fresh = 1 - float(group["dampening"]) if momentum else 1.0
    threshold = (2 + 2 * momentum) / (rate * (1 + 2 * momentum if group["nesterov"] else fresh)) if fresh else math.inf
    return _Part(threshold, 1.0, decay)


def _rmsprop(group: Mapping[str, Any], state: Mapping[str, Any]) -> _Part:
    squares = _flat(state["square_avg"])
    if group["centered"]:
        squares = squares - _flat(state["grad_avg"]) ** 2
    threshold = (2 + 2 * float(group["momentum"])) / float(group["lr"])
    with np.errstate(invalid="ignore"):  # torch makes NaN of a negative difference, too; it is refused where it matters
        root = np.sqrt(squares)
    return _Part(threshold, root + float(group["eps"]), float(group["weight_decay"]))


def _adagrad(group: Mapping[str, Any], state: Mapping[str, Any]) -> _Part:
    rate = float(group["lr"]) / (1 + (float(state["step"]) - 1) * float(group["lr_decay"]))
    return _Part(2 / rate, np.sqrt(_flat(state["sum"])) + float(group["eps"]), float(group["weight_decay"]))


def _adam(group: Mapping[str, Any], state: Mapping[str, Any]) -> _Part:
    rate, decay, eps = (float(group[name]) for name in ("lr", "weight_decay", "eps"))
    (first, second), step = (float(beta) for beta in group["betas"]), float(state["step"])
    squares = _flat(state["max_exp_avg_sq" if group["amsgrad"] else "exp_avg_sq"])
    preconditioner = (np.sqrt(squares / (1 - second**step)) + eps) * (1 - first**step)
    threshold = (2 + 2 * first) / ((1 - first) * rate)
    if group.get("decoupled_weight_decay", False):
        return _Part(threshold * (1 - rate * decay / 2), preconditioner)
    return _Part(threshold, preconditioner, decay)


def _adamw(group: Mapping[str, Any], state: Mapping[str, Any]) -> _Part:
    return _adam({**group, "decoupled_weight_decay": True}, state)


def _flat(tensor: Tensor) -> np.ndarray:
    return tensor.detach().double().flatten().cpu().numpy()


_GRADIENT, _ADAPTIVE = "Cohen et al. 2021 [@cohen2021gradient]", "Cohen et al. 2022 [@cohen2022adaptive]"
_METHODS: dict[type[Optimizer], _Method] = {  # a class before those that it inherits from
    AdamW: _Method("AdamW", _adamw, "exp_avg_sq", "linf", _ADAPTIVE),
    Adam: _Method("Adam", _adam, "exp_avg_sq", "linf", _ADAPTIVE),
    SGD: _Method("SGD", _sgd, None, "l2", _GRADIENT),
    RMSprop: _Method("RMSprop", _rmsprop, "square_avg", "linf", _ADAPTIVE),
    Adagrad: _Method("Adagrad", _adagrad, "sum", "l2", _ADAPTIVE),
}


def _known(optimizer: Optimizer) -> tuple[Optimizer, _Method]:
    """The optimizer inside wrappers (Lightning, Accelerate), and what it is."""
    while isinstance(getattr(optimizer, "optimizer", None), Optimizer):
        optimizer = optimizer.optimizer  # type: ignore[attr-defined]
    step = inspect.unwrap(type(optimizer).step)
    for kind, method in _METHODS.items():
        if isinstance(optimizer, kind) and step is inspect.unwrap(kind.step):
            return optimizer, method
    raise NotApplicable(
        f"The threshold of stability of {type(optimizer).__name__} is not known here; it is for "
        f"{', '.join(sorted(method.name for method in _METHODS.values()))}. If you know its preconditioner and "
        "threshold, pass geometry=, a function without arguments that returns an OptimizerGeometry."
    )


def _part(
    method: _Method, group: Mapping[str, Any] | None, state: Mapping[str, Any], parameter: Tensor
) -> _Part | None:
    """What the optimizer does to a parameter; `None` if it does not move it."""
    if group is None or float(group["lr"]) == 0:
        return None
    if method.averages is not None and (method.averages not in state or not float(state.get("step", 1))):
        return None
    part = method.part(group, state)
    return None if math.isinf(part.threshold) else part


def _why_nothing_moves(
    optimizer: Optimizer, method: _Method, owners: Mapping[int, Any], parameters: list[Tensor]
) -> str:
    if not any(id(p) in owners for p in parameters):
        return (
            "The optimizer holds none of the model's trainable parameters. Was the model copied or moved after the "
            "optimizer was made? Pass the optimizer that trains this very model."
        )
    if all(float(group["lr"]) == 0 for group in optimizer.param_groups):
        return (
            "Every learning rate of the optimizer is 0: any curvature is stable. Measure after the first warm-up step."
        )
    if method.averages is not None:
        return (
            f"{method.name} has no averages of squared gradients before its first step, so there is no preconditioner "
            "yet. Take a training step first, or ask for the plain sharpness."
        )
    return f"{method.name} as it is set gives the gradient no weight (dampening = 1): there is no threshold."
