"""The largest eigenvalue along a run: cheap, and not blind to one that overtakes."""

import numpy as np
import pytest

from gradbias.measures.objective import SymmetricOperator
from gradbias.measures.tracking import largest_eigenvalue

SIZE = 300


def moving(t, basis):
    """A matrix that turns slowly and sharpens, its second eigenvalue at 85 % of the first."""
    spectrum = np.append(np.linspace(-0.2, 0.5, SIZE - 2), [0.85, 1.0]) * (1 + 0.01 * t)
    angle = 0.01 * t
    turned = basis.copy()
    turned[-1] = np.cos(angle) * basis[-1] + np.sin(angle) * basis[0]
    turned[0] = -np.sin(angle) * basis[-1] + np.cos(angle) * basis[0]
    return (turned.T * spectrum) @ turned, spectrum.max()


def plain(a):
    return SymmetricOperator(lambda v: a @ v, len(a), 2.2e-16)


@pytest.fixture
def basis():
    return np.linalg.qr(np.random.default_rng(0).standard_normal((SIZE, SIZE)))[0]


def test_a_reading_along_a_run_takes_at_most_two_products_and_is_within_its_bound(basis):
    state, rng, products = {}, np.random.default_rng(0), []
    for t in range(60):
        a, truth = moving(t, basis)
        pairs = largest_eigenvalue(plain(a), state, rng=rng)
        assert pairs.converged[0]
        assert abs(pairs.values[0] - truth) <= pairs.bounds[0] <= 0.0101 * truth
        products.append(pairs.products)
    assert np.mean(products) <= 2.5  # audits included
    assert np.median(products) <= 2


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_torch_tensors_are_followed_to_the_same_values(basis, dtype):
    import torch

    kind = getattr(torch, dtype)
    state, rng = {}, np.random.default_rng(0)
    for t in range(5):
        a, truth = moving(t, basis)
        held = torch.as_tensor(a, dtype=kind)
        operator = SymmetricOperator(
            lambda v, held=held: held @ v,
            SIZE,
            float(torch.finfo(kind).eps),
            lambda h: torch.as_tensor(h, dtype=kind),
            lambda m: torch.zeros(m, SIZE, dtype=kind),
        )
        pairs = largest_eigenvalue(operator, state, rng=rng)
        assert abs(pairs.values[0] - truth) <= pairs.bounds[0]
        assert isinstance(state["vectors"], torch.Tensor)


def overtaken(t):
    """A diagonal matrix: nothing couples the eigenvector followed with the one that overtakes at the sixth reading."""
    diagonal = np.append(np.linspace(-0.2, 0.5, SIZE - 2), [1.0, 0.4 + 0.12 * t])
    return SymmetricOperator(lambda v: diagonal * v, SIZE, 2.2e-16), diagonal.max()


def test_an_eigenvalue_that_overtakes_unseen_is_found_by_the_audit_and_told():
    state, rng, story = {}, np.random.default_rng(0), []
    for t in range(22):
        operator, truth = overtaken(t)
        counter = []
        counted = SymmetricOperator(lambda v, o=operator, c=counter: (c.append(1), o(v))[1], SIZE, 2.2e-16)
        pairs = largest_eigenvalue(counted, state, rng=rng, every=10)
        assert pairs.products == len(counter)  # audits are counted
        story.append((abs(pairs.values[0] - truth) <= pairs.bounds[0], pairs.reason))
    assert [i for i, (_, reason) in enumerate(story) if "overtaken" in reason] == [11]
    assert all(right for right, _ in story[11:])
    assert "audit" in story[11][1]
    assert not story[9][0]  # what the audit is for


def test_a_close_second_is_followed_too_and_a_crossing_of_the_two_is_seen_at_once():
    state, rng = {}, np.random.default_rng(0)
    for t in range(15):
        diagonal = np.append(np.linspace(-0.2, 0.5, SIZE - 2), [1.0, 0.98 + 0.004 * t])
        operator = SymmetricOperator(lambda v, d=diagonal: d * v, SIZE, 2.2e-16)
        pairs = largest_eigenvalue(operator, state, rng=rng, every=1000)
        assert abs(pairs.values[0] - diagonal.max()) <= 1e-3


def test_a_matrix_that_has_changed_altogether_is_read_afresh():
    state, rng = {}, np.random.default_rng(0)
    for seed in range(4):
        a = np.random.default_rng(seed).standard_normal((SIZE, SIZE))
        a = a + a.T
        pairs = largest_eigenvalue(plain(a), state, rng=rng)
        assert pairs.converged[0]
        assert abs(pairs.values[0] - np.linalg.eigvalsh(a)[-1]) <= pairs.bounds[0]
    other = largest_eigenvalue(plain(np.diag([1.0, 2.0])), state, rng=rng)
    assert other.values[0] == pytest.approx(2.0)
