"""The empirical tangent kernel of 200 examples and 10 outputs, 200 × 200 × 10 × 10, MLP 784-128-10, one thread."""

import time

import numpy as np
import peers
import torch
import workloads

from gradbias.pytorch.torch_objective import TorchObjective


def rows(repeats: int = 5) -> list[dict]:
    model, x, y = workloads.mlp(200)
    calls = {
        "gradbias": lambda: TorchObjective(model, peers.LOSS, (x, y)).ntk(),
        "nngeometry GramMatrix": lambda: peers.nngeometry_ntk(model, x, y),
        "torch.func tutorial recipe": lambda: peers.tutorial_ntk(model, x),
    }
    goals = {"nngeometry GramMatrix": 1 / 20, "torch.func tutorial recipe": 1 / 200}
    exact = peers.tutorial_ntk(model.double(), x.double())
    model.float()
    told, first = [], None
    for name, call in calls.items():
        taken = []
        for _ in range(1 if "tutorial" in name else repeats):
            start = time.process_time()
            kernel = call()
            taken.append(time.process_time() - start)
        seconds = sorted(taken)[len(taken) // 2]
        first = first or seconds
        error = float(np.max(np.abs(kernel - exact)) / np.max(np.abs(exact)))
        row = {"call": name, "seconds": seconds, "largest error / largest entry": error}
        told.append(row | {"gradbias / this": first / seconds, "goal": goals.get(name, "")})
    return told


if __name__ == "__main__":
    from run import main

    torch.set_num_threads(1)
    main({"kernel": rows}, __doc__)
