"""Probe data as a model takes them: tensors, mappings, lists of batches, loaders; kept, or read anew in each pass."""

import dataclasses
import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, RandomSampler, SubsetRandomSampler, WeightedRandomSampler

from ..errors import ProbeError
from .untouched import randomness_kept

LABELS = ("labels", "label", "targets", "target", "y")
SHUFFLING = (RandomSampler, SubsetRandomSampler, WeightedRandomSampler)


@dataclass(frozen=True)
class Batch:
    """Some examples. `content` is (inputs, ..., targets), or a mapping that the model takes as keywords.

    Tensors whose first axis has `size` entries are per example; anything else goes with every part of the batch.
    """

    content: Any
    size: int

    def map(self, change: Callable[[torch.Tensor], torch.Tensor], size: int) -> "Batch":
        """The batch with each per-example tensor changed."""
        return Batch(_map(self.content, lambda t: change(t) if t.ndim and len(t) == self.size else t), size)

    def tensors(self) -> list[torch.Tensor]:
        """The per-example tensors, in the order in which `map` visits them."""
        found: list[torch.Tensor] = []

        def see(t: torch.Tensor) -> torch.Tensor:
            found.append(t)
            return t

        self.map(see, self.size)
        return found

    def replaced(self, tensors: Sequence[torch.Tensor], size: int) -> "Batch":
        """The batch with other per-example tensors, in the order of `tensors()`."""
        rest = iter(tensors)
        return self.map(lambda _: next(rest), size)

    def __getitem__(self, index: Any) -> "Batch":
        """The examples of a slice or of a tensor of indices."""
        size = len(range(*index.indices(self.size))) if isinstance(index, slice) else len(index)
        return self.map(lambda t: t[index if isinstance(index, slice) else index.to(t.device)], size)

    @property
    def inputs(self) -> Any:
        """What the model is given: a tuple of positional arguments, or a mapping of keywords."""
        return self.content if isinstance(self.content, Mapping) else self.content[:-1]

    @property
    def targets(self) -> Any:
        """What the loss is given beside the outputs: the targets, or the whole mapping."""
        return self.content if isinstance(self.content, Mapping) else self.content[-1]

    @property
    def answers(self) -> torch.Tensor | None:
        """The targets as a tensor, if there is one."""
        if isinstance(self.content, Mapping):
            return next(
                (self.content[name] for name in LABELS if isinstance(self.content.get(name), torch.Tensor)), None
            )
        return self.content[-1] if isinstance(self.content[-1], torch.Tensor) else None

    @property
    def nbytes(self) -> int:
        """Bytes of the per-example tensors."""
        return sum(t.numel() * t.element_size() for t in self.tensors())

    def to(self, device: torch.device, dtype: torch.dtype | None = None) -> "Batch":
        """On a device, without history; real tensors in `dtype`, if given."""

        def moved(t: torch.Tensor) -> torch.Tensor:
            t = t.clone() if t.is_inference() else t.detach()
            return t.to(device=device, dtype=dtype if dtype is not None and t.is_floating_point() else None)

        return Batch(_map(self.content, moved), self.size)


