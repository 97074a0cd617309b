"""What is checked of a model, a loss and probe data before they are measured, and of autograd where it may be wrong."""

import math
from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd
from torch.overrides import TorchFunctionMode

from ..errors import NotApplicable, ProbeError
from .computation import Computation, Weights, pieces
from .probe import Batch, Probe

if TYPE_CHECKING:
    from .torch_objective import TorchObjective

FEW = 16  # examples on which evaluations are compared
ATTENTION = {"scaled_dot_product_attention", "multi_head_attention_forward"}
NORMALIZED = (nn.LayerNorm, nn.GroupNorm, _BatchNorm, nn.modules.instancenorm._InstanceNorm, nn.RMSNorm)
STEPS = (1e-2, 1e-3, 1e-4, 1e-5, 1e-6)  # of central differences, relative to the weights


class AttentionSeen(TorchFunctionMode):
    """Notes whether the code that runs calls attention."""

    seen = False

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.seen = self.seen or getattr(func, "__name__", "") in ATTENTION
        return func(*args, **(kwargs or {}))


def require_trainable(model: nn.Module) -> None:
    """Raise `ProbeError` for a model that nothing can be measured of."""
    if isinstance(model, torch.jit.ScriptModule):
        raise ProbeError("A scripted model cannot be run at other weights: measure the module it was scripted from.")
    trainable = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    if not trainable:
        frozen = sum(1 for _ in model.parameters())
        raise ProbeError(
            f"There are no trainable parameters: the model has {frozen} parameters, and none requires a gradient. Set "
            "requires_grad_(True) on those to be measured."
        )
    devices = {str(p.device) for p in model.parameters()}
    if len(devices) > 1:
        raise ProbeError(f"The model must be on one device; its parameters are on {', '.join(sorted(devices))}.")
    for name, p in trainable:
        if not p.is_floating_point():
            raise ProbeError(f"Trainable parameters must be real; {name} is {p.dtype}.")


def first_evaluations(computation: Computation, probe: Probe, chunk: int) -> tuple[bool, str]:
    """Evaluate the data once and a few examples twice; raise `ProbeError` if a loss is not finite or they disagree.

    Returns whether attention is used, and why batches cannot be cut ('' if they can).
    """
    with computation.running():
        weights, before = computation.weights(), _attributes(computation.model)
        few = _few(next(probe.batches()), computation)
        with AttentionSeen() as attention:
            versions = [t._version for t in few.tensors()]
            loss, gradient = _loss_and_gradient(computation, weights, few)
        if math.isfinite(loss) and not all(bool(torch.isfinite(g).all()) for g in gradient if g is not None):
            raise ProbeError(
                "The loss is finite and its gradient is not (the root or logarithm of zero, a norm at the origin?). "
                "Bound the argument away from zero, as in sqrt(x + 1e-12)."
            )
        _require_own_weights(computation, few)
        if [t._version for t in few.tensors()] != versions:
            raise ProbeError(
                "The model writes into its inputs: an operation in place changes the probe data. Work on a copy, as in "
                "x = x.clone(), or use the operation that returns a new tensor."
            )
        again, gradient_again = _loss_and_gradient(computation, weights, few)
        disagreement = _disagreement(computation, (loss, gradient), (again, gradient_again))
        if disagreement:
            raise ProbeError(disagreement + _cause(computation, _changed_state(computation, weights, before)))
        coupling = _coupling(computation, weights, few)
        _require_finite(computation, weights, probe, None if coupling else chunk)
    return attention.seen, coupling


def _few(batch: Batch, computation: Computation) -> Batch:
    """Copies of a few examples spread over a batch; all where a batch norm couples them."""
    if _batch_norms(computation) or batch.size <= FEW:
        return batch.map(torch.clone, batch.size)
    return batch[torch.linspace(0, batch.size - 1, FEW).long()]


def _batch_norms(computation: Computation) -> list[str]:
    """Batch norms that normalize by the batch."""
    return [
        name or type(m).__name__
        for name, m in computation.model.named_modules()
        if isinstance(m, _BatchNorm) and (m.training or m.running_mean is None)
    ]


def _loss_and_gradient(computation: Computation, weights: Weights, batch: Batch) -> tuple[float, list[Tensor | None]]:
    loss = computation.loss(computation.forward(weights.tensors, batch), batch)
    if not loss.requires_grad:
        raise ProbeError(
            "The loss does not depend on any trainable parameter. Is it computed within torch.no_grad(), from "
            ".detach()ed outputs, or by parts of the model that are frozen?"
        )
    return float(loss.detach()), list(torch.autograd.grad(loss, weights.leaves, allow_unused=True))


