r"""Products with the Hessian and with the Gauss-Newton matrix, from graphs that are built once.

The graph of the gradient is kept, so that a product $\nabla_\theta (v \cdot \nabla L)$ is one more backward pass: it
costs about as much as a gradient. Where the graphs of all the data would not fit in memory, the data are cut; as many
parts as fit keep their graphs and the others build theirs anew in every product.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from ..errors import NotApplicable
from ..measures.estimate import Work
from .computation import Computation, Weights, pieces
from .probe import Batch, Probe
from .untouched import differentiable

Kind = Literal["gradient", "hessian", "gauss-newton"]
PARTS = 8  # cut data fill the memory with about this many graphs: few that are built anew at a time, each large enough
TRIED = 8  # examples on which the bytes of a graph are counted


class Graph(Protocol):
    """What a product is made from: parts of v to parts of the product, `None` for zeros."""

    def __call__(self, parts: Sequence[Tensor], *, keep: bool) -> list[Tensor | None]:
        """One product; the graph can be used again if it is kept."""
        ...


class HessianGraph:
    """The gradient of what a batch adds to the risk, with its graph."""

    def __init__(self, computation: Computation, weights: Weights, batch: Batch, examples: int) -> None:
        self.leaves = weights.leaves
        loss = computation.loss(computation.forward(weights.tensors, batch), batch)
        share = computation.share(loss, batch, examples)
        gradients = torch.autograd.grad(share, self.leaves, create_graph=True, allow_unused=True)
        # A gradient that is constant in the parameters has no graph, and adds nothing.
        self.heads = [(i, g) for i, g in enumerate(gradients) if g is not None and g.requires_grad]

    def __call__(self, parts: Sequence[Tensor], *, keep: bool) -> list[Tensor | None]:
        r"""$\nabla_\theta (v \cdot \nabla L)$ in parts."""
        if not self.heads:
            return [None] * len(self.leaves)
        heads, along = [g for _, g in self.heads], [parts[i] for i, _ in self.heads]
        return list(torch.autograd.grad(heads, self.leaves, along, retain_graph=keep, allow_unused=True))


class GaussNewtonGraph:
    r"""$J^\top u$ as a function of u, and the gradient of the loss by the outputs, each with its graph.

    $Jv$ is the derivative of $v \cdot J^\top u$ by u, so that no part of the model is run again for a product.
    """

    def __init__(self, computation: Computation, weights: Weights, batch: Batch, examples: int) -> None:
        self.leaves = weights.leaves
        returned = computation.forward(weights.tensors, batch)
        self.outputs = computation.outputs(returned)
        share = computation.share(computation.loss(returned, batch), batch, examples)
        if not self.outputs.requires_grad:
            raise NotApplicable("The Gauss-Newton matrix needs outputs that depend on the parameters; these do not.")
        self.slope = torch.autograd.grad(share, self.outputs, create_graph=True, allow_unused=True)[0]
        if self.slope is None:
            raise NotApplicable(
                "The Gauss-Newton matrix needs a loss that is a function of the outputs; this one does not depend on "
                "the tensor that was taken for them. Pass outputs=, a function that picks the one the loss reads."
            )
        self._require_all_through_outputs(share)
        self.along = torch.zeros_like(self.outputs, requires_grad=True)
        pulled = torch.autograd.grad(self.outputs, self.leaves, self.along, create_graph=True, allow_unused=True)
        self.pulled = [(i, g) for i, g in enumerate(pulled) if g is not None and g.requires_grad]

    def _require_all_through_outputs(self, share: Tensor) -> None:
        options: dict[str, Any] = dict(retain_graph=True, allow_unused=True, materialize_grads=True)
        slope = self.slope.detach() if self.slope is not None else None
        through = torch.autograd.grad(self.outputs, self.leaves, slope, **options)
        whole = torch.autograd.grad(share, self.leaves, **options)
        scale = sum(float(g.detach().double().square().sum()) for g in whole) ** 0.5
        apart = sum(float((a - b).detach().double().square().sum()) for a, b in zip(through, whole, strict=True)) ** 0.5
        coarsest = max(torch.finfo(g.dtype).eps for g in whole)
        # Two orders of summation of the same products: their rounding grows like the root of the number of terms.
        if apart > 1e3 * coarsest * scale:
            raise NotApplicable(
                f"The Gauss-Newton matrix needs a loss that depends on the parameters through the outputs alone; "
                f"{apart / scale:.1%} of this gradient does not (a penalty on weights, a second output?). Pass "
                "outputs=, a function that picks the tensor the loss reads, and leave penalties out of the loss."
            )

    def __call__(self, parts: Sequence[Tensor], *, keep: bool) -> list[Tensor | None]:
        r"""$J^\top \nabla_f^2 \ell\, J v$ in parts."""
        nothing: list[Tensor | None] = [None] * len(self.leaves)
        if not self.pulled or self.slope is None or not self.slope.requires_grad:
            return nothing
        heads, along = [g for _, g in self.pulled], [parts[i] for i, _ in self.pulled]
        (moved,) = torch.autograd.grad(heads, self.along, along, retain_graph=True)
        (bent,) = torch.autograd.grad(self.slope, self.outputs, moved, retain_graph=True, allow_unused=True)
        if bent is None:
            return nothing
        return list(torch.autograd.grad(self.outputs, self.leaves, bent, retain_graph=keep, allow_unused=True))


class LossGraph:
    """What a batch adds to the risk, for its gradient."""

    def __init__(self, computation: Computation, weights: Weights, batch: Batch, examples: int) -> None:
        self.leaves = weights.leaves
        loss = computation.loss(computation.forward(weights.tensors, batch), batch)
        self.share = computation.share(loss, batch, examples)

    def gradient(self) -> list[Tensor | None]:
        """The gradient of this share of the risk."""
        return list(torch.autograd.grad(self.share, self.leaves, allow_unused=True))


BUILD: dict[Kind, Callable[..., Any]] = {
    "gradient": LossGraph,
    "hessian": HessianGraph,
    "gauss-newton": GaussNewtonGraph,
}


@dataclass(frozen=True)
class Risk:
    """The risk over probe data at fixed weights; `coupled` where a batch cannot be cut."""

    computation: Computation
    probe: Probe
    weights: Weights
    coupled: bool


@dataclass(frozen=True)
class Bytes:
    """Bytes that the graph of a batch saves: `fixed`, and `each` per entry of data; an example has `entries`."""

    fixed: float
    each: float
    entries: float

    def of(self, batch: Batch) -> float:
        """For this batch."""
        return self.fixed + self.each * _entries(batch)


def _entries(batch: Batch) -> int:
    return sum(t.numel() for t in batch.tensors())


def bytes_of_graph(kind: Kind, risk: Risk) -> Bytes:
    """Count what autograd saves for two small parts of the first batch; where batches are coupled, for the whole."""
    with risk.computation.running():
        return _counted(kind, risk, next(risk.probe.batches()))


def _counted(kind: Kind, risk: Risk, batch: Batch) -> Bytes:
    weights = risk.weights

    def count(part: Batch) -> float:
        seen: dict[int, int] = {}
        own = {t.untyped_storage().data_ptr() for t in (*weights.tensors.values(), *part.tensors())}

        def pack(t: Tensor) -> Tensor:
            storage = t.untyped_storage()
            if storage.data_ptr() not in own:
                seen[storage.data_ptr()] = max(seen.get(storage.data_ptr(), 0), storage.nbytes())
            return t.detach()

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
            graph = BUILD[kind](risk.computation, weights, part, part.size)
        del graph
        return float(sum(seen.values()))

    few = min(TRIED, batch.size)
    if risk.coupled or batch.size < 2 * few or few < 2:
        return Bytes(0.0, count(batch) / _entries(batch), _entries(batch) / batch.size)
    small, large = batch[:few], batch[: 2 * few]
    a, b = count(small), count(large)
    each = max(b - a, 0.0) / (_entries(large) - _entries(small))
    return Bytes(max(0.0, a - each * _entries(small)), each, _entries(small) / small.size)


@dataclass(frozen=True)
class Plan:
    """How data are cut for one kind of graph: parts of `size` examples (`None`: batches whole), within `room` bytes."""

    cost: Bytes
    size: int | None
    room: float
    fits: bool

    def keeps(self, batch: Batch, held: float) -> bool:
        """Whether the graph of this part fits beside those held and, unless all fit, one that is being used."""
        return self.fits or held + 2 * self.cost.of(batch) <= self.room


def plan(cost: Bytes, probe: Probe, room: float, *, kind: Kind, coupled: bool) -> Plan:
    """Cut the data so that graphs fit in `room` bytes."""
    whole = cost.fixed * len(probe.sizes) + cost.each * cost.entries * probe.examples
    if coupled or whole <= room:
        return Plan(cost, None, room, whole <= room)
    part = room / (2 if kind == "gradient" else PARTS)
    fitting = (part - cost.fixed) / max(1e-9, cost.each * cost.entries)
    return Plan(cost, max(1, int(fitting)), room, fits=False)


class Products:
    """Products with a curvature matrix at fixed weights; owns the graphs, which go when it goes."""

    def __init__(self, build: Callable[..., Graph], risk: Risk, plan: Plan, work: Work) -> None:
        self._build, self._risk, self._plan, self._work = build, risk, plan, work
        self._computation, self._weights, self._probe = risk.computation, risk.weights, risk.probe
        self._kept: list[Graph] | None = None
        self._complete = False

    def __call__(self, v: Tensor) -> Tensor:
        """One product."""
        self._work.add(products=1)
        parts = self._computation.split(v)
        with differentiable(self._computation.model, self._computation.device):
            if self._complete and self._kept is not None and len(self._kept) == 1:
                return self._computation.flat(self._kept[0](parts, keep=True), self._weights.leaves)
            total = torch.zeros_like(v)
            if self._complete and self._kept is not None:
                for graph in self._kept:
                    self._add(total, graph(parts, keep=True))
                return total
        for graph, kept in self._graphs():
            self._add(total, graph(parts, keep=kept))
        return total

    def _graphs(self) -> Iterator[tuple[Graph, bool]]:
        """Graphs of all the data in turn: those kept, the others built anew; the first pass decides which are kept."""
        first, held, built = self._kept is None, 0.0, 0
        kept: list[Graph] = [] if self._kept is None else self._kept
        keeping = first
        with self._computation.running():
            for number, batch in enumerate(pieces(self._probe.batches(), self._plan.size)):
                if not first and number < len(kept):
                    yield kept[number], True
                    continue
                graph = self._build(self._computation, self._weights, batch, self._probe.examples)
                built += batch.size
                keeping = keeping and self._plan.keeps(batch, held)
                if keeping:
                    held += self._plan.cost.of(batch)
                    kept.append(graph)
                yield graph, keeping
            if first:
                self._kept, self._complete = kept, keeping
            self._work.add(gradients=built / self._probe.examples)

    def _add(self, total: Tensor, parts: list[Tensor | None]) -> None:
        for row, part in zip(total.split(self._computation.sizes), parts, strict=True):
            if part is not None:
                row += part.reshape(-1)
