"""Derivatives example by example: of losses and margins by the weights, of outputs and losses by the inputs."""

import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.func import grad, vmap

from ..errors import NotApplicable
from .computation import Computation, Weights, pieces
from .probe import LABELS, Batch, Probe

Of = Literal["loss", "margin"]


def margin(outputs: Tensor, label: Tensor) -> Tensor:
    r"""$f_c - \max_{j \ne c} f_j$ of one example, shape (k,); with one output, $\pm f$."""
    if len(outputs) == 1:
        return torch.where(label == 1, outputs[0], -outputs[0])
    chosen = torch.arange(len(outputs), device=outputs.device) == label
    others = torch.where(chosen, torch.full_like(outputs, -torch.inf), outputs)
    return torch.where(chosen, outputs, torch.zeros_like(outputs)).sum() - others.max()


def gradient_rows(
    computation: Computation, weights: Weights, batch: Batch, labels: Tensor | None, *, vectorized: bool
) -> Tensor:
    """Gradients of each example's loss (of its margin, where labels are given) as rows, shape (n, size)."""
    names, leaves = computation.names, tuple(leaf.detach() for leaf in weights.leaves)
    fixed = {name: t.detach() for name, t in weights.tensors.items() if name not in names}

    def one(leaves: tuple[Tensor, ...], label: Tensor | None, *tensors: Tensor) -> Tensor:
        example = batch.replaced([t.unsqueeze(0) for t in tensors], 1)
        returned = computation.forward({**fixed, **dict(zip(names, leaves, strict=True))}, example)
        if label is not None:
            return margin(computation.outputs(returned).reshape(-1), label)
        return computation.loss(returned, example)

    def looped() -> Iterator[Tensor]:
        for i in range(batch.size):
            free = tuple(leaf.detach().requires_grad_() for leaf in leaves)
            value = one(free, None if labels is None else labels[i], *(t[i] for t in batch.tensors()))
            parts = torch.autograd.grad(value, free, allow_unused=True) if value.requires_grad else [None] * len(free)
            yield computation.flat(parts, free)

    if not vectorized:
        return torch.stack(list(looped()))
    axes = (None, None if labels is None else 0, *(0 for _ in batch.tensors()))
    parts = vmap(grad(one), in_dims=axes)(leaves, labels, *batch.tensors())
    return torch.cat([part.detach().reshape(batch.size, -1).to(computation.vector_dtype) for part in parts], dim=1)


def per_example_gradients(
    computation: Computation,
    probe: Probe,
    weights: Callable[[], Weights],
    *,
    labels: np.ndarray | None,
    chunk: int,
    support: dict[str, bool],
) -> Iterator[Tensor]:
    """Rows in chunks, in the order of the examples; one example after another where `vmap` cannot take the model.

    The model is run in the mode of the computation only while a chunk is made, not while its reader has it.
    `support` remembers whether `vmap` worked.
    """
    start, at = 0, weights()
    for part in pieces(probe.batches(), chunk):
        host = None if labels is None else labels[start : start + part.size]
        start += part.size
        rows = None
        with computation.running():
            batch = part.to(probe.device)  # parts cut within the caller's inference mode have no derivatives
            chosen = None if host is None else torch.as_tensor(host, device=probe.device)
            if support.setdefault("vmap", True):
                try:
                    rows = _vectorized(computation, at, batch, chosen)
                except (RuntimeError, ValueError, TypeError, IndexError, UserWarning):
                    support["vmap"] = False  # in-place writes, data-dependent branches, kernels without batching rules
            if rows is None:
                rows = gradient_rows(computation, at, batch, chosen, vectorized=False)
        yield rows


def _vectorized(computation: Computation, weights: Weights, batch: Batch, labels: Tensor | None) -> Tensor:
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="There is a performance drop")
        return gradient_rows(computation, weights, batch, labels, vectorized=True)


def real_inputs(batch: Batch) -> list[Tensor]:
    """What the model is given, if it is real numbers; raises `NotApplicable` otherwise."""
    inputs = batch.inputs
    if not isinstance(inputs, Mapping) and len(inputs) == 1 and isinstance(inputs[0], Mapping):
        inputs = inputs[0]
    if isinstance(inputs, Mapping):
        found = [t for name, t in inputs.items() if isinstance(t, Tensor) and name not in LABELS]
    else:
        flat = inputs[0] if len(inputs) == 1 and isinstance(inputs[0], tuple) else inputs
        found = [t for t in flat if isinstance(t, Tensor)]
    kinds = {str(t.dtype).removeprefix("torch.") for t in found if not t.is_floating_point()}
    if kinds or not found:
        raise NotApplicable(
            f"A derivative with respect to the inputs needs real inputs; they are {', '.join(sorted(kinds)) or 'none'}."
            " Give the embedded inputs instead, to a model that takes them."
        )
    return found


def _by_inputs(batch: Batch) -> tuple[Batch, list[Tensor]]:
    """The batch with its inputs as leaves of a graph, and those leaves."""
    inputs = {id(t) for t in real_inputs(batch)}
    leaves: list[Tensor] = []

    def free(t: Tensor) -> Tensor:
        if id(t) not in inputs:
            return t
        leaves.append(t.detach().clone().requires_grad_())
        return leaves[-1]

    return batch.map(free, batch.size), leaves


def _squares(parts: tuple[Tensor | None, ...], n: int) -> Tensor:
    rows = [part.detach().double().reshape(n, -1).square().sum(1) for part in parts if part is not None]
    return torch.stack(rows).sum(0) if rows else torch.zeros(n, dtype=torch.float64)


def jacobian_squares(
    computation: Computation, weights: Weights, batch: Batch, directions: Callable[[int, int], np.ndarray] | None
) -> np.ndarray:
    r"""$\|\partial f_i / \partial x_i\|_F^2$, shape (n, 1), by a pass per output; or along given directions.

    `directions(n, k)` returns rows u of outputs, shape (n, d, k).
    """
    batch, leaves = _by_inputs(batch)
    outputs = computation.outputs(computation.forward(weights.tensors, batch)).reshape(batch.size, -1)
    k = outputs.shape[1]
    if not outputs.requires_grad:
        return np.zeros((batch.size, 1 if directions is None else directions(batch.size, k).shape[1]))

    def pulled(along: Tensor) -> Tensor:
        return _squares(torch.autograd.grad(outputs, leaves, along, retain_graph=True, allow_unused=True), batch.size)

    if directions is not None:
        drawn = torch.as_tensor(directions(batch.size, k), dtype=outputs.dtype, device=outputs.device)
        return torch.stack([pulled(drawn[:, j]) for j in range(drawn.shape[1])], dim=1).cpu().numpy()
    units = torch.eye(k, dtype=outputs.dtype, device=outputs.device)
    squares = [pulled(row.expand(batch.size, k)) for row in units]
    return torch.stack(squares).sum(0)[:, None].cpu().numpy()


def gradient_norms(computation: Computation, weights: Weights, batch: Batch) -> np.ndarray:
    r"""$\|\partial \ell_i / \partial x_i\|_2$, shape (n,)."""
    batch, leaves = _by_inputs(batch)
    loss = computation.loss(computation.forward(weights.tensors, batch), batch)
    total = loss * batch.size if computation.reduction == "mean" else loss
    return _squares(torch.autograd.grad(total, leaves, allow_unused=True), batch.size).sqrt().cpu().numpy()
