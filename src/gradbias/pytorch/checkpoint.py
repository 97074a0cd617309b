"""Weights from a file into a model: all of them or none, and no code from the file unless it is trusted."""

import pickle
import pickletools
import re
import warnings
import zipfile
from collections import deque
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from ..errors import ProbeError

NESTED = ("state_dict", "model_state_dict", "model", "module", "net", "network", "weights")  # where weights are kept
PREFIXES = ("", "module.", "model.", "_orig_mod.", "model.module.", "module.model.", "model._orig_mod.", "net.")
TOLD = 3  # names of each kind in an error


def load_checkpoint(model: nn.Module, path: str | Path, *, trust_pickle: bool = False, key: str | None = None) -> str:
    """Load the weights in a safetensors or torch file into the model, and say in a line what was taken from where.

    Weights inside a training checkpoint (under `state_dict`, `model`, ... or `key`, dotted if nested) and names with a
    prefix (DDP, Lightning, torch.compile) are recognised. A tied weight may be there under one of its names.

    Raises `ProbeError` if the file is missing, broken or no checkpoint, if it can only be read by running code from it
    (unless `trust_pickle`), and if names or shapes differ from the model's; the model is then as it was.
    """
    path = Path(path)
    content = _read(path, trust_pickle)
    if isinstance(content, nn.Module):
        content = content.state_dict()
    if not isinstance(content, Mapping):
        raise ProbeError(f"{path} holds a {type(content).__name__}, not a state dict. Save model.state_dict() instead.")
    told, found = _chosen(path, content, model, key)
    _require_fit(path, model, found)
    _write(path, model, found)
    return told


def _read(path: Path, trust_pickle: bool) -> Any:
    if path.is_dir():
        raise ProbeError(f"{path} is a directory; name the file with the weights in it (*.safetensors, *.pt, *.ckpt).")
    if path.suffix == ".json":
        raise ProbeError(f"{path} is an index of shards. Load them in your own code, and save one state dict.")
    try:
        with path.open("rb") as file:
            head = file.read(9)
    except OSError as error:
        raise ProbeError(f"The checkpoint {path} cannot be read: {error.strerror}. Check the path.") from error
    try:
        if path.suffix == ".safetensors" or head[8:] == b"{":
            return load_file(path)
        if not head.startswith((b"PK", b"\x80")):
            raise ValueError("it is empty" if not head else f"it begins with {head!r}")
        return _torch_file(path, trust_pickle)
    except ProbeError:
        raise
    except Exception as error:  # there is no telling what a broken pickle raises
        raise ProbeError(
            f"{path} ({path.stat().st_size} bytes) is no whole checkpoint: {_short(error)}. It must be a safetensors "
            "file, or one of torch.save; was it cut off while it was copied or saved?"
        ) from error


def _torch_file(path: Path, trust_pickle: bool) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of TorchScript and of old storages; what matters is raised
        try:
            return torch.load(path, map_location="cpu", weights_only=not trust_pickle)
        except pickle.UnpicklingError as error:
            _require_whole(path)
            if trust_pickle:
                raise
            named = re.search(r"GLOBAL ([\w.]+)", str(error))
            what = f" ({named[1]})" if named else ""
            raise ProbeError(
                f"{path} holds more than tensors{what}, and to read it would run code from the file. If you trust "
                "where it comes from, pass --trust-pickle (trust_pickle=True); otherwise save the weights alone, with "
                "safetensors or torch.save(model.state_dict(), ...)."
            ) from error


def _require_whole(path: Path) -> None:
    """Raise `ValueError` for a pickle that is broken or was cut off: it is read here, not run."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            for name in archive.namelist():
                if name.endswith("data.pkl"):
                    deque(pickletools.genops(archive.read(name)), maxlen=0)
        return
    with path.open("rb") as file:
        for _ in range(5):  # an old file of torch begins with as many
            if file.peek(1):
                deque(pickletools.genops(file), maxlen=0)


def _short(error: Exception) -> str:
    """The first sentence of an error, or its kind."""
    return re.split(r"\.\s|\n", str(error))[0].strip().rstrip(".") or type(error).__name__


def _nested(content: Mapping[Any, Any], where: str = "", depth: int = 3) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The mappings of names to tensors in a file, by their place, those under the usual names first."""
    if (
        content
        and all(isinstance(name, str) for name in content)
        and any(isinstance(t, Tensor) for t in content.values())
    ):
        yield where, content
    inner = [name for name, value in content.items() if isinstance(name, str) and isinstance(value, Mapping)]
    for name in sorted(inner, key=lambda n: NESTED.index(n) if n in NESTED else len(NESTED)) if depth else []:
        yield from _nested(content[name], f"{where}.{name}".lstrip("."), depth - 1)


