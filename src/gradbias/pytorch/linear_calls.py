"""The calls of a forward pass that are linear in parameters, seen as they are made.

The functions are watched, not the modules: so tied weights, modules used twice and functional code are all seen.
"""

import math
import types
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.graph import GradientEdge, get_gradient_edge
from torch.overrides import TorchFunctionMode

Role = Literal["weight", "bias"]


@dataclass(frozen=True)
class Call:
    """A call whose result is linear in parameters: what it was given, and where autograd meets its result.

    outer: `weight[r, c]` multiplies input c and adds to result r. transposed: `weight[r, c]` multiplies input r and
    adds to result c. scaled: `weight[c]` multiplies input c. `bias` adds to the result.
    """

    form: Literal["outer", "transposed", "scaled"]
    edge: GradientEdge
    entries: int
    weight: Tensor | None
    bias: Tensor | None
    given: Callable[[], Tensor]  # (*lead, groups, d)
    rows: Callable[[Tensor], Tensor]  # a gradient in the result's shape, as (*lead, m)
    groups: int = 1
    picked: Tensor | None = None  # the rows of the weight that the columns of the input stand for; all if None

    def uses(self, numbers: dict[int, int]) -> list[tuple[int, Role]]:
        """The parameters among those numbered, with what they are here."""
        both: tuple[tuple[Tensor | None, Role], ...] = ((self.weight, "weight"), (self.bias, "bias"))
        return [(numbers[id(t)], role) for t, role in both if t is not None and id(t) in numbers]


def _last(z: Tensor) -> Tensor:
    return z


def _channels_last(z: Tensor) -> Tensor:
    return z.flatten(2).movedim(1, -1) if z.dim() > 2 else z


