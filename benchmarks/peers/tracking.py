"""Sharpness every ten steps of full-batch gradient descent, before and past 2/η: products per reading, error."""

import numpy as np
import peers
import torch
import workloads
from scipy.sparse.linalg import LinearOperator, eigsh, lobpcg
from torch import nn

from gradbias.measures.catalogue import asked_for, generator, take
from gradbias.pytorch.torch_objective import TorchObjective

EVERY, RTOL = 10, 1e-2


def loss(f: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Square loss, under which the sharpness rises to 2/η and stays there."""
    return ((f - y) ** 2).sum(dim=1).mean()


class Ours:
    def __init__(self, model, x, y):
        self.objective = TorchObjective(model, loss, (x, y))
        self.measure, self.options = asked_for({"sharpness": {"rtol": RTOL}})[0]
        self.state: dict = {}

    def read(self):
        rng = generator("sharpness", 0)
        told = take(self.measure, self.objective, self.options, rng=rng, state=self.state)
        return told.value, told.cost.products, told.bound


class Cold:
    """ARPACK from a random start at every reading."""

    def __init__(self, model, x, y):
        self.model, self.x, self.y = model, x, y

    def read(self):
        product = peers.rebuilt_product(self.model, self.x, self.y, loss)
        size = sum(p.numel() for p in self.model.parameters())
        operator = LinearOperator((size, size), matvec=product, dtype=np.float32)
        value = eigsh(operator, 1, which="LA", tol=1e-3, return_eigenvectors=False)[0]
        return value, product.calls, np.inf


class Lobpcg(Cold):
    """LOBPCG started from the eigenvectors of the last reading, one more than those above 1.5/η."""

    def __init__(self, model, x, y, rate: float):
        self.model, self.x, self.y, self.rate = model, x, y, rate
        self.vectors, self.value = None, None

    def read(self):
        product = peers.rebuilt_product(self.model, self.x, self.y, loss)
        size = sum(p.numel() for p in self.model.parameters())
        rng = np.random.default_rng(0)
        if self.vectors is None:
            self.vectors = rng.normal(size=(size, 1)).astype(np.float32)
        operator = LinearOperator((size, size), matvec=product, dtype=np.float32)
        # The tolerance is on the residual, which an eigenvalue's error is at most.
        tol = RTOL * (self.value or 1 / self.rate)
        values, vectors = lobpcg(operator, self.vectors, tol=tol, maxiter=100, largest=True)
        self.value = float(np.max(values))
        wanted = int(np.sum(values > 1.5 / self.rate)) + 1
        self.vectors = vectors
        if wanted > vectors.shape[1]:
            self.vectors = np.hstack([vectors, rng.normal(size=(size, 1)).astype(np.float32)])
        return self.value, product.calls, np.inf


def exact(model, x, y) -> float:
    return float(peers.reference(model, x, y, 1, loss)[0])


def run(rate: float, steps: int) -> list[dict]:
    model, x, y = workloads.mlp(500, (256, 64, 10))
    model, y = nn.Sequential(model[0], nn.Tanh(), model[2]), nn.functional.one_hot(y, 10).float()
    readers = {
        "gradbias": Ours(model, x, y),
        "eigsh, cold (tol 1e-3)": Cold(model, x, y),
        "LOBPCG, warm": Lobpcg(model, x, y, rate),
    }
    told: dict = {name: [] for name in readers}
    truth, optimizer = [], torch.optim.SGD(model.parameters(), lr=rate)
    for step in range(steps):
        if step % EVERY == 0:
            for name, reader in readers.items():
                told[name].append(reader.read())
            truth.append(exact(model, x, y))
        optimizer.zero_grad()
        loss(model(x), y).backward()
        optimizer.step()
    past = np.array(truth) > 2 / rate
    since = int(np.argmax(past)) if past.any() else len(past)
    rows = []
    for phase, part in (("before 2/η", slice(1, since)), ("from 2/η on", slice(since, None))):
        for name, values in told.items():
            value, products, bound = np.array(values)[part].T
            if len(value):
                off = np.abs(value - np.array(truth)[part])
                error = off / np.array(truth)[part]
                outside = int(np.sum(off > bound)) if np.isfinite(bound).all() else "none stated"
                row = {"η": rate, "phase": phase, "reader": name, "readings": len(value)}
                row |= {"products per reading": float(products.mean()), "largest error": float(error.max())}
                row["outside its bound"] = outside
                rows.append(row | {"goal": {"before 2/η": 2, "from 2/η on": 5}[phase] if name == "gradbias" else ""})
    return rows


def rows() -> list[dict]:
    return run(0.03, 1600)


if __name__ == "__main__":
    from run import main

    torch.set_num_threads(1)
    main({"tracking": rows}, __doc__)
