"""The risk of a `torch.nn.Module` as an objective for measures."""

import copy
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import NotApplicable, ProbeError, UsageError
from ..measures.estimate import Work
from ..measures.objective import AbstractObjective, Layer, Settings, SymmetricOperator, class_numbers
from . import checks, examples, layer_hooks
from .computation import Computation, Weights, pieces
from .curvature_products import BUILD, Bytes, Kind, LossGraph, Plan, Products, Risk, bytes_of_graph, plan
from .probe import Batch, Probe, as_probe

LEAST = 1 << 25  # bytes that are always allowed beside a training: less than the libraries take
MEMORY = 1 << 30  # bytes of graphs and of rows of derivatives held at once, unless the user says otherwise


class TorchObjective(AbstractObjective):
    r"""$L(\theta)$ of a module over probe data; the module, its gradients and all random numbers stay as they are.

    `loss_fn(outputs, targets)` returns the mean over a batch (the sum with `reduction="sum"`), `None` takes the model's
    own `.loss`. `data` are tensors `(x, y)`, a mapping (the model is called with its entries as keywords, the loss is
    given the mapping), a list of such batches, or a DataLoader without shuffling. Batches count by their examples. The
    model is run in `mode`, on copies of its tensors, in `dtype` if given. `outputs` picks the tensor of outputs from
    what the model returns; by default a tensor itself, `.logits`, or the first tensor.

    Vectors are flat tensors on the model's device, over the parameters that require a gradient. The weights are the
    model's at the time of each call; `objective.at(objective.parameters())` stays at the present ones.

    `max_memory` (bytes, 1 GiB) bounds what autograd graphs save, and rows of per-example derivatives; data that would
    need more are cut, loaders larger than that are read anew in every pass. `check` compares a Hessian-vector product
    with differences of float64 gradients before the first Hessian is used: always, never, or ("auto") where PyTorch's
    second derivatives have been wrong; the result is a note, or with `check=True` a `ProbeError`.

    Raises `ProbeError` for no trainable parameters, a loss that is not one finite number, or two evaluations that
    disagree (dropout, changing state, augmentation, shuffling), with the remedy.
    """

    def __init__(
        self,
        model: nn.Module,
        loss_fn: Callable[..., Any] | None,
        data: Any,
        *,
        mode: Literal["eval", "train"] = "eval",
        reduction: Literal["mean", "sum"] = "mean",
        outputs: Callable[[Any], Tensor] | None = None,
        max_memory: int | None = None,
        dtype: torch.dtype | None = None,
        check: bool | Literal["auto"] = "auto",
        settings: Settings | None = None,
        work: Work | None = None,
    ) -> None:
        _require_options(mode, reduction, max_memory)
        model = getattr(model, "_orig_mod", model)  # torch.compile wraps the module; its code has no second derivative
        checks.require_trainable(model)
        self.model = model
        self.computation = Computation(model, loss_fn, outputs, reduction, mode, dtype)
        self.max_memory = MEMORY if max_memory is None else int(max_memory)
        self.settings, self.work, self.check = settings or Settings(), work or Work(), check
        self.theta: Tensor | None = None
        self.coupled, self.coupling = True, ""
        self.probe = as_probe(data, device=self.computation.device, max_bytes=self.max_memory, dtype=dtype)
        self._bytes: dict[str, Bytes] = {}
        self._support: dict[str, bool] = {}
        self._cache: dict[str, np.ndarray] | None = None
        self._describe()
        chunk = self._first_chunk()
        attention, self.coupling = checks.first_evaluations(self.computation, self.probe, chunk)
        self.coupled = bool(self.coupling)
        if not self.coupled:
            self.probe = self.probe.merged()
        if attention:
            self._note("Attention was computed by the math backend: fused kernels have no second derivative.")
        if self.coupled:
            self._note(f"Batches are not cut, and weighted by their numbers of examples: {self.coupling}.")

    def _describe(self) -> None:
        self.examples = self.probe.examples
        self.size = sum(self.computation.sizes)
        ends = np.cumsum([0, *self.computation.sizes]).tolist()
        self.blocks = {name: slice(a, b) for name, (a, b) in zip(self.computation.names, pairwise(ends), strict=True)}
        self.epsilon = max(float(torch.finfo(dtype).eps) for dtype in self.computation.dtypes)

    def _first_chunk(self) -> int:
        """Examples in a first forward pass, before it is known what graphs cost: by the size of the data alone."""
        largest = max(self.probe.sizes)
        return max(1, min(largest, self.max_memory // (64 * max(1, next(self.probe.batches()).nbytes // largest))))

    def _note(self, text: str) -> None:
        if text not in self.settings.notes:
            self.settings.notes.append(text)

    def _view(self, **changes: Any) -> "TorchObjective":
        view = copy.copy(self)
        for name, value in changes.items():
            setattr(view, name, value)
        view._cache = None if view.theta is None else {}
        view._describe()
        return view

    def at(self, theta: Any) -> "TorchObjective":
        theta = self.asvector(theta)
        if theta.shape != (self.size,):
            raise UsageError(f"Weights are a vector of {self.size} entries; got shape {tuple(theta.shape)}.")
        return self._view(theta=theta.detach().clone())

    def subset(self, index: np.ndarray) -> "TorchObjective":
        probe = self.probe.take(np.asarray(index))
        return self._view(probe=probe, work=self.work.part(probe.examples / self.examples))

    def with_inputs(self, x: np.ndarray | Callable[[np.ndarray], np.ndarray]) -> "TorchObjective":
        whole = self.probe.take(np.arange(self.examples))
        given = [t for batch in whole.batches() for t in examples.real_inputs(batch)]
        if len(given) != 1:
            raise NotApplicable(f"Other inputs need inputs that are one array per example; there are {len(given)}.")
        host = given[0].cpu()
        wanted = x(host.numpy()) if callable(x) else x
        moved = torch.as_tensor(np.array(wanted), dtype=host.dtype)
        if not len(moved) or moved.shape[1:] != host.shape[1:]:
            raise ProbeError(f"Inputs of shape (m, *{tuple(host.shape[1:])}) are needed; got {tuple(moved.shape)}.")
        repeated = self.probe.take(np.arange(len(moved)) % self.examples)
        (batch,) = repeated.batches()
        original = examples.real_inputs(batch)[0]
        changed = batch.map(lambda t: moved.to(t.device) if t is original else t, batch.size)
        probe = Probe((batch.size,), repeated.device, (changed,), dtype=repeated.dtype)
        return self._view(probe=probe, work=self.work.part(len(moved) / self.examples))

    def cast(self, dtype: torch.dtype) -> "TorchObjective":
        """The same in another dtype: copies of the weights, and real data, are cast."""
        view = self._view(computation=self.computation.cast(dtype), probe=self.probe.cast(dtype), _bytes={})
        view.theta = None if self.theta is None else self.theta.to(dtype)
        return view

    def weights(self) -> Weights:
        """Copies of the model's tensors, at the weights of this objective."""
        return self.computation.weights(self.theta)

    def parameters(self) -> Tensor:
        leaves = self.weights().leaves
        return self.computation.flat(leaves, leaves)

    def asvector(self, host: Any) -> Tensor:
        return torch.as_tensor(host, dtype=self.computation.vector_dtype, device=self.computation.device)

    def asnumpy(self, vector: Any) -> np.ndarray:
        if not isinstance(vector, Tensor):
            return np.asarray(vector, dtype=np.float64)
        return vector.detach().to(device="cpu", dtype=torch.float64).numpy()

    def plan(self, kind: Kind) -> Plan:
        """How the data are cut for graphs of this kind."""
        if kind not in self._bytes:
            self._bytes[kind] = bytes_of_graph(kind, self._risk())
        return plan(self._bytes[kind], self.probe, float(self.max_memory), kind=kind, coupled=self.coupled)

    def _risk(self) -> Risk:
        return Risk(self.computation, self.probe, self.weights(), self.coupled)

    def limited(self, max_memory: int | None, examples: int) -> "TorchObjective":
        """The same within `max_memory`; by default what a training step on so many examples holds, at least 32 MiB."""
        if max_memory is None:
            step = self.plan("gradient").cost
            held = 3 * self.size * torch.finfo(self.computation.vector_dtype).bits // 8  # weights, gradients, momentum
            max_memory = max(LEAST, int(step.fixed + step.each * step.entries * examples) + held)
        return self._view(max_memory=max_memory, _plans={})

    def parts(self) -> Iterator[Batch]:
        """The data in parts whose graphs of a gradient fit in memory; to be read within `computation.running()`."""
        return pieces(self.probe.batches(), self.plan("gradient").size)

    def risk(self) -> float:
        self.work.add(forwards=1)
        weights, total, run = self.weights(), 0.0, self.computation
        with run.running(), torch.no_grad():
            for batch in self.parts():
                loss = run.loss(run.forward(weights.tensors, batch), batch)
                total += float(run.share(loss.double(), batch, self.examples))
        return total

    def gradient(self) -> Tensor:
        self.work.add(gradients=1)
        weights, total = self.weights(), None
        with self.computation.running():
            for batch in self.parts():
                graph = LossGraph(self.computation, weights, batch, self.examples)
                part = self.computation.flat(graph.gradient(), weights.leaves)
                total = part if total is None else total.add_(part)
        assert total is not None
        return total

    def hessian(self) -> SymmetricOperator:
        self._check_derivatives()
        return self._operator("hessian")

    def gauss_newton(self) -> SymmetricOperator:
        return self._operator("gauss-newton")

    def products(self, kind: Literal["hessian", "gauss-newton"]) -> Products:
        """Products at the present weights, which later changes of the model do not move."""
        return Products(BUILD[kind], self._risk(), self.plan(kind), self.work)

    def _operator(self, kind: Literal["hessian", "gauss-newton"]) -> SymmetricOperator:
        dtype, device, size = self.computation.vector_dtype, self.computation.device, self.size

        def allocate(count: int) -> Tensor:
            return torch.zeros((count, size), dtype=dtype, device=device)

        return SymmetricOperator(self.products(kind), self.size, self.epsilon, self.asvector, allocate)

    def _check_derivatives(self) -> None:
        if self.check is False or "checked" in self._support:
            return
        if self.check == "auto":
            with self.computation.running():
                batch = next(self.probe.batches())
                few = batch if self.coupled else batch[: checks.FEW]
                doubtful = checks.doubtful(self.computation, self.weights(), few)
            if not doubtful:
                self._support["checked"] = True
                return
        self._support["checked"] = True
        aside = self._view(work=Work())
        try:
            _, note = checks.finite_difference_check(aside, np.random.default_rng(0))
        except (RuntimeError, TypeError, ValueError) as error:
            note = f"Second derivatives were not checked: the model does not run in float64 ({str(error)[:200]})."
        if self.check is True and note.startswith("Do not trust"):
            raise ProbeError(note)
        self._note(note)

    def outputs(self) -> np.ndarray:
        if self._cache is not None and "outputs" in self._cache:
            return self._cache["outputs"]
        self.work.add(forwards=1)
        weights, run, rows = self.weights(), self.computation, []
        with run.running(), torch.no_grad():
            for batch in self.parts():
                found = run.outputs(run.forward(weights.tensors, batch))
                if len(found) != batch.size:
                    raise ProbeError(
                        f"Outputs must have one row per example; got shape {tuple(found.shape)} for {batch.size} "
                        "examples. Pass outputs=, a function that picks them from what the model returns."
                    )
                rows.append(self.asnumpy(found.reshape(batch.size, -1)))
        if len({row.shape[1] for row in rows}) > 1:
            raise NotApplicable("Outputs of different batches differ in size (padding to their own lengths?).")
        outputs = np.concatenate(rows)
        if self._cache is not None:
            self._cache["outputs"] = outputs
        return outputs

    def targets(self) -> np.ndarray:
        answers = [batch.answers for batch in self.probe.batches()]
        told = [t.float() if t.dtype == torch.bfloat16 else t for t in answers if t is not None]
        if len(told) != len(answers):
            raise NotApplicable("The probe data have no tensor of targets (in a mapping: an entry named 'labels').")
        if len({t.shape[1:] for t in told}) > 1:
            raise NotApplicable("Targets of different batches differ in size (padding to their own lengths?).")
        return np.concatenate([t.cpu().numpy() for t in told])

    def labels(self) -> np.ndarray:
        targets = self.targets()
        targets = targets[:, 0] if targets.ndim == 2 and targets.shape[1] == 1 else targets
        return class_numbers(targets, self.outputs().shape[1])

    def _require_single_examples(self, what: str) -> None:
        if self.coupled:
            raise checks.coupled_only(what, self.coupling)

    def per_example_gradients(self, of: Literal["loss", "margin"] = "loss") -> Iterator[Tensor]:
        self._require_single_examples("Gradients of single examples")
        self.work.add(gradients=1)
        labels = self.labels() if of == "margin" else None
        row = self.size * torch.finfo(self.computation.vector_dtype).bits // 8
        rows = max(1, self.max_memory // (4 * row))  # the gradients by parameter, the rows joined from them, and room
        chunk = min(rows, self.plan("gradient").size or rows)
        yield from examples.per_example_gradients(
            self.computation, self.probe, self.weights, labels=labels, chunk=chunk, support=self._support
        )

    def input_jacobian_squares(self, directions: int | None, rng: np.random.Generator) -> np.ndarray:
        self._require_single_examples("Derivatives by the inputs")

        count = directions or 0
        drawn = None if directions is None else lambda n, k: rng.choice([-1.0, 1.0], size=(n, count, k))
        weights, rows = self.weights(), []
        with self.computation.running():
            for batch in self.parts():
                rows.append(examples.jacobian_squares(self.computation, weights, batch, drawn))
        self.work.add(gradients=1 if directions is None else directions)
        return np.concatenate(rows)

    def input_gradient_norms(self) -> np.ndarray:
        self._require_single_examples("Derivatives by the inputs")
        self.work.add(gradients=1)
        weights = self.weights()
        with self.computation.running():
            return np.concatenate([examples.gradient_norms(self.computation, weights, b) for b in self.parts()])

    def _uses(self, batch: Batch, weights: Weights) -> list[layer_hooks.Use]:
        with torch.no_grad(), layer_hooks.uses_seen(self.model) as uses:
            self.computation.forward(weights.tensors, batch)
        return uses

    def layers(self) -> list[Layer]:
        with self.computation.running():
            batch = next(self.probe.batches())
            uses = self._uses(batch if self.coupled else batch[:1], self.weights())
        unseen = layer_hooks.unseen_weights(self.model, uses)
        if unseen:
            self._note(f"Not among the layers, since no dense or convolutional module uses them: {', '.join(unseen)}.")
        return layer_hooks.as_layers(uses)

    def features(self) -> dict[str, np.ndarray]:
        self.work.add(forwards=1)
        weights = self.weights()
        with self.computation.running():
            batch = next(self.probe.batches())
            alone = None if self.coupled else self._uses(batch[:1], weights)
            runs = [(batch.size, self._uses(batch, weights)) for batch in self.parts()]
        return layer_hooks.as_features(runs, alone)

    def ntk(self) -> np.ndarray:
        from .ntk import empirical_ntk

        self._require_single_examples("The tangent kernel")
        return empirical_ntk(self)

    def jacobian_product(self, v: Tensor) -> np.ndarray:
        from .ntk import jacobian_product

        return jacobian_product(self, v)


def _require_options(mode: str, reduction: str, max_memory: int | None) -> None:
    if mode not in ("eval", "train"):
        raise UsageError(f"mode is 'eval' or 'train'; got {mode!r}.")
    if reduction not in ("mean", "sum"):
        raise UsageError(f"reduction says what loss_fn does over a batch, 'mean' or 'sum'; got {reduction!r}.")
    if max_memory is not None and max_memory <= 0:
        raise UsageError(f"max_memory is a number of bytes, more than none; got {max_memory}.")