def _linear(edge: GradientEdge, out: Tensor, input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Call:
    return Call("outer", edge, out.numel(), weight, bias, lambda: input.detach().unsqueeze(-2), _last)


def _matmul(edge: GradientEdge, out: Tensor, input: Tensor, other: Tensor, **_: Any) -> Call | None:
    if other.dim() != 2 or input.dim() < 2:
        return None
    return Call("transposed", edge, out.numel(), other, None, lambda: input.detach().unsqueeze(-2), _last)


def _addmm(
    edge: GradientEdge, out: Tensor, input: Tensor, mat1: Tensor, mat2: Tensor, *, beta: Any = 1, alpha: Any = 1
) -> Call | None:
    if (beta, alpha) != (1, 1):
        return None
    bias = input if input.dim() == 1 else None
    return Call("transposed", edge, out.numel(), mat2, bias, lambda: mat1.detach().unsqueeze(-2), _last)


def _convolution(
    edge: GradientEdge,
    out: Tensor,
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Call | None:
    if input.dim() != weight.dim():
        return None

    def given() -> Tensor:
        return _patches(input.detach(), weight.shape[2:], (stride, padding, dilation), groups)

    return Call("outer", edge, out.numel(), weight, bias, given, _channels_last, groups)


def _patches(x: Tensor, kernel: Sequence[int], how: tuple[Any, Any, Any], groups: int) -> Tensor:
    """What each position of a convolution is given, shape (n, positions, groups, d)."""
    axes = len(kernel)
    stride, padding, dilation = ((v,) * axes if isinstance(v, int) else v for v in how)
    if padding == "valid":
        padding = (0,) * axes
    margins = []
    for axis in reversed(range(axes)):
        total = dilation[axis] * (kernel[axis] - 1)
        margins += [total // 2, total - total // 2] if padding == "same" else [padding[axis]] * 2
    x = F.pad(x, margins)
    for axis in range(axes):
        reach = dilation[axis] * (kernel[axis] - 1) + 1
        x = x.unfold(2 + axis, reach, stride[axis])[..., :: dilation[axis]]
    n, channels = x.shape[:2]
    x = x.reshape(n, groups, channels // groups, math.prod(x.shape[2 : 2 + axes]), -1)
    return x.permute(0, 3, 1, 2, 4).flatten(3)


def _embedding(
    edge: GradientEdge, out: Tensor, input: Tensor, weight: Tensor, padding_idx: int | None = None, *_: Any, **__: Any
) -> Call:
    tokens = input.unique()
    if padding_idx is not None:
        tokens = tokens[tokens != padding_idx % len(weight)]

    def given() -> Tensor:
        return (input[..., None] == tokens).to(weight.dtype).unsqueeze(-2)

    return Call("transposed", edge, out.numel(), weight, None, given, _last, picked=tokens)


def _layer_norm(
    edge: GradientEdge,
    out: Tensor,
    input: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Call:
    def rows(z: Tensor) -> Tensor:
        return z.flatten(-len(normalized_shape))

    def given() -> Tensor:
        return rows(F.layer_norm(input.detach(), normalized_shape, eps=eps)).unsqueeze(-2)

    return Call("scaled", edge, out.numel(), weight, bias, given, rows)


def _rms_norm(
    edge: GradientEdge,
    out: Tensor,
    input: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    eps: float | None = None,
) -> Call:
    def rows(z: Tensor) -> Tensor:
        return z.flatten(-len(normalized_shape))

    def given() -> Tensor:
        return rows(F.rms_norm(input.detach(), list(normalized_shape), eps=eps)).unsqueeze(-2)

    return Call("scaled", edge, out.numel(), weight, None, given, rows)


def _group_norm(
    edge: GradientEdge,
    out: Tensor,
    input: Tensor,
    num_groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Call:
    def given() -> Tensor:
        return _channels_last(F.group_norm(input.detach(), num_groups, eps=eps)).unsqueeze(-2)

    return Call("scaled", edge, out.numel(), weight, bias, given, _channels_last)


def _batch_norm(
    edge: GradientEdge,
    out: Tensor,
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Call | None:
    if training or running_mean is None or running_var is None:
        return None
    mean, variance = running_mean.clone(), running_var.clone()

    def given() -> Tensor:
        return _channels_last(F.batch_norm(input.detach(), mean, variance, eps=eps)).unsqueeze(-2)

    return Call("scaled", edge, out.numel(), weight, bias, given, _channels_last)


_KNOWN: dict[Any, Callable[..., Call | None]] = {
    F.linear: _linear,
    torch.matmul: _matmul,
    Tensor.matmul: _matmul,
    Tensor.__matmul__: _matmul,
    torch.mm: _matmul,
    torch.addmm: _addmm,
    F.conv1d: _convolution,
    F.conv2d: _convolution,
    F.conv3d: _convolution,
    F.embedding: _embedding,
    F.layer_norm: _layer_norm,
    F.rms_norm: _rms_norm,
    F.group_norm: _group_norm,
    F.batch_norm: _batch_norm,
}


# This function of torch is written in Python, and hands itself over to a mode instead of the calls it is made of. Its
# code, run with a test that finds no mode to hand over to, makes those calls.
_attention = types.FunctionType(
    F.multi_head_attention_forward.__code__,
    {**vars(F), "has_torch_function": lambda _: False},
    argdefs=F.multi_head_attention_forward.__defaults__,
)


class Recorder(TorchFunctionMode):
    """Notes the calls that are given one of the parameters."""

    def __init__(self, numbers: dict[int, int]) -> None:
        TorchFunctionMode.__init__(self)
        self.numbers = numbers
        self.calls: list[Call] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is F.multi_head_attention_forward:
            with self:
                return _attention(*args, **kwargs)
        out = func(*args, **kwargs)
        if func in _KNOWN and isinstance(out, Tensor) and out.requires_grad:
            call = _KNOWN[func](get_gradient_edge(out), out, *args, **kwargs)
            if call is not None and call.uses(self.numbers):
                self.calls.append(call)
        return out
