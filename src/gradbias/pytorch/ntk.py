r"""The empirical neural tangent kernel without a Jacobian.

A dense layer $z = W a + b$ adds $(a_i \cdot a_j + 1)\, (g_{ia} \cdot g_{jb})$ to $K_{ia,jb}$, with $a_i$ its input and
$g_{ia} = \partial f_a(x_i) / \partial z$. So one forward pass and $k$ backward passes to the layers' results are all
that is asked of autograd. With several positions per example (sequences, convolutions) the products are summed over
pairs of positions, or the gradients of the weight are formed example by example, whichever is cheaper.

What is seen of the forward pass is not trusted. One more backward pass, for a random combination of all outputs, must
give the gradient of each parameter that its recorded uses add up to, and the positions taken for those of one example
must depend on that example alone. A parameter that fails, or is used in another way, goes to the plain Jacobian.
"""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from .linear_calls import Call, Recorder, Role
from .probe import Batch
from .torch_objective import TorchObjective

BLOCK = 1 << 18  # entries of the kernel made at once: few enough to stay in the cache
MEMORY = 1 << 29  # bytes of derivatives held at once


def empirical_ntk(objective: TorchObjective) -> np.ndarray:
    """`layer_structured_ntk` of an objective's outputs, by its trainable parameters."""
    batches, weights, run = _batches(objective), objective.weights(), objective.computation
    starts = np.cumsum([0, *(batch.size for batch in batches)])

    def forward(examples: slice) -> Tensor:
        first, stop, _ = examples.indices(int(starts[-1]))
        parts = [
            batch[slice(max(0, first - start), min(batch.size, stop - start))]
            for start, batch in zip(starts.tolist(), batches, strict=False)
            if start < stop and first < start + batch.size
        ]
        rows = [run.outputs(run.forward(weights.tensors, part)).reshape(part.size, -1) for part in parts]
        return rows[0] if len(rows) == 1 else torch.cat(rows)

    with run.running():
        # Patches, gradients by weight and their products are held beside the derivatives: about four times as much.
        kernel = layer_structured_ntk(weights.leaves, forward, memory=objective.max_memory // 4)
    objective.work.add(gradients=kernel.shape[1] + 2)
    return kernel


def _batches(objective: TorchObjective) -> list[Batch]:
    """All the data: as one batch, where their shapes allow."""
    return list(objective.probe.take(np.arange(objective.examples)).batches())


def jacobian_product(objective: TorchObjective, v: Tensor) -> np.ndarray:
    r"""$J v$, shape (n, k), as the derivative of $u \mapsto v \cdot J^\top u$: no forward-mode derivative is needed."""
    weights, run, rows = objective.weights(), objective.computation, []
    along = run.split(objective.asvector(v))
    with run.running():
        for batch in objective.parts():
            f = run.outputs(run.forward(weights.tensors, batch)).reshape(batch.size, -1)
            u = torch.zeros_like(f, requires_grad=True)
            pulled = torch.autograd.grad(f, weights.leaves, u, create_graph=True, allow_unused=True)
            heads = [(g, part) for g, part in zip(pulled, along, strict=True) if g is not None and g.requires_grad]
            moved = torch.autograd.grad([g for g, _ in heads], u, [part for _, part in heads])[0] if heads else u
            rows.append(objective.asnumpy(moved))
    objective.work.add(gradients=2)
    return np.concatenate(rows)


def layer_structured_ntk(
    parameters: Sequence[Tensor], forward: Callable[[slice], Tensor], *, memory: int = MEMORY
) -> np.ndarray:
    r"""$K_{ia,jb} = \nabla f_a(x_i) \cdot \nabla f_b(x_j)$, shape (n, k, n, k), float64.

    `forward(examples)` returns the outputs (m, k) of a slice of the examples; `parameters` are the tensors it uses that
    require gradients. `memory` limits the derivatives held at once, in bytes, where they can be split. Products are
    in the dtype of the model, their sum over the layers in float64.
    """
    numbers = {id(p): i for i, p in enumerate(parameters)}
    recorder = Recorder(numbers)
    with torch.enable_grad():
        with recorder:
            outputs = forward(slice(None))
        n, k = outputs.shape
        passes = _Passes(outputs, list(parameters))
        kernel = torch.zeros((n * k, n * k), dtype=torch.float64)
        done: set[int] = set()
        units = _units(recorder.calls, numbers)
        sizes = [sum(call.entries for call in unit) for unit in units]
        for start, stop in _runs(sizes, memory // (k * outputs.element_size())):
            derivatives = passes.derivatives([call for unit in units[start:stop] for call in unit])
            for unit in units[start:stop]:
                done |= _add_unit(kernel, unit, derivatives, passes, numbers=numbers, memory=memory)
        rest = [p for i, p in enumerate(parameters) if i not in done and passes.gradients[i] is not None]
        for rows in _jacobians(forward, outputs, rest, memory):
            _add_gram(kernel, rows, k)
    return _mirrored(kernel, k).numpy().reshape(n, k, n, k)


@dataclass(frozen=True)
class _Derivatives:
    """A call, what it was given, and the derivatives of the outputs, and of their combination, by its result."""

    call: Call
    given: Tensor  # (n, positions, groups, d)
    results: Tensor  # (n, positions, k, groups, m)
    combined: Tensor  # (n, positions, groups, m)

    @property
    def total(self) -> "_Derivatives":
        """As if all examples were positions of a single one, whose output is the combination."""
        combined = self.combined.flatten(0, 1)[None]
        return _Derivatives(self.call, self.given.flatten(0, 1)[None], combined[:, :, None], combined)

    def width(self, role: Role) -> int:
        """Entries in a row of the parameter."""
        if role == "bias" or self.call.form == "scaled":
            return 1
        return self.given.shape[-1] if self.call.form == "outer" else self.results.shape[-1]

    def gradients(self, role: Role, rows: slice) -> Tensor:
        """The gradient of each output with respect to these rows of a parameter, shape (n, k, entries)."""
        a, g, form = self.given, self.results, self.call.form
        if role == "bias":
            return g.flatten(3)[..., rows].sum(1)
        if form == "scaled":
            return torch.einsum("ntm,ntkm->nkm", a[:, :, 0, rows], g.flatten(3)[..., rows])
        if form == "outer" and self.call.groups == 1:
            return torch.einsum("ntkr,ntd->nkrd", g[:, :, :, 0, rows], a[:, :, 0]).flatten(2)
        if form == "outer":
            groups = slice(rows.start // g.shape[-1], rows.stop // g.shape[-1])
            return torch.einsum("ntkgr,ntgd->nkgrd", g[:, :, :, groups], a[:, :, groups]).flatten(2)
        if self.call.picked is None:
            return torch.einsum("ntr,ntkm->nkrm", a[:, :, 0, rows], g[:, :, :, 0]).flatten(2)
        inside = (self.call.picked >= rows.start) & (self.call.picked < rows.stop)
        whole = g.new_zeros(len(g), g.shape[2], rows.stop - rows.start, g.shape[-1])
        whole[:, :, self.call.picked[inside] - rows.start] = torch.einsum(
            "ntr,ntkm->nkrm", a[:, :, 0, inside], g[:, :, :, 0]
        )
        return whole.flatten(2)


class _Passes:
    """Backward passes through one graph: for each output, and for one random combination of them all."""

    def __init__(self, outputs: Tensor, parameters: Sequence[Tensor]) -> None:
        self.outputs = outputs
        n, k = outputs.shape
        drawn = np.random.default_rng(0).uniform(0.5, 1.5, n + k) * np.random.default_rng(1).choice([-1, 1], n + k)
        self.examples, self.classes = torch.from_numpy(drawn).to(outputs).split([n, k])
        self.tolerance = max(float(torch.finfo(t.dtype).eps) for t in (outputs, *parameters)) ** 0.5
        self.gradients = self._pull(self.examples[:, None] * self.classes, list(parameters))

    def _pull(self, weights: Tensor, inputs: list) -> list[Tensor | None]:
        if not inputs or not self.outputs.requires_grad:
            return [None] * len(inputs)
        return list(torch.autograd.grad(self.outputs, inputs, weights, retain_graph=True, allow_unused=True))

    def derivatives(self, calls: list[Call]) -> dict[int, _Derivatives | None]:
        """By the call's id: its derivatives, or `None` if those of one example cannot be told from another's.

        A call that no output depends on is left out.
        """
        edges = [call.edge for call in calls]
        combined = self._pull(self.examples[:, None] * self.classes, edges)
        each = []
        for a in range(len(self.classes)):
            weights = torch.zeros_like(self.outputs)
            weights[:, a] = 1
            each.append(self._pull(weights, edges))
        return {
            id(call): self._arranged(call, [pulled[i] for pulled in each], combined[i])
            for i, call in enumerate(calls)
            if combined[i] is not None
        }

    def _arranged(self, call: Call, each: list[Tensor | None], combined: Tensor | None) -> _Derivatives | None:
        """Find the axis that counts the examples: the derivatives there must scale as the combination does."""
        rows = [call.rows(z) for z in (*each, combined) if z is not None]
        lead = rows[0].shape[:-1]
        for shape, axis in _layouts(lead, len(self.examples)):
            *parts, whole = (_by_example(z, shape, axis, len(lead)) for z in rows)
            expected = sum(u * part for u, part in zip(self.classes, parts, strict=True))
            if self.close(self.examples[:, None, None] * expected, whole):
                given = _by_example(call.given().to(parts[0].dtype), shape, axis, len(lead))
                groups = (call.groups, -1)
                return _Derivatives(
                    call, given, torch.stack(parts, 2).unflatten(-1, groups), whole.unflatten(-1, groups)
                )
        return None

    def close(self, a: Tensor, b: Tensor) -> bool:
        """Equal but for rounding, as vectors."""
        return bool((a - b).norm() <= self.tolerance * b.norm())


def _layouts(lead: torch.Size, n: int) -> Iterator[tuple[tuple[int, ...], int]]:
    """Shapes of the leading axes with an axis of n examples, the likeliest first."""
    for axis, length in enumerate(lead):
        if length == n:
            yield tuple(lead), axis
    if lead and lead[0] % n == 0 and lead[0] > n:
        yield (n, lead[0] // n, *lead[1:]), 0
        yield (lead[0] // n, n, *lead[1:]), 1


def _by_example(z: Tensor, shape: tuple[int, ...], axis: int, lead: int) -> Tensor:
    """The leading axes of `z` as (n, positions)."""
    features = z.shape[lead:]
    return z.reshape(*shape, *features).movedim(axis, 0).reshape(shape[axis], -1, *features)


def _units(calls: list[Call], numbers: dict[int, int]) -> list[list[Call]]:
    """The calls, with those together that share a parameter."""
    units: list[tuple[set[int], list[Call]]] = []
    for call in calls:
        used, members = {number for number, _ in call.uses(numbers)}, [call]
        for unit in [unit for unit in units if unit[0] & used]:
            used, members = used | unit[0], unit[1] + members
            units.remove(unit)
        units.append((used, members))
    return [members for _, members in units]


def _add_unit(
    kernel: Tensor,
    calls: list[Call],
    derivatives: dict[int, _Derivatives | None],
    passes: _Passes,
    *,
    numbers: dict[int, int],
    memory: int,
) -> set[int]:
    """Add what the parameters of these calls contribute; returns those that were accounted for."""
    uses: dict[int, list[tuple[Role, _Derivatives | None]]] = {}
    for call in (call for call in calls if id(call) in derivatives):
        for number, role in call.uses(numbers):
            uses.setdefault(number, []).append((role, derivatives[id(call)]))
    told = {number: [(role, d) for role, d in pairs if d is not None] for number, pairs in uses.items()}
    sound = {
        number: pairs
        for number, pairs in told.items()
        if len(pairs) == len(uses[number]) and _adds_up(passes, number, pairs)
    }
    products = _products([pair for pairs in sound.values() for pair in pairs]) if len(calls) == 1 else None
    if products is not None:
        for group in range(products.given.shape[2]):
            _add_products(kernel, products.given[:, :, group], products.results[:, :, :, group])
        return set(sound)
    for number, pairs in sound.items():
        gradient = passes.gradients[number]
        if gradient is not None:
            _add_summed(kernel, pairs, len(gradient), memory)
    return set(sound)


def _adds_up(passes: _Passes, number: int, uses: list[tuple[Role, _Derivatives]]) -> bool:
    """Whether these uses make up the parameter's gradient for the random combination of outputs."""
    expected = passes.gradients[number]
    if expected is None:
        return False
    rows = slice(0, len(expected))
    total = sum(derivatives.total.gradients(role, rows)[0, 0] for role, derivatives in uses)
    return isinstance(total, Tensor) and passes.close(total, expected.flatten())


def _products(uses: list[tuple[Role, _Derivatives]]) -> _Derivatives | None:
    """One call's derivatives with its input made to include the bias; `None` where gradients by example are cheaper."""
    if not uses or uses[0][1].call.form == "scaled":
        return None
    derivatives, roles = uses[0][1], [role for role, _ in uses]
    parts = [derivatives.given] if "weight" in roles else []
    if "bias" in roles:
        parts.append(torch.ones_like(derivatives.given[..., :1]))
    given = torch.cat(parts, dim=-1)
    return dataclasses.replace(derivatives, given=given) if _pairs_are_cheaper(given, derivatives.results) else None


def _pairs_are_cheaper(given: Tensor, results: Tensor) -> bool:
    """Multiplications per group over (n k)²; each pair of positions costs about eight more, in memory."""
    (n, positions, _, d), (k, _, m) = given.shape, results.shape[2:]
    return positions**2 * (m + 8 + d / k**2) <= m * d * (1 + positions / (n * k))


def _add_products(kernel: Tensor, given: Tensor, results: Tensor) -> None:
    r"""Add $\sum_{t,s} (a_{it} \cdot a_{js}) (g_{iat} \cdot g_{jbs})$, in blocks on and above the diagonal."""
    n, positions, k, _ = results.shape
    step = max(1, BLOCK // (n * (k * positions) ** 2))
    for start in range(0, n, step):
        inputs = given[start : start + step].flatten(0, 1) @ given[start:].flatten(0, 1).T
        pairs = results[start : start + step].flatten(0, 2) @ results[start:].flatten(0, 2).T
        if positions == 1:
            pairs.view(-1, k, pairs.shape[1]).mul_(inputs.repeat_interleave(k, 1)[:, None])
        else:
            pairs = pairs.view(-1, positions, k, n - start, positions, k)
            inputs = inputs.view(-1, positions, 1, n - start, positions, 1)
            pairs = (pairs * inputs).sum((1, 4)).flatten(2).flatten(0, 1)
        kernel[start * k : start * k + len(pairs), start * k :] += pairs.to(kernel.device)


def _add_summed(kernel: Tensor, uses: list[tuple[Role, _Derivatives]], rows: int, memory: int) -> None:
    """Add the products of a parameter's gradients, summed over its uses, for some of its rows at a time."""
    first = uses[0][1]
    n, k = len(first.results), first.results.shape[2]
    if len(uses) == 1 and first.call.picked is not None:  # the other rows of an embedding have no gradient
        rows = len(first.call.picked)
        uses = [(uses[0][0], dataclasses.replace(first, call=dataclasses.replace(first.call, picked=None)))]
    step = memory // (n * k * max(d.width(role) for role, d in uses) * first.results.element_size())
    whole = max(d.results.shape[-1] if d.call.groups > 1 else 1 for _, d in uses)
    step = max(whole, step // whole * whole)
    for start in range(0, rows, step):
        chosen = slice(start, min(start + step, rows))
        gradients = sum(d.gradients(role, chosen) for role, d in uses)
        if isinstance(gradients, Tensor):
            _add_gram(kernel, gradients.flatten(0, 1), k)


def _add_gram(kernel: Tensor, gradients: Tensor, k: int) -> None:
    """Add the inner products of the rows, in blocks on and above the diagonal."""
    step = max(1, BLOCK // (len(kernel) * k)) * k
    for start in range(0, len(kernel), step):
        products = gradients[start : start + step] @ gradients[start:].T
        kernel[start : start + step, start:] += products.to(kernel.device)


def _mirrored(kernel: Tensor, k: int) -> Tensor:
    """The upper triangle copied to the lower one, in place."""
    step = 64 * k
    for start in range(0, len(kernel), step):
        stop = min(start + step, len(kernel))
        corner = kernel[start:stop, start:stop].triu()
        kernel[start:stop, start:stop] = corner + corner.triu(1).T
        kernel[stop:, start:stop] = kernel[start:stop, stop:].T
    return kernel


def _jacobians(
    forward: Callable[[slice], Tensor], outputs: Tensor, parameters: list[Tensor], memory: int
) -> Iterator[Tensor]:
    """Gradients of all outputs (n k, entries) with respect to some of the parameters at a time, one example by one.

    Where an example's outputs depend on its neighbours, the graph of all examples is used for each.
    """
    n, k = outputs.shape
    tolerance = float(torch.finfo(outputs.dtype).eps) ** 0.5
    coupled = bool((forward(slice(0, 1))[0] - outputs[0]).norm() > tolerance * outputs[0].norm())
    limit = max(1, memory // (n * k * outputs.element_size()))
    for start, stop in _runs([p.numel() for p in parameters], limit):
        rows = []
        for i in range(n):
            f = outputs[i] if coupled else forward(slice(i, i + 1))[0]
            for a in range(k):
                each = torch.autograd.grad(f[a], parameters[start:stop], retain_graph=True, allow_unused=True)
                found = zip(each, parameters[start:stop], strict=True)
                rows.append(torch.cat([(torch.zeros_like(p) if g is None else g).flatten() for g, p in found]))
        yield torch.stack(rows)


def _runs(sizes: list[int], limit: int) -> Iterator[tuple[int, int]]:
    """Neighbours whose sizes sum to the limit at most, or single ones."""
    start = 0
    while start < len(sizes):
        stop, held = start + 1, sizes[start]
        while stop < len(sizes) and held + sizes[stop] <= limit:
            held, stop = held + sizes[stop], stop + 1
        yield start, stop
        start = stop