def _require_own_weights(computation: Computation, batch: Batch) -> None:
    """The model must read its weights as attributes, so that it can be run on copies of them."""
    weights = computation.weights()
    loss = computation.loss(computation.forward(weights.tensors, batch), batch)
    held = {name: p for name, p in computation.model.named_parameters() if p.requires_grad}
    found = torch.autograd.grad(loss, list(held.values()), allow_unused=True)
    aside = [name for name, g in zip(held, found, strict=True) if g is not None]
    if aside:
        raise ProbeError(
            f"The model reads {', '.join(aside[:3])} by a second reference (a list or a closure made at construction, "
            "a loss that holds the model?), so that it cannot be evaluated on a copy of its weights. Read parameters "
            "as attributes of their modules in forward; lists of them belong in nn.ParameterList."
        )


def _disagreement(
    computation: Computation, one: tuple[float, list[Tensor | None]], two: tuple[float, list[Tensor | None]]
) -> str:
    """How two evaluations differ; '' if by rounding at most."""
    epsilon = max(torch.finfo(dtype).eps for dtype in computation.dtypes)  # losses may be rounded as float32 numbers
    epsilon = max(epsilon, torch.finfo(torch.float32).eps)
    pairs = [(a, b) for a, b in zip(one[1], two[1], strict=True) if a is not None and b is not None]
    apart = math.sqrt(sum(float((a - b).double().square().sum()) for a, b in pairs))
    scale = math.sqrt(sum(float(a.double().square().sum()) for a, _ in pairs))
    # Equal in all bits, unless an accelerator sums in varying order: then equal to rounding.
    same = abs(one[0] - two[0]) <= 1e2 * epsilon * abs(one[0]) and apart <= 1e3 * epsilon * scale
    if same or not (math.isfinite(one[0]) and math.isfinite(two[0])):
        return ""
    return f"Two evaluations of the same examples disagree: losses {one[0]:.8g} and {two[0]:.8g}. "


def _cause(computation: Computation, changed: list[str]) -> str:
    """What makes evaluations disagree, and the remedy."""
    dropout = _active_dropout(computation.model)
    if dropout:
        return (
            f"Dropout is active in mode='train', in {', '.join(dropout)}, and draws a new mask in every pass. "
            "Measure with mode='eval' (the default), or set its p to 0."
        )
    if changed:
        return (
            f"The forward pass changes the state that it uses: {', '.join(changed)}. A measurement needs a "
            "function of the weights and the data: freeze that state (mode='eval', or a flag of the model)."
        )
    return (
        "The forward pass or the loss draws random numbers (noise, functional dropout without "
        "training=self.training, sampling) or depends on something outside of the model. Switch that off for the "
        "measurement, or fix what it draws."
    )


def _active_dropout(model: nn.Module) -> list[str]:
    def active(m: nn.Module) -> bool:
        drops = m.p if isinstance(m, _DropoutNd) else getattr(m, "dropout", 0.0)
        known = isinstance(m, _DropoutNd | nn.RNNBase | nn.MultiheadAttention)
        return m.training and known and isinstance(drops, float | int) and drops > 0

    return [name or type(m).__name__ for name, m in model.named_modules() if active(m)]


def _attributes(model: nn.Module) -> dict[str, Any]:
    """Numbers and tensors kept on modules, beside parameters and buffers."""
    return {
        f"{name}.{key}".lstrip("."): value.clone() if isinstance(value, Tensor) else value
        for name, module in model.named_modules()
        for key, value in module.__dict__.items()
        if isinstance(value, int | float | Tensor)
    }


def _changed_state(computation: Computation, weights: Weights, before: dict[str, Any]) -> list[str]:
    """Buffers and attributes that the forward pass has changed, those of batch norms aside."""
    model, held = computation.model, weights.tensors
    own = {id(b) for m in model.modules() if isinstance(m, _BatchNorm) for b in m.buffers(recurse=False)}
    buffers = {name: b for name, b in model.named_buffers() if id(b) not in own}
    changed = [f"buffer {n}" for n, b in buffers.items() if not torch.equal(b.to(held[n].dtype), held[n])]
    for name, now in _attributes(model).items():
        then = before.get(name)
        alike = isinstance(now, Tensor) and isinstance(then, Tensor) and now.shape == then.shape
        if not (bool((now == then).all()) if alike else now is then or (not isinstance(now, Tensor) and now == then)):
            changed.append(f"attribute {name}")
    return changed


def _coupling(computation: Computation, weights: Weights, batch: Batch) -> str:
    """Why the loss of a batch is not the mean over its examples: '' if it is."""
    norms = _batch_norms(computation)
    if norms:
        return f"the examples of a batch are normalized together by {', '.join(norms[:3])}"
    if batch.size == 1:
        return ""
    with torch.no_grad():
        returned = computation.forward(weights.tensors, batch)
        loss = computation.loss(returned, batch)
        whole = float(computation.share(loss, batch, batch.size))
        singles = []
        for i in range(batch.size):
            single = batch[i : i + 1]
            alone = computation.loss(computation.forward(weights.tensors, single), single)
            singles.append(float(computation.share(alone, single, 1)))
    outputs = _largest(returned)
    epsilon = max(torch.finfo(dtype).eps for dtype in (*computation.dtypes, loss.dtype))
    # A loss of single examples inherits the rounding of outputs, made by other products in other batch sizes.
    allowed = 64 * epsilon * (np.mean(np.abs(singles)) + outputs)
    if math.isfinite(whole) and abs(whole - np.mean(singles)) > allowed:
        return (
            f"the loss of a batch ({whole:.6g}) is not the mean of its examples' ({np.mean(singles):.6g}): "
            "class weights, ignored targets, a term of its own, or outputs that depend on the neighbours"
        )
    return ""


