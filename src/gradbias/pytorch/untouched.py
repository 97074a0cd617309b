"""Contexts that leave a model, its optimizer, random numbers and torch's switches as they were, bit by bit."""

import random
from collections import OrderedDict, defaultdict, deque
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Literal

import numpy as np
import torch
import torch.utils.checkpoint
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

CONTAINERS = (dict, list, set, OrderedDict, defaultdict, deque)


@contextmanager
def untouched(model: nn.Module, optimizer: torch.optim.Optimizer | None = None) -> Iterator[None]:
    """Whatever the block does to them, the model, its gradients, the optimizer and the random numbers are as before.

    Kept are: the mode of every module, parameters, `.grad` (the object and its values), buffers, `requires_grad`,
    hooks, attributes of modules, the optimizer's state, the states of the random number generators of torch, NumPy and
    `random`, and torch's switches; also when the block raises. Costs two copies of the parameters and one of the
    optimizer's state.
    """
    tensors = [_kept_tensor(tensor) for tensor in (*model.parameters(), *model.buffers())]
    state = [] if optimizer is None else _optimizer_state(optimizer)
    try:
        with randomness_kept(), switches_kept(), attributes_kept(model):
            yield
    finally:
        with torch.inference_mode(False), torch.no_grad():
            for restore in (*tensors, *state):
                restore()


def _kept_tensor(tensor: torch.Tensor) -> Any:
    """A function that brings a tensor back: storage, values, `requires_grad`, `.grad` and its values, hooks."""
    storage, values, required = tensor.data, tensor.detach().clone(), tensor.requires_grad
    grad = tensor.grad if tensor.is_leaf else None
    grad_values = None if grad is None else grad.detach().clone()
    hooks, after = tensor._backward_hooks, getattr(tensor, "_post_accumulate_grad_hooks", None)
    copies = [(found, found.copy()) for found in (hooks, after) if isinstance(found, dict)]

    def restore() -> None:
        if tensor.data_ptr() != storage.data_ptr() or tensor.shape != storage.shape:
            tensor.data = storage
        tensor.data.copy_(values)  # through .data: the version that autograd graphs of the caller rely on is kept
        if tensor.is_leaf and tensor.requires_grad != required:
            tensor.requires_grad_(required)
        if tensor.is_leaf and tensor.grad is not grad:
            tensor.grad = grad
        if grad is not None and grad_values is not None:
            grad.data.copy_(grad_values)
        if tensor._backward_hooks is not hooks:
            tensor._backward_hooks = hooks
        for found, copy in copies:
            _refill(found, copy)

    return restore


def _optimizer_state(optimizer: torch.optim.Optimizer) -> list[Any]:
    listed = list(optimizer.param_groups)
    groups = [(group, dict(group), list(group["params"])) for group in listed]
    state = [(held, dict(held)) for held in optimizer.state.values()]
    owners = dict(optimizer.state)
    values = [(t, t.detach().clone()) for held, _ in state for t in held.values() if isinstance(t, torch.Tensor)]

    def restore() -> None:
        _refill(optimizer.state, owners)
        _refill(optimizer.param_groups, listed)
        for held, copy in state:
            _refill(held, copy)
        for tensor, value in values:
            tensor.data.copy_(value)
        for group, copy, parameters in groups:
            _refill(group, copy)
            _refill(group["params"], parameters)

    return [restore]


@contextmanager
def attributes_kept(model: nn.Module) -> Iterator[None]:
    """Attributes of every module: mode, hooks, caches, tensors on the side; not values of parameters and buffers."""
    kept = []
    for module in model.modules():
        own = module.__dict__
        containers = [(value, value.copy()) for value in own.values() if type(value) in CONTAINERS]
        plain = [(value, value.detach().clone()) for value in own.values() if isinstance(value, torch.Tensor)]
        kept.append((own, own.copy(), containers, plain))
    try:
        yield
    finally:
        for own, before, containers, plain in kept:
            _refill(own, before)
            for container, copy in containers:
                _refill(container, copy)
            for tensor, values in plain:
                tensor.data.copy_(values)


def _refill(container: Any, copy: Any) -> None:
    """Give a container its old contents; not written to where nothing changed."""
    if isinstance(container, dict):
        same = len(container) == len(copy) and all(
            a is b and container[a] is copy[b] for a, b in zip(container, copy, strict=True)
        )
        if not same:
            container.clear()
            container.update(copy)
    elif isinstance(container, set):
        container.clear()
        container.update(copy)
    elif len(container) != len(copy) or any(a is not b for a, b in zip(container, copy, strict=True)):
        container.clear()
        container.extend(copy)


