"""Every comparison with a peer, in one run: `python benchmarks/peers/run.py [--json]`."""

import json
import os
import platform
import sys
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parents[1]))

PEERS = ("torch", "curvlinops-for-pytorch", "PyHessian", "hessian-eigenthings", "nngeometry", "scipy")


def versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in PEERS:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def main(parts: dict[str, Callable[[], list[dict]]], description: str | None) -> None:
    from table import arguments, show

    options = arguments(description or "")
    told = {}
    for name, rows in parts.items():
        told[name] = rows()
        if not options.json:
            print(f"\n### {name}\n")
            show(told[name], as_json=False)
    if options.json:
        print(json.dumps({"versions": versions(), **told}))
    else:
        print("\n" + ", ".join(f"{name} {number}" for name, number in versions().items()))


if __name__ == "__main__":
    import torch

    torch.set_num_threads(1)
    import density
    import eigenvalues
    import kernel
    import monitor
    import tracking

    modules = (eigenvalues, tracking, density, kernel, monitor)
    main({module.__name__: module.rows for module in modules}, __doc__)