def _largest(returned: Any) -> float:
    if isinstance(returned, Tensor):
        return float(returned.abs().max()) if returned.numel() and returned.is_floating_point() else 0.0
    if isinstance(returned, Mapping):
        returned = list(returned.values())
    parts = returned if isinstance(returned, tuple | list) else []
    return max((_largest(part) for part in parts if isinstance(part, Tensor)), default=0.0)


def _require_finite(computation: Computation, weights: Weights, probe: Probe, chunk: int | None) -> None:
    start = 0
    with torch.no_grad():
        for number, batch in enumerate(pieces(probe.batches(), chunk)):
            loss = float(computation.loss(computation.forward(weights.tensors, batch), batch))
            if not math.isfinite(loss):
                bad = [n for n, t in enumerate(batch.tensors()) if t.is_floating_point() and not t.isfinite().all()]
                where = f"batch number {number} (examples {start} ... {start + batch.size - 1})"
                cause = (
                    "The probe data of that batch hold NaN or infinity: clean them." if bad else _not_finite(weights)
                )
                raise ProbeError(f"The loss is {loss} in {where}. {cause}")
            start += batch.size


def _not_finite(weights: Weights) -> str:
    bad = [name for name, t in weights.tensors.items() if t.is_floating_point() and not bool(t.isfinite().all())]
    if bad:
        return f"The model has NaN or infinity in {', '.join(bad[:3])}: the training has diverged before this point."
    return "Data and weights are finite: the loss overflows (a logarithm of zero, too large outputs in this dtype?)."


def finite_difference_check(objective: "TorchObjective", rng: np.random.Generator) -> tuple[float, str]:
    r"""Relative error of a Hessian-vector product by autograd against differences of gradients, and a note for readers.

    Both in float64 on a few examples, along a random direction; the difference quotient is central,
    $(\nabla L(\theta + hv) - \nabla L(\theta - hv)) / 2h$, at the step h where it moves least from the next larger one.
    The note says "do not trust" where the two differ by more than ten times that movement, plus 1e-4 of the product.
    """
    few = objective if objective.coupled else objective.subset(np.arange(min(FEW, objective.examples)))
    double = few.cast(torch.float64)
    theta = double.parameters()
    v = double.asvector(rng.normal(size=double.size))
    v = v / v.norm()
    product = double.products("hessian")(v)
    quotients = []
    for step in STEPS:
        h = step * max(1.0, float(theta.norm()) / math.sqrt(double.size))
        quotients.append((double.at(theta + h * v).gradient() - double.at(theta - h * v).gradient()) / (2 * h))
    moved = [float((b - a).norm()) for a, b in pairwise(quotients)]
    best = int(np.argmin(moved))
    apart, scale = float((quotients[best + 1] - product).norm()), float(product.norm())
    error = apart / max(scale, float(quotients[best + 1].norm()), 1e-300)
    where = f"on {double.examples} examples, in float64"
    if not math.isfinite(apart) or apart > 10 * moved[best] + 1e-4 * scale:
        return error, (
            f"Do not trust second derivatives of this model: a Hessian-vector product by autograd differs from "
            f"differences of gradients by {error:.2g} of its size ({where}). Is there an autograd.Function whose "
            "backward is not differentiable as written?"
        )
    return error, f"Second derivatives agree with differences of gradients to {error:.1g} ({where})."


def doubtful(computation: Computation, weights: Weights, batch: Batch) -> bool:
    """Whether second derivatives are made by code known for errors: norms, RNNs, attention, hand-written functions."""
    if any(isinstance(m, (*NORMALIZED, nn.RNNBase, nn.MultiheadAttention)) for m in computation.model.modules()):
        return True
    with AttentionSeen() as attention:
        loss = computation.loss(computation.forward(weights.tensors, batch), batch)
    return attention.seen or any(
        isinstance(node, torch.autograd.function.BackwardCFunction) for node in _nodes(loss.grad_fn)
    )


def _nodes(root: Any) -> Iterator[Any]:
    seen, todo = set(), [root]
    while todo:
        node = todo.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        yield node
        todo.extend(following for following, _ in node.next_functions)


def coupled_only(what: str, coupling: str) -> NotApplicable:
    """The error of a measure of single examples where there are none."""
    return NotApplicable(
        f"{what} need a loss that is a mean over examples; here {coupling}. Measure with mode='eval', and with a loss "
        "that first averages within each example; reduction='sum' takes a loss that is a sum over examples."
    )