@contextmanager
def randomness_kept(*generators: torch.Generator) -> Iterator[None]:
    """States of the generators of torch (also on accelerators), NumPy and `random`, and of those given."""
    given = [(generator, generator.get_state()) for generator in generators]
    cpu, legacy, python = torch.get_rng_state(), np.random.get_state(), random.getstate()  # noqa: NPY002
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() and torch.cuda.is_initialized() else None
    mps = torch.mps.get_rng_state() if torch.backends.mps.is_available() else None
    try:
        yield
    finally:
        for generator, state in given:
            generator.set_state(state)
        torch.set_rng_state(cpu)
        np.random.set_state(legacy)  # noqa: NPY002
        random.setstate(python)
        if cuda is not None:
            torch.cuda.set_rng_state_all(cuda)
        if mps is not None:
            torch.mps.set_rng_state(mps)


@contextmanager
def switches_kept() -> Iterator[None]:
    """Grad mode, autocast, default dtype, precision of products, fast path of attention, deterministic algorithms."""
    grad, dtype, precision = torch.is_grad_enabled(), torch.get_default_dtype(), torch.get_float32_matmul_precision()
    autocast = {device: torch.is_autocast_enabled(device) for device in ("cpu", "cuda")}
    fast, deterministic = torch.backends.mha.get_fastpath_enabled(), torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    try:
        yield
    finally:
        torch.set_grad_enabled(grad)
        if torch.get_default_dtype() != dtype:
            torch.set_default_dtype(dtype)
        if torch.get_float32_matmul_precision() != precision:
            torch.set_float32_matmul_precision(precision)
        for device, enabled in autocast.items():
            torch.set_autocast_enabled(device, enabled)
        torch.backends.mha.set_fastpath_enabled(fast)
        torch.use_deterministic_algorithms(deterministic, warn_only=warn_only)


@contextmanager
def differentiable(model: nn.Module, device: torch.device) -> Iterator[None]:
    """Twice differentiable arithmetic in the dtypes of the tensors, whatever the caller has switched on.

    Attention by the math backend, since fused kernels have no second derivative; no fast path of the transformer
    encoder; RNNs without cuDNN, for the same reason; no autocast and no shortened mantissas, since error bounds rest on
    the dtype; gradients recorded, also within the caller's `no_grad` or `inference_mode`.
    """
    fast, precision = torch.backends.mha.get_fastpath_enabled(), torch.get_float32_matmul_precision()
    recurrent = any(isinstance(module, nn.RNNBase) for module in model.modules())
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        if torch.is_autocast_enabled(device.type):
            stack.enter_context(torch.autocast(device.type, enabled=False))
        if recurrent or device.type == "cuda":
            stack.enter_context(torch.backends.cudnn.flags(enabled=not recurrent, allow_tf32=False))
        try:
            torch.backends.mha.set_fastpath_enabled(False)
            if precision != "highest":
                torch.set_float32_matmul_precision("highest")
            yield
        finally:
            torch.backends.mha.set_fastpath_enabled(fast)
            if precision != "highest":
                torch.set_float32_matmul_precision(precision)


class _Direct:
    """In the place of `torch.utils.checkpoint.CheckpointFunction`: calls the function."""

    @staticmethod
    def apply(function: Any, preserve: bool, *args: Any) -> Any:
        del preserve
        return function(*args)


def _nothing(*args: Any, **options: Any) -> Iterator[None]:
    """In the place of the generator around a checkpointed call: nothing before, nothing after."""
    yield


@contextmanager
def activations_kept() -> Iterator[None]:
    """No activation checkpoints: what is computed again in a backward pass would be so at the model's own weights.

    The model is run on copies of its weights, which are gone from it by then; no error would tell.
    """
    module, stand_ins = (
        torch.utils.checkpoint,
        {
            "CheckpointFunction": _Direct,
            "_checkpoint_without_reentrant_generator": _nothing,
        },
    )
    kept = {name: getattr(module, name) for name in stand_ins}
    try:
        for name, stand_in in stand_ins.items():
            setattr(module, name, stand_in)
        yield
    finally:
        for name, original in kept.items():
            setattr(module, name, original)


@contextmanager
def evaluating(model: nn.Module, mode: Literal["eval", "train"], device: torch.device) -> Iterator[None]:
    """Run the model in a mode: its attributes, the random numbers and the switches are as before afterwards.

    The values of parameters and buffers are not this context's concern: the model is run on copies of them.
    """
    with randomness_kept(), attributes_kept(model), differentiable(model, device), activations_kept():
        model.train(mode == "train")
        for module in model.modules():
            if module.__dict__.get("_compiled_call_impl") is not None:
                module._compiled_call_impl = None  # compiled code cannot be differentiated twice
        yield
