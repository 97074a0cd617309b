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
    "gradbias, rtol 1e-2": partial(ours, rtol=1e-2),
    "gradbias, rtol 1e-4": partial(ours, rtol=1e-4),
    "locuslab recipe (eigsh, default tol)": peers.locuslab,
    "locuslab recipe (eigsh, tol 1e-3)": partial(peers.locuslab, tol=1e-3),
    "curvlinops + eigsh (default tol)": peers.curvlinops,
    "curvlinops + eigsh (tol 1e-3)": partial(peers.curvlinops, tol=1e-3),
    "PyHessian eigenvalues(top_n=10)": peers.pyhessian,
    "PyHessian eigenvalues(top_n=10, tol=1e-6, maxIter=1000)": partial(peers.pyhessian, tol=1e-6, maxIter=1000),
    "hessian-eigenthings lanczos(k=10)": peers.eigenthings,
    "hessian-eigenthings lanczos(max_iter=50)": partial(peers.eigenthings, max_iter=50),
}
# What is within a per cent at best is compared with our call that certifies a per cent, all else with the finer one.
COARSE = {"PyHessian eigenvalues(top_n=10)", "hessian-eigenthings lanczos(k=10)"}
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
        known: dict[str, float] = {}
        for call, run in CALLS.items():
            taken = []
            for _ in range(1 if "1000" in call else repeats):
                start = time.process_time()
                values, products, *bound = run(model, x, y, K)
                taken.append(time.process_time() - start)
            seconds = known[call] = sorted(taken)[len(taken) // 2]
            here = (
                known[f"gradbias, rtol {'1e-2' if call in COARSE else '1e-4'}"] if "gradbias" not in call else seconds
            )
            error = np.abs(values - exact)
            row = {"model": name, "call": call, "seconds": seconds, "products": products}
            row["largest relative error"] = float(np.max(error / np.abs(exact)))
            row["within its bound"] = bool(np.all(error <= bound[0])) if bound else "none stated"
            row["gradbias / this"] = here / seconds
            row["goal"] = GOALS.get(call, "")
            told.append(row)
    return told


if __name__ == "__main__":
    from run import main

    torch.set_num_threads(1)
    main({"eigenvalues": rows}, __doc__)