def _map(content: Any, change: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    if isinstance(content, torch.Tensor):
        return change(content)
    if isinstance(content, Mapping):
        return {name: _map(value, change) for name, value in content.items()}
    if isinstance(content, tuple | list):
        return tuple(_map(value, change) for value in content)
    return content


def as_batch(content: Any) -> Batch:
    """A pair (inputs, targets), more inputs and then targets, or a mapping, as a batch; arrays become tensors."""
    content = _tensors(content)
    if not isinstance(content, Mapping) and not (isinstance(content, tuple) and len(content) >= 2):
        raise ProbeError(
            f"A batch of probe data is a pair (inputs, targets), or a mapping whose entries the model takes as "
            f"keywords; got {_described(content)}. For a model that is given no targets, pass the inputs twice."
        )
    found = [t for t in _leaves(content) if t.ndim]
    lengths = {len(t) for t in found}
    if not lengths or 0 in lengths:
        raise ProbeError(f"A batch of probe data has no examples: {_described(content)}. Leave empty batches out.")
    pair = not isinstance(content, Mapping) and isinstance(content[0], torch.Tensor) and content[0].ndim > 0
    size = len(content[0]) if pair else len(found[0])
    if lengths != {size}:
        raise ProbeError(
            f"The tensors of a batch differ in their numbers of examples (the first axis): {_described(content)}. "
            "Inputs and targets must be equally many, in the same order."
        )
    return Batch(content, size)


def _leaves(content: Any) -> list[torch.Tensor]:
    if isinstance(content, torch.Tensor):
        return [content]
    parts = list(content.values()) if isinstance(content, Mapping) else content
    return [t for part in parts for t in _leaves(part)] if isinstance(parts, list | tuple) else []


def _tensors(content: Any) -> Any:
    if isinstance(content, np.ndarray):
        return torch.as_tensor(content)
    if isinstance(content, Mapping):
        return {name: _tensors(value) for name, value in content.items()}
    return tuple(_tensors(value) for value in content) if isinstance(content, tuple | list) else content


def _described(content: Any) -> str:
    if isinstance(content, torch.Tensor):
        return f"a tensor of shape {tuple(content.shape)}"
    if isinstance(content, Mapping):
        return "a mapping of " + ", ".join(f"{name!r}: {_described(value)}" for name, value in content.items())
    if isinstance(content, tuple):
        return f"{len(content)} entries: " + ", ".join(_described(value) for value in content)
    return f"a {type(content).__name__}"


@dataclass(frozen=True)
class Probe:
    """Probe data: `kept` batches, or a `loader` that is read anew in every pass."""

    sizes: tuple[int, ...]
    device: torch.device
    kept: tuple[Batch, ...] | None = None
    loader: Iterable[Any] | None = None
    dtype: torch.dtype | None = None

    @property
    def examples(self) -> int:
        """Number of examples."""
        return sum(self.sizes)

    def batches(self) -> Iterator[Batch]:
        """One pass, on the device; random numbers that a loader draws are given back."""
        if self.kept is not None:
            yield from (batch.to(self.device, self.dtype) for batch in self.kept)
            return
        assert self.loader is not None
        generators = _generators(self.loader)
        with randomness_kept(*generators):
            contents = iter(self.loader)
        for number, size in enumerate(self.sizes):
            with randomness_kept(*generators):
                batch = as_batch(next(contents, ()))
            if batch.size != size:
                raise ProbeError(
                    f"The loader gave {size} examples in its batch number {number} when it was read first, and "
                    f"{batch.size} now: it must give the same batches in every pass."
                )
            yield batch.to(self.device, self.dtype)

    def cast(self, dtype: torch.dtype) -> "Probe":
        """The same data with real numbers in another dtype."""
        return dataclasses.replace(self, dtype=dtype)

    def merged(self) -> "Probe":
        """Kept batches as one, where their shapes allow it."""
        if self.kept is None or len(self.kept) == 1:
            return self
        joined = _joined(self.kept)
        return self if joined is None else dataclasses.replace(self, sizes=(joined.size,), kept=(joined,))

    def take(self, index: np.ndarray) -> "Probe":
        """The examples of these numbers, in this order, kept in memory as few batches."""
        index = np.asarray(index)
        if index.ndim != 1 or not len(index) or not np.issubdtype(index.dtype, np.integer):
            raise ProbeError(f"A subset is given by example numbers, at least one; got {index!r}.")
        if index.min() < 0 or index.max() >= self.examples:
            raise ProbeError(f"Example numbers lie in 0 ... {self.examples - 1}; got {index.min()} ... {index.max()}.")
        starts = np.cumsum((0, *self.sizes))
        owner = np.searchsorted(starts, index, side="right") - 1
        breaks = [0, *(np.flatnonzero(np.diff(owner)) + 1).tolist(), len(index)]
        runs = list(pairwise(breaks))
        found: dict[int, Batch] = {}
        for number, batch in enumerate(self.batches() if self.kept is None else self.kept):
            for order, (a, b) in enumerate(runs):
                if owner[a] == number:
                    found[order] = batch[torch.as_tensor(index[a:b] - starts[number])]
        parts = tuple(found[order] for order in range(len(runs)))
        joined = _joined(parts)
        parts = parts if joined is None else (joined,)
        return dataclasses.replace(self, sizes=tuple(part.size for part in parts), kept=parts, loader=None)


def _joined(batches: Sequence[Batch]) -> Batch | None:
    """The batches as one, or `None` where they differ in more than their sizes."""
    parts = [batch.tensors() for batch in batches]
    alike = all([(t.shape[1:], t.dtype) for t in part] == [(t.shape[1:], t.dtype) for t in parts[0]] for part in parts)
    fixed = [_fixed(batch) for batch in batches]
    if not alike or any(one != fixed[0] for one in fixed):
        return None
    return batches[0].replaced([torch.cat(same) for same in zip(*parts, strict=True)], sum(b.size for b in batches))


def _fixed(batch: Batch) -> str:
    """What is not per example, as text."""
    return repr(_map(batch.content, lambda t: "per example" if t.ndim and len(t) == batch.size else t))  # type: ignore[arg-type, return-value]


def as_probe(data: Any, *, device: torch.device, max_bytes: int, dtype: torch.dtype | None = None) -> Probe:
    """Probe data from tensors `(x, y)`, a mapping, a list of batches, a dataset or a loader.

    A loader is read twice, and must give the same examples in the same order. It is kept in memory if it fits in
    `max_bytes`, and read anew in every pass otherwise. Raises `ProbeError` with the remedy.
    """
    if isinstance(data, Mapping) or _is_pair(data):
        batch = as_batch(data)
        return Probe((batch.size,), device, (batch.to(device),), dtype=dtype)
    if isinstance(data, list | tuple) and data:
        batches = tuple(as_batch(content).to(device) for content in data)
        return Probe(tuple(batch.size for batch in batches), device, batches, dtype=dtype)
    if isinstance(data, Dataset):
        data = DataLoader(data, batch_size=256)
    if not isinstance(data, Iterable) or isinstance(data, str | bytes | torch.Tensor | np.ndarray) or data == []:
        raise ProbeError(
            f"Probe data are tensors (x, y), a mapping, a list of such batches, or a DataLoader; got "
            f"{_described(data)}."
        )
    if isinstance(data, Iterator):
        raise ProbeError(
            f"The probe data are read in several passes, and a {type(data).__name__} can be read once: pass a list of "
            "its batches (list(...)), or the DataLoader itself."
        )
    return _read(data, Probe((), device, loader=data, dtype=dtype), max_bytes)


def _is_pair(data: Any) -> bool:
    return (
        isinstance(data, tuple | list)
        and len(data) >= 2
        and isinstance(data[-1], torch.Tensor | np.ndarray)
        and not any(isinstance(part, list) for part in data)
    )


def _read(loader: Iterable[Any], empty: Probe, max_bytes: int) -> Probe:
    """Read a loader twice, compare, and keep the batches that fit."""
    shuffling = next((s for s in _samplers(loader) if isinstance(s, SHUFFLING)), None)
    if shuffling is not None:
        raise ProbeError(
            f"The loader draws its examples in another order in every pass ({type(shuffling).__name__}, as with "
            "shuffle=True), so that no two measurements would be of the same batches. Probe with a loader of the same "
            "dataset with shuffle=False."
        )
    with randomness_kept(*_generators(loader)):
        kept: list[Batch] | None = []
        sizes, first, total = [], [], 0
        for content in loader:
            batch = as_batch(content)
            sizes.append(batch.size)
            first.append(_fingerprint(batch))
            total += batch.nbytes
            if kept is not None:
                kept.append(batch.to(empty.device))
            if total > max_bytes:
                kept = None
        second = [_fingerprint(as_batch(content)) for content in loader]
    if not sizes:
        raise ProbeError("The loader gives no batches: there is nothing to measure on. Is its dataset empty?")
    if first != second:
        raise ProbeError(_differs(loader, first, second))
    return dataclasses.replace(
        empty, sizes=tuple(sizes), kept=None if kept is None else tuple(kept), loader=loader if kept is None else None
    )


def _differs(loader: Iterable[Any], first: list[bytes], second: list[bytes]) -> str:
    dataset = getattr(loader, "dataset", None)
    name = type(dataset).__name__ if dataset is not None else type(loader).__name__
    where = next(
        (i for i, (a, b) in enumerate(zip(first, second, strict=False)) if a != b), min(len(first), len(second))
    )
    if sorted(first) == sorted(second):
        cause, remedy = "in another order", "Fix the order of its sampler (shuffle=False)."
    else:
        transforms = [
            n for n in ("transform", "transforms", "target_transform") if getattr(dataset, n, None) is not None
        ]
        named = f" (its {', '.join(transforms)})" if transforms else ""
        cause = "with other contents"
        remedy = (
            f"Is there a random augmentation{named}, or a sampler that shuffles? Probe without it: switch the random "
            "transform off, fix the order, or pass a list of batches drawn once."
        )
    return (
        f"The loader over {name} gave other data when it was read a second time: the batch number {where} came {cause}."
        f" Measurements must be of the same examples in every pass. {remedy}"
    )


def _fingerprint(batch: Batch) -> bytes:
    digest = hashlib.blake2b(digest_size=16)
    for tensor in batch.tensors():
        host = tensor.detach().cpu().contiguous()
        digest.update(repr((tuple(host.shape), host.dtype)).encode())
        digest.update(host.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.digest()


def _samplers(loader: Any) -> list[Any]:
    outer = getattr(loader, "batch_sampler", None)
    return [s for s in (getattr(loader, "sampler", None), outer, getattr(outer, "sampler", None)) if s is not None]


def _generators(loader: Any) -> list[torch.Generator]:
    held = [getattr(one, "generator", None) for one in (loader, *_samplers(loader))]
    return [g for number, g in enumerate(held) if isinstance(g, torch.Generator) and g not in held[:number]]
