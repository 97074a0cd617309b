"""Layers and what they are given, seen by temporary hooks while the model runs."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import NotApplicable
from ..measures.objective import Layer

Kind = Literal["dense", "convolution", "embedding"]
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


@dataclass(frozen=True)
class Use:
    """One call of a layer in a forward pass."""

    name: str
    module: nn.Module
    given: Tensor
    weight: Tensor
    bias: Tensor | None


def kind_of(module: nn.Module) -> Kind | None:
    """What a module is as a layer; `None` if it has no weight matrix that multiplies its input."""
    if isinstance(module, nn.Linear):
        return "dense"
    if isinstance(module, CONVOLUTIONS + TRANSPOSED):
        return "convolution"
    if isinstance(module, nn.Embedding):
        return "embedding"
    # The dense layer of GPT-2 in transformers, whose weight has shape (in, out).
    return "dense" if type(module).__name__ == "Conv1D" and hasattr(module, "nf") else None


@contextmanager
def uses_seen(model: nn.Module) -> Iterator[list[Use]]:
    """A list to which every call of a layer is added; names are those of the weights, later calls are numbered."""
    seen: list[Use] = []
    names = {module: name for name, module in model.named_modules()}
    calls: dict[nn.Module, int] = {}

    def saw(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        given = next((a for a in (*args, *kwargs.values()) if isinstance(a, Tensor)), None)
        weight, bias = module.weight, getattr(module, "bias", None)
        if given is None or not isinstance(weight, Tensor):
            return
        calls[module] = calls.get(module, 0) + 1
        name = f"{names[module]}.weight" if names[module] else "weight"
        name = name if calls[module] == 1 else f"{name} (use {calls[module]})"
        seen.append(Use(name, module, given.detach(), weight, bias if isinstance(bias, Tensor) else None))

    handles = [m.register_forward_pre_hook(saw, with_kwargs=True) for m in names if kind_of(m) is not None]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def as_layers(uses: list[Use]) -> list[Layer]:
    """The layers used, in the order of the forward pass; a layer that is used twice stands there twice."""
    owners = [id(use.weight) for use in uses]
    layers = []
    for use, owner in zip(uses, owners, strict=True):
        kind = kind_of(use.module)
        assert kind is not None
        weight = _host(_oriented(use))
        bias = None if use.bias is None else _host(use.bias)
        layers.append(Layer(use.name, kind, weight, bias, shared=owners.count(owner) > 1))
    return layers


def _oriented(use: Use) -> Tensor:
    """The weight with shape (out, in / groups, ...)."""
    if isinstance(use.module, TRANSPOSED):
        groups = use.module.groups
        cut = use.weight.unflatten(0, (groups, -1)).transpose(1, 2)
        return cut.flatten(0, 1)
    if isinstance(use.module, (nn.Linear, nn.Embedding, *CONVOLUTIONS)):
        return use.weight
    return use.weight.T


def _host(tensor: Tensor) -> np.ndarray:
    return tensor.detach().to(device="cpu", dtype=torch.float64).numpy()


def unseen_weights(model: nn.Module, uses: list[Use]) -> list[str]:
    """Trainable matrices of other modules: recurrent, attention's projections, parameters used by hand."""
    covered = {id(p) for use in uses for p in use.module.parameters(recurse=True)}
    return [name for name, p in model.named_parameters() if p.requires_grad and p.ndim >= 2 and id(p) not in covered]


def as_features(runs: list[tuple[int, list[Use]]], alone: list[Use] | None) -> dict[str, np.ndarray]:
    """Inputs of the layers over runs of (examples, uses), flattened to (n, d) by layer.

    `alone` is a run of one example, if one can be run: an input whose first axis does not grow with the examples has
    no row per example.
    """
    told: dict[str, list[np.ndarray]] = {use.name: [] for use in (runs[0][1] if alone is None else alone)}
    for count, uses in runs:
        if [use.name for use in uses] != list(told):
            raise NotApplicable(
                "Features need the same layers for all examples; this model calls other layers for other data."
            )
        for number, use in enumerate(uses):
            told[use.name].append(_rows(use, count, None if alone is None else alone[number].given))
    if any(len({part.shape[1] for part in parts}) > 1 for parts in told.values()):
        raise NotApplicable("Features need inputs of equal size; these batches differ (padding to their own lengths?).")
    return {name: np.concatenate(parts) for name, parts in told.items()}


def _rows(use: Use, count: int, single: Tensor | None) -> np.ndarray:
    """The input of a layer with a row per example; what is the same for any number of examples is repeated."""
    given = use.given
    if single is not None and given.shape == single.shape and torch.equal(given, single):
        return np.tile(_host(given).reshape(1, -1), (count, 1))  # positions, say
    rows = len(given) if given.ndim else 0
    if not rows or rows % count or (single is not None and rows != count * len(single)):
        raise NotApplicable(
            f"Features need the examples on the first axis of every layer's input; that of {use.name} has shape "
            f"{tuple(given.shape)} for {count} examples. Use batch_first=True, where the model can."
        )
    return _host(given).reshape(count, -1)
