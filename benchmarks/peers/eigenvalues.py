"""The ten largest Hessian eigenvalues of one batch, at equal certified error, one thread, process CPU seconds."""

import time
from functools import partial

import numpy as np
import peers
import torch
import workloads

import gradbias.pytorch as gbt

K = 10


def ours(model, x, y, k: int, rtol: float):
    told = gbt.measure(model, peers.LOSS, (x, y), {"top_eigenvalues": {"k": k, "rtol": rtol}})["top_eigenvalues"]
    return told.value, told.cost.products, told.bound


CALLS = {
    "gradbias, rtol 1e-4": partial(ours, rtol=1e-4),
    "gradbias, rtol 1e-6": partial(ours, rtol=1e-6),
    "locuslab recipe (eigsh, default tol)": peers.locuslab,
    "locuslab recipe (eigsh, tol 1e-3)": partial(peers.locuslab, tol=1e-3),
    "curvlinops + eigsh (default tol)": peers.curvlinops,
    "curvlinops + eigsh (tol 1e-3)": partial(peers.curvlinops, tol=1e-3),
    "PyHessian eigenvalues(top_n=10)": peers.pyhessian,
    "hessian-eigenthings lanczos(k=10)": peers.eigenthings,
    "hessian-eigenthings lanczos(max_iter=50)": partial(peers.eigenthings, max_iter=50),
}
GOALS = {
    "curvlinops + eigsh (default tol)": 0.35,
    "PyHessian eigenvalues(top_n=10)": 0.25,
    "locuslab recipe (eigsh, default tol)": 0.5,
}


def rows(repeats: int = 3) -> list[dict]:
    told = []
    for name, make, steps in (("MLP", workloads.mlp, 30), ("CNN", workloads.cnn, 100)):
        model, x, y = make()
        workloads.train(model, x, y, steps=steps, rate=0.1)
        exact = peers.reference(model, x, y, K)
        first = None
        for call, run in CALLS.items():
            taken = []
            for _ in range(repeats):
                start = time.process_time()
                values, products, *bound = run(model, x, y, K)
                taken.append(time.process_time() - start)
            seconds = sorted(taken)[repeats // 2]
            first = first or seconds
            error = np.abs(values - exact)
            row = {"model": name, "call": call, "seconds": seconds, "products": products}
            row["largest relative error"] = float(np.max(error / np.abs(exact)))
            row["within its bound"] = bool(np.all(error <= bound[0])) if bound else "none stated"
            row["gradbias / this"] = first / seconds
            row["goal"] = GOALS.get(call, "")
            told.append(row)
    return told


if __name__ == "__main__":
    from run import main

    torch.set_num_threads(1)
    main({"eigenvalues": rows}, __doc__)
