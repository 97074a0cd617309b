"""The training of all seeds of a setting: compiled once per shape, in groups of seeds that can be kept as they end."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Protocol, runtime_checkable

import jax
import numpy as np
import psutil
from jaxtyping import PyTree

from .claim import Measured
from .errors import TooLarge


@runtime_checkable
class Kept(Protocol):
    """Groups of seeds that are done, so that a run which is killed goes on from there."""

    def get(self, group: int) -> list[np.ndarray] | None:
        """The leaves of a group's result, or None if it has to be computed."""
        ...

    def put(self, group: int, leaves: Sequence[np.ndarray]) -> None:
        """Keep the leaves of a group's result."""
        ...


@dataclass
class Program:
    """A function of (data, keys, numbers) for all seeds at once, compiled at the first call with each shape.

    The numbers are the same for every seed, or (`numbers_by_lane`) as many as there are keys.
    """

    measured: Callable[..., Measured]
    constant: tuple[tuple[str, Any], ...]
    numbers_by_lane: bool = False
    _compiled: dict[Any, jax.stages.Compiled] = field(default_factory=dict)

    def __call__(self, *arguments: PyTree) -> Measured:
        """Run it; raises `TooLarge` before it starts if it needs more memory than is free."""
        leaves, structure = jax.tree.flatten(arguments)
        # Strictness is part of what is compiled: a program that was traced without it would pass unseen.
        strict = (jax.config.jax_numpy_rank_promotion, jax.config.jax_numpy_dtype_promotion)  # type: ignore[attr-defined]
        shape = (structure, tuple(map(jax.typeof, leaves)), strict)
        if shape not in self._compiled:
            lanes = jax.vmap(self._train, in_axes=(0, 0, 0 if self.numbers_by_lane else None))
            compiled = jax.jit(lanes).lower(*arguments).compile()
            _require_memory(compiled, seeds=len(arguments[1]))
            self._compiled[shape] = compiled
        return self._compiled[shape](*arguments)

    def _train(self, data: PyTree, key: PyTree, traced: dict[str, Any]) -> Measured:
        return self.measured(data, key, **traced, **dict(self.constant))


@lru_cache(maxsize=16)
def program(
    measured: Callable[..., Measured], constant: tuple[tuple[str, Any], ...], *, numbers_by_lane: bool = False
) -> Program:
    """The program of a claim's training: shared by settings that differ in data and numbers alone."""
    return Program(measured, constant, numbers_by_lane)


def _require_memory(compiled: jax.stages.Compiled, *, seeds: int) -> None:
    sizes = compiled.memory_analysis()
    if sizes is None or jax.default_backend() != "cpu":
        return
    needed = sizes.temp_size_in_bytes + sizes.argument_size_in_bytes + sizes.output_size_in_bytes
    free = psutil.virtual_memory().available
    if needed > free:
        raise TooLarge(
            f"Training {seeds} seeds at once needs about {needed / 1e9:.1f} GB of memory, and {free / 1e9:.1f} GB are "
            "free. Nothing was run. Try fewer seeds (`--seeds`), a smaller size, or fewer recorded points."
        )


def train(
    program: Program,
    data: Sequence[PyTree],
    keys: Sequence[Any],
    traced: dict[str, Any],
    *,
    groups: int = 1,
    kept: Kept | None = None,
) -> Measured:
    """All seeds, in groups of equally many (the last filled up with copies of its last seed), by one program.

    Leaves come back as NumPy arrays with the seeds first. Groups that are `kept` already are not computed again, and
    each new one is kept at once; only the last is not, since the record follows it.
    """
    size = -(-len(data) // groups)
    starts = range(0, len(data), size)
    done: list[Sequence[np.ndarray]] = []
    for group, start in enumerate(starts):
        last = group == len(starts) - 1
        known = kept.get(group) if kept is not None and not last else None
        if known is None:
            lanes = [min(lane, len(data) - 1) for lane in range(start, start + size)]
            stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *[data[lane] for lane in lanes])
            ended = program(stacked, jax.numpy.stack([keys[lane] for lane in lanes]), traced)
            leaves, structure = jax.tree.flatten(ended)
            known = [np.asarray(leaf) for leaf in leaves]
            if kept is not None and not last:
                kept.put(group, known)
        done.append(known)
    joined = [np.concatenate(leaf)[: len(data)] for leaf in zip(*done, strict=True)]
    return jax.tree.unflatten(structure, joined)


def train_settings(
    program: Program,
    data: Sequence[Sequence[PyTree]],
    keys: Sequence[Sequence[Any]],
    numbers: Sequence[dict[str, Any]],
    *,
    size: int,
) -> list[Measured]:
    """All seeds of several settings that differ in data and numbers alone, by one program with numbers by lane.

    There are always as many lanes as `size` settings have (the last one is copied), so that a setting's bits do not
    depend on how many others are left to be computed. Returns what `train` returns, setting by setting.
    """
    filled = [min(i, len(data) - 1) for i in range(size)]
    lanes = [(i, seed) for i in filled for seed in range(len(keys[i]))]
    stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *[data[i][seed] for i, seed in lanes])
    traced = {name: np.array([numbers[i][name] for i, _ in lanes]) for name in numbers[0]}
    ended = program(stacked, jax.numpy.stack([keys[i][seed] for i, seed in lanes]), traced)
    leaves, structure = jax.tree.flatten(ended)
    seeds = len(keys[0])
    ours = [np.asarray(leaf).reshape(size, seeds, *np.shape(leaf)[1:]) for leaf in leaves]
    return [jax.tree.unflatten(structure, [leaf[i] for leaf in ours]) for i in range(len(data))]
