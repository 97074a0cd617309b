"""Spectral density by stochastic Lanczos quadrature, 100 steps, 22,210 parameters, n = 1000, one thread."""

import time

import peers
import torch
import workloads

import gradbias.pytorch as gbt

STEPS = 100


def ours(model, x, y, probes: int):
    asked = {"spectrum": {"steps": STEPS, "probes": probes}}
    return gbt.measure(model, peers.LOSS, (x, y), asked)["spectrum"].cost.products


def rows(repeats: int = 3) -> list[dict]:
    """Equal numbers of random probes have equal Monte Carlo errors."""
    model, x, y = workloads.mlp(1000, (196, 100, 25, 10))
    workloads.train(model, x, y, steps=30, rate=0.1)
    told = []
    for probes in (2, 6):
        calls = {
            "gradbias spectrum": lambda probes=probes: ours(model, x, y, probes),
            "PyHessian density": lambda probes=probes: peers.pyhessian_density(model, x, y, STEPS, probes),
            "hessian-eigenthings": lambda probes=probes: peers.eigenthings_density(model, x, y, STEPS, probes),
        }
        first = None
        for name, call in calls.items():
            taken = []
            for _ in range(repeats):
                start = time.process_time()
                products = call()
                taken.append(time.process_time() - start)
            seconds = sorted(taken)[repeats // 2]
            first = first or seconds
            row = {"call": name, "probes": probes, "seconds": seconds, "products": products}
            row["error bars"] = "yes" if "gradbias" in name else "no"
            told.append(row | {"gradbias / this": first / seconds, "goal": "< 1" if "PyHessian" in name else ""})
    return told


if __name__ == "__main__":
    from run import main

    torch.set_num_threads(1)
    main({"density": rows}, __doc__)
