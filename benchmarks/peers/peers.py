"""How each peer is called, products counted. The recipes are written here from their papers and documentation."""

import importlib
import warnings
from collections.abc import Callable
from contextlib import contextmanager

import numpy as np
import torch
from scipy.sparse.linalg import LinearOperator, eigsh
from torch import nn

LOSS = nn.CrossEntropyLoss()
Found = tuple[np.ndarray, int]


class Counted:
    """A function with a count of its calls."""

    def __init__(self, function: Callable):
        self.function, self.calls = function, 0

    def __call__(self, *arguments, **keywords):
        self.calls += 1
        return self.function(*arguments, **keywords)


def flat(tensors) -> torch.Tensor:
    return torch.cat([tensor.reshape(-1) for tensor in tensors])


def rebuilt_product(model, x, y, loss=LOSS) -> Counted:
    """A product by double backward, the gradient's graph built anew each time: the edge-of-stability recipe."""
    parameters = list(model.parameters())

    def product(v: np.ndarray) -> np.ndarray:
        vector = torch.as_tensor(v.reshape(-1), dtype=parameters[0].dtype)
        gradient = torch.autograd.grad(loss(model(x), y), parameters, create_graph=True)
        dot = flat(gradient) @ vector
        return flat(torch.autograd.grad(dot, parameters)).detach().numpy()

    return Counted(product)


def arpack(product: Callable, size: int, k: int, tol: float, dtype=np.float32) -> np.ndarray:
    return eigsh(
        LinearOperator((size, size), matvec=product, dtype=dtype), k, which="LA", tol=tol, return_eigenvectors=False
    )


def locuslab(model, x, y, k: int, tol: float = 0.0) -> Found:
    product = rebuilt_product(model, x, y)
    values = arpack(product, sum(p.numel() for p in model.parameters()), k, tol)
    return np.sort(values)[::-1], product.calls


def reference(model, x, y, k: int, loss=LOSS) -> np.ndarray:
    """float64 ARPACK to 1e-10."""
    import copy

    double = copy.deepcopy(model).double()
    inputs, targets = (t.double() if t.is_floating_point() else t for t in (x, y))
    product = rebuilt_product(double, inputs, targets, loss)
    values = arpack(product, sum(p.numel() for p in model.parameters()), k, 1e-10, np.float64)
    return np.sort(values)[::-1]


def curvlinops(model, x, y, k: int, tol: float = 0.0) -> Found:
    from curvlinops import HessianLinearOperator

    parameters = [p for p in model.parameters() if p.requires_grad]
    operator = HessianLinearOperator(model, LOSS, parameters, [(x, y)], check_deterministic=False).to_scipy()
    product = Counted(operator.matvec)
    return np.sort(arpack(product, operator.shape[0], k, tol))[::-1], product.calls


@contextmanager
def pyhessian_calls():
    """PyHessian with its products counted, and with the function that newer PyTorch no longer has."""
    module = importlib.import_module("pyhessian.hessian")  # the package has a class of the same name
    counted = Counted(module.hessian_vector_product)
    eig = getattr(torch, "eig", None)

    def symmetric_eig(matrix: torch.Tensor, eigenvectors: bool = False):
        values, vectors = torch.linalg.eigh(matrix)
        return torch.stack([values, torch.zeros_like(values)], dim=1), vectors

    module.hessian_vector_product, torch.eig = counted, symmetric_eig
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield counted
    finally:
        module.hessian_vector_product = counted.function
        if eig is None:
            del torch.eig


def pyhessian(model, x, y, k: int, **options) -> Found:
    from pyhessian import hessian

    with pyhessian_calls() as counted:
        values, _ = hessian(model, LOSS, data=(x, y), cuda=False).eigenvalues(top_n=k, **options)
    model.zero_grad(set_to_none=True)
    return np.sort(np.asarray(values))[::-1], counted.calls  # found by deflation, not always in order


def eigenthings(model, x, y, k: int, **options) -> Found:
    from hessian_eigenthings import HessianOperator, lanczos
    from hessian_eigenthings.loss_fns import supervised_loss

    operator = HessianOperator(model, [(x, y)], supervised_loss(LOSS))
    product = Counted(operator.matvec)
    operator.matvec = product
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = lanczos(operator, k=k, which="LA", seed=0, **options)
    return np.sort(np.asarray(found.eigenvalues))[::-1], product.calls


def eigenthings_density(model, x, y, steps: int, probes: int) -> int:
    from hessian_eigenthings import HessianOperator, spectral_density
    from hessian_eigenthings.loss_fns import supervised_loss

    operator = HessianOperator(model, [(x, y)], supervised_loss(LOSS))
    operator.matvec = product = Counted(operator.matvec)
    spectral_density(operator, num_runs=probes, lanczos_steps=steps, seed=0)
    return product.calls


def pyhessian_density(model, x, y, steps: int, probes: int) -> int:
    from pyhessian import hessian

    with pyhessian_calls() as counted:
        hessian(model, LOSS, data=(x, y), cuda=False).density(iter=steps, n_v=probes)
    model.zero_grad(set_to_none=True)
    return counted.calls


def tutorial_ntk(model, x) -> np.ndarray:
    """The recipe of the torch.func tutorial: per-example Jacobians by vmap, contracted parameter by parameter."""
    from torch.func import functional_call, jacrev, vmap

    parameters = {name: p.detach() for name, p in model.named_parameters()}

    def one(parameters, example):
        return functional_call(model, parameters, (example[None],))[0]

    jacobians = vmap(jacrev(one), (None, 0))(parameters, x)
    parts = [torch.einsum("iap,jbp->iajb", j.flatten(2), j.flatten(2)) for j in jacobians.values()]
    return sum(parts).numpy()


def nngeometry_ntk(model, x, y) -> np.ndarray:
    from nngeometry import GramMatrix
    from nngeometry.object.fspace import FMatDense
    from torch.utils.data import DataLoader, TensorDataset

    loader = DataLoader(TensorDataset(x, y), batch_size=len(x))
    gram = GramMatrix(model=model, loader=loader, representation=FMatDense)
    return gram.to_torch().permute(1, 0, 3, 2).numpy()
