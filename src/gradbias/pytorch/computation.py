"""A model and a loss as a function of flat weights and a batch; the model only ever sees copies of its tensors."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call

from ..errors import ProbeError
from .probe import Batch
from .untouched import evaluating


@dataclass(frozen=True)
class Weights:
    """Copies of a model's tensors: `leaves` are the trainable ones in the order of a vector, `tensors` all by name."""

    leaves: tuple[Tensor, ...]
    tensors: dict[str, Tensor]


@dataclass(frozen=True)
class Computation:
    r"""$\theta \mapsto f(\theta, x)$ and $\ell$ over a batch, in one mode and, if given, one dtype.

    `fixed` holds values for the tensors that are not trainable, by name; by default they are the model's.
    """

    model: nn.Module
    loss_fn: Callable[..., Any] | None
    pick: Callable[[Any], Tensor] | None
    reduction: Literal["mean", "sum"]
    mode: Literal["eval", "train"]
    dtype: torch.dtype | None = None
    fixed: Mapping[str, Tensor] | None = dataclasses.field(default=None, compare=False)
    """Values of buffers and frozen parameters, where they are not to be the model's present ones."""

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The trainable parameters, each once, in the order of `model.named_parameters()`."""
        return tuple(name for name, p in self.model.named_parameters() if p.requires_grad)

    @cached_property
    def shapes(self) -> tuple[torch.Size, ...]:
        """Their shapes."""
        held = dict(self.model.named_parameters())
        return tuple(held[name].shape for name in self.names)

    @cached_property
    def sizes(self) -> list[int]:
        """Their numbers of entries."""
        return [shape.numel() for shape in self.shapes]

    @cached_property
    def dtypes(self) -> tuple[torch.dtype, ...]:
        """The dtypes in which they are computed with."""
        held = dict(self.model.named_parameters())
        return tuple(self.dtype or held[name].dtype for name in self.names)

    @cached_property
    def vector_dtype(self) -> torch.dtype:
        """The widest of those dtypes, and float32 at least: sums of many bfloat16 numbers would lose all digits."""
        widest = torch.float32 if self.dtype is None else self.dtype
        for dtype in self.dtypes:
            widest = torch.promote_types(widest, dtype)
        return widest

    @cached_property
    def device(self) -> torch.device:
        """Where the model is."""
        return next(self.model.parameters()).device

    @cached_property
    def uniform(self) -> bool:
        """Whether parts of a vector need no cast."""
        return set(self.dtypes) == {self.vector_dtype}

    def cast(self, dtype: torch.dtype) -> "Computation":
        """The same in another dtype."""
        return dataclasses.replace(self, dtype=dtype)

    def running(self) -> AbstractContextManager[None]:
        """The context in which the model is called."""
        return evaluating(self.model, self.mode, self.device)

    def weights(self, theta: Tensor | None = None) -> Weights:
        """Copies of the model's tensors, the trainable ones at `theta` if given."""
        with torch.inference_mode(False):
            return self._copied(theta)

    def _copied(self, theta: Tensor | None) -> Weights:
        leaves = {}
        parts = [None] * len(self.names) if theta is None else self.split(theta)
        held = dict(self.model.named_parameters())
        for name, part in zip(self.names, parts, strict=True):
            value = held[name] if part is None else part
            leaves[name] = value.detach().to(self._dtype_of(held[name]), copy=True).requires_grad_()
        fixed = {name: t for name, t in (*held.items(), *self.model.named_buffers()) if name not in leaves}
        fixed |= {name: t for name, t in (self.fixed or {}).items() if name in fixed}
        copies = {name: t.detach().to(self._dtype_of(t), copy=True) for name, t in fixed.items()}
        return Weights(tuple(leaves.values()), {**leaves, **copies})

    def _dtype_of(self, tensor: Tensor) -> torch.dtype:
        return self.dtype if self.dtype is not None and tensor.is_floating_point() else tensor.dtype

    def split(self, vector: Tensor) -> list[Tensor]:
        """A vector in parts of the shapes and dtypes of the parameters; views where possible."""
        parts = [part.view(shape) for part, shape in zip(vector.split(self.sizes), self.shapes, strict=True)]
        return parts if self.uniform else [part.to(d) for part, d in zip(parts, self.dtypes, strict=True)]

    def flat(self, parts: Sequence[Tensor | None], like: Sequence[Tensor]) -> Tensor:
        """Parts as a vector; zeros for what is missing."""
        rows = [
            torch.zeros(leaf.numel(), dtype=self.vector_dtype, device=leaf.device)
            if part is None
            else part.detach().reshape(-1).to(self.vector_dtype)
            for part, leaf in zip(parts, like, strict=True)
        ]
        return torch.cat(rows)

    def forward(self, tensors: Mapping[str, Tensor], batch: Batch) -> Any:
        """What the model returns."""
        inputs: Any = batch.inputs
        if not isinstance(inputs, Mapping) and len(inputs) == 1 and isinstance(inputs[0], Mapping | tuple):
            inputs = inputs[0]  # a pair ((a, b), y) or ({"a": a}, y)
        positional, keywords = ((), dict(inputs)) if isinstance(inputs, Mapping) else (tuple(inputs), {})
        return functional_call(self.model, dict(tensors), positional, keywords)

    def loss(self, returned: Any, batch: Batch) -> Tensor:
        """The loss of a batch, as the loss function gives it."""
        if self.loss_fn is not None:
            return _scalar(self.loss_fn(returned, batch.targets), batch)
        loss = returned.get("loss") if isinstance(returned, Mapping) else getattr(returned, "loss", None)
        if loss is None:
            raise ProbeError(
                f"Without a loss function the model's own loss is taken, and what this model returns "
                f"({_kind(returned)}) has none. Pass loss_fn(outputs, targets), or give the labels in the batch."
            )
        return _scalar(loss, batch)

    def share(self, loss: Tensor, batch: Batch, examples: int) -> Tensor:
        """What a batch adds to the mean loss over `examples`."""
        return loss * (batch.size / examples if self.reduction == "mean" else 1.0 / examples)

    def outputs(self, returned: Any) -> Tensor:
        """The outputs in what the model returns."""
        found: Any
        if self.pick is not None:
            found = self.pick(returned)
        elif isinstance(returned, Mapping):
            found = returned.get("logits", next((v for k, v in returned.items() if k != "loss" and _is_real(v)), None))
        elif isinstance(returned, tuple | list):
            found = next((v for v in returned if _is_real(v)), None)
        else:
            found = getattr(returned, "logits", returned)
        if not _is_real(found):
            raise ProbeError(
                f"The model returns {_kind(returned)}, in which no tensor of outputs was found. Name it with outputs=, "
                "a function that picks the tensor, as in outputs=lambda returned: returned['scores']."
            )
        return found


def _is_real(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point() and value.ndim > 0


def _kind(value: Any) -> str:
    if isinstance(value, Mapping):
        return f"a {type(value).__name__} with {', '.join(map(repr, value)) or 'no entries'}"
    return f"a {type(value).__name__}"


def _scalar(loss: Any, batch: Batch) -> Tensor:
    if not isinstance(loss, Tensor):
        raise ProbeError(
            f"The loss must be a tensor that depends on the parameters; got a {type(loss).__name__}. Return the tensor "
            "itself, without .item() or float()."
        )
    if loss.ndim:
        raise ProbeError(
            f"The loss of a batch must be one number, the mean over its examples; got shape {tuple(loss.shape)} for "
            f"{batch.size} examples. Use reduction='mean' in the loss function, or end it with .mean()."
        )
    return loss


def pieces(batches: Iterator[Batch], size: int | None) -> Iterator[Batch]:
    """Batches in parts of at most `size` examples."""
    for batch in batches:
        step = batch.size if size is None else size
        for start in range(0, batch.size, step):
            yield batch if step >= batch.size else batch[start : start + step]