def _chosen(path: Path, content: Mapping[Any, Any], model: nn.Module, key: str | None) -> tuple[str, dict[str, Any]]:
    """The weights in a file that fit the model best, with a line on where they are."""
    if key is not None:
        inside: Any = content
        for part in key.split("."):
            if not isinstance(inside, Mapping) or part not in inside:
                has = ", ".join(map(str, inside)) if isinstance(inside, Mapping) else f"a {type(inside).__name__}"
                raise ProbeError(f"{path} has no entry {key!r}; where {part!r} was looked for there is: {has[:200]}.")
            inside = inside[part]
        content = inside if isinstance(inside, Mapping) else {}
    expected = set(model.state_dict())
    best: tuple[str, dict[str, Any]] | None = None
    for where, names in _nested(content, key or ""):
        for prefix in PREFIXES:
            found = {name.removeprefix(prefix): t for name, t in names.items() if name.startswith(prefix)}
            if best is None or len(expected & set(found)) > len(expected & set(best[1])):
                told = f"{len(found)} tensors from {path.name}" + (f", under {where!r}" if where else "")
                outside = f", {len(names) - len(found)} others left out" if len(found) < len(names) else ""
                best = told + (f", their prefix {prefix!r} taken off{outside}" if prefix else ""), found
    if best is None:
        has = ", ".join(map(str, content)) or "nothing"
        raise ProbeError(
            f"{path} holds no state dict (a mapping of names to tensors); there is: {has[:200]}. Name the entry with "
            "key= (--key), or save model.state_dict()."
        )
    return best


def _require_fit(path: Path, model: nn.Module, found: Mapping[str, Any]) -> None:
    state = model.state_dict(keep_vars=True)
    present = {id(tensor) for name, tensor in state.items() if name in found}
    missing = [
        name
        for name, tensor in state.items()
        if name not in found and id(tensor) not in present and not name.endswith(".num_batches_tracked")
    ]
    unexpected = [name for name in found if name not in state]
    sizes = {name: (_shape(found[name]), _shape(tensor)) for name, tensor in state.items() if name in found}
    shapes = [f"{name} {there} for {here}" for name, (there, here) in sizes.items() if there != here]
    first: dict[int, str] = {}
    untied = [
        f"{name} and {first[id(tensor)]}"
        for name, tensor in state.items()
        if name in found
        and first.setdefault(id(tensor), name) != name
        and not torch.equal(found[name], found[first[id(tensor)]])
    ]
    wrong = (
        (missing, "missing in the file"),
        (unexpected, "not in the model"),
        (shapes, "of another shape"),
        (untied, "one tensor in the model but two in the file"),
    )
    told = [
        f"{len(names)} {what} ({', '.join(names[:TOLD])}{', ...' if len(names) > TOLD else ''})"
        for names, what in wrong
        if names
    ]
    if told:
        raise ProbeError(
            f"The weights in {path} are of another model: of its {len(state)} entries {'; '.join(told)}. Nothing was "
            "loaded. Build the model with the settings it was saved with, or choose other weights in the file "
            "with key= (--key)."
        )


def _shape(value: Any) -> tuple[int, ...] | str:
    return tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__


def _write(path: Path, model: nn.Module, found: Mapping[str, Any]) -> None:
    held = [t for t in model.state_dict().values() if isinstance(t, Tensor)]
    before = [t.clone() for t in held]
    try:
        model.load_state_dict(dict(found), strict=False)
    except Exception as error:
        for tensor, values in zip(held, before, strict=True):
            tensor.copy_(values)
        raise ProbeError(f"The model refused the weights in {path}: {_short(error)}. Nothing was loaded.") from error
