"""Spectral density by stochastic Lanczos quadrature, 100 steps, 22,210 parameters, n = 1000, one thread."""

import time

import peers
import torch
import workloads

import gradbias.pytorch as gbt

STEPS = 100


def ours(model, x, y):
    return gbt.measure(model, peers.LOSS, (x, y), {"spectrum": {"steps": STEPS}})["spectrum"].cost.products


def rows(repeats: int = 3) -> list[dict]:
    model, x, y = workloads.mlp(1000, (196, 100, 25, 10))
    workloads.train(model, x, y, steps=30, rate=0.1)
    calls = {
        "gradbias": lambda: ours(model, x, y),
        "PyHessian density(iter=100, n_v=1)": lambda: peers.pyhessian_density(model, x, y, STEPS),
        "hessian-eigenthings spectral_density": lambda: peers.eigenthings_density(model, x, y, STEPS),
    }
    bars = {"gradbias": "yes"}
    told, first = [], None
    for name, call in calls.items():
        taken = []
        for _ in range(repeats):
            start = time.process_time()
            products = call()
            taken.append(time.process_time() - start)
        seconds = sorted(taken)[repeats // 2]
        first = first or seconds
        row = {"call": name, "seconds": seconds, "products": products, "error bars": bars.get(name, "no")}
        told.append(row | {"gradbias / this": first / seconds})
    return told


if __name__ == "__main__":
    from run import main

    torch.set_num_threads(1)
    main({"density": rows}, __doc__)
