"""Probe data in every form, what is refused and in which words."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from gradbias.errors import ProbeError
from gradbias.pytorch.probe import as_batch, as_probe
from gradbias.pytorch.torch_objective import TorchObjective

CPU = torch.device("cpu")
X, Y = torch.arange(20.0).reshape(10, 2), torch.arange(10)


def probe(data, max_bytes=1 << 20):
    return as_probe(data, device=CPU, max_bytes=max_bytes)


def inputs(found):
    return torch.cat([batch.content[0] for batch in found.batches()])


class Noisy(Dataset):
    """A dataset with a random augmentation."""

    def __init__(self, transform):
        self.transform = transform

    def __len__(self):
        return 4

    def __getitem__(self, index):
        return self.transform(torch.ones(2)), index


class Stream(IterableDataset):
    def __iter__(self):
        yield from zip(X, Y, strict=True)


@pytest.mark.parametrize(
    ("data", "sizes"),
    [
        ((X, Y), (10,)),
        ([X, Y], (10,)),
        ((X.numpy(), Y.numpy()), (10,)),
        ([(X[:3], Y[:3]), (X[3:], Y[3:])], (3, 7)),
        (((X[:3], Y[:3]), (X[3:], Y[3:])), (3, 7)),
        ([[X[:3], Y[:3]], [X[3:], Y[3:]]], (3, 7)),
        (TensorDataset(X, Y), (10,)),
        (DataLoader(TensorDataset(X, Y), batch_size=4), (4, 4, 2)),
        (DataLoader(Stream(), batch_size=6), (6, 4)),
    ],
)
@pytest.mark.parametrize("max_bytes", [1 << 20, 8])
def test_every_form_gives_all_examples_in_order(data, sizes, max_bytes):
    found = probe(data, max_bytes)
    assert (found.sizes, found.examples) == (sizes, 10)
    for _ in range(2):
        assert torch.equal(inputs(found), X)
    assert torch.equal(inputs(found.merged()), X)


def test_a_loader_that_is_larger_than_the_cap_is_not_kept():
    loader = DataLoader(TensorDataset(X, Y), batch_size=4)
    nbytes = X.nbytes + Y.nbytes
    assert probe(loader, nbytes).kept is not None
    streaming = probe(loader, nbytes - 1)
    assert streaming.kept is None
    assert streaming.merged() is streaming


@pytest.mark.parametrize("max_bytes", [1 << 20, 8])
def test_examples_are_taken_in_the_order_asked_for_from_any_batch(max_bytes):
    index = np.array([9, 0, 0, 4, 3, 8])
    found = probe(DataLoader(TensorDataset(X, Y), batch_size=4), max_bytes).take(index)
    assert found.sizes == (6,)
    assert torch.equal(inputs(found), X[index])
    for wrong in ([10], [-1], [], [0.5]):
        with pytest.raises(ProbeError, match="xample numbers"):
            found.take(np.array(wrong))


def test_batches_of_different_shapes_stay_apart_and_in_order():
    ragged = [(torch.zeros(2, 3), Y[:2]), (torch.ones(2, 5), Y[2:4])]
    found = probe(ragged)
    assert found.merged().sizes == (2, 2)
    taken = found.take(np.array([2, 3, 0, 2]))
    assert taken.sizes == (2, 1, 1)
    assert [len(batch.content[0][0]) for batch in taken.batches()] == [5, 3, 5]


def test_what_is_not_per_example_goes_with_every_part():
    batch = as_batch({"x": X, "scale": torch.tensor(2.0), "flag": True, "labels": Y})
    part = batch[2:5]
    assert (part.size, part.content["flag"], float(part.content["scale"])) == (3, True, 2.0)
    assert torch.equal(part.answers, Y[2:5])
    assert as_batch({"x": X}).answers is None


def test_random_numbers_that_a_loader_draws_are_given_back():
    generator = torch.Generator().manual_seed(1)
    before, own = torch.get_rng_state(), generator.get_state()
    in_vain = Noisy(lambda x: x + 0 * torch.rand(2))
    for dataset in (TensorDataset(X, Y), in_vain):
        streaming = probe(DataLoader(dataset, batch_size=4, generator=generator), 8)
        list(streaming.batches())
        next(streaming.batches())
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(generator.get_state(), own)


@pytest.mark.parametrize(
    ("loader", "message"),
    [
        (DataLoader(TensorDataset(X, Y), batch_size=4, shuffle=True), r"RandomSampler, as with shuffle=True"),
        (
            DataLoader(TensorDataset(X, Y), sampler=torch.utils.data.SubsetRandomSampler(range(9))),
            "SubsetRandomSampler",
        ),
        (
            DataLoader(Noisy(lambda x: x + torch.randn(2))),
            r"over Noisy .* other contents.* augmentation \(its transform\)",
        ),
        (DataLoader(Noisy(lambda x: x * np.random.rand())), "batch number 0 came with other contents"),  # noqa: NPY002
        (DataLoader(TensorDataset(X[:0], Y[:0])), "gives no batches"),
        (iter([(X, Y)]), "can be read once"),
        (zip([X], [Y], strict=True), "a zip can be read once"),
        (X, r"got a tensor of shape \(10, 2\)"),
        ([], "got a list"),
        ("data", "got a str"),
        ((X, Y[:3]), r"differ in their numbers of examples .* shape \(10, 2\), a tensor of shape \(3,\)"),
        ([(X,)], "pair \\(inputs, targets\\)"),
        ((X[:0], Y[:0]), "has no examples"),
    ],
)
def test_data_that_cannot_be_measured_on_are_refused_with_the_remedy(loader, message):
    with pytest.raises(ProbeError, match=message):
        probe(loader)


class Alternating:
    """A loader by hand that turns the order of its batches round in every second pass."""

    def __init__(self):
        self.passes = 0

    def __iter__(self):
        self.passes += 1
        parts = [(X[:5], Y[:5]), (X[5:], Y[5:])]
        return iter(parts if self.passes % 2 else parts[::-1])


class Shrinking(Alternating):
    """A loader that loses examples after two passes."""

    def __iter__(self):
        self.passes += 1
        return iter([(X[:5], Y[:5])] if self.passes < 3 else [(X[:4], Y[:4])])


def test_an_order_that_changes_is_told_from_contents_that_change():
    with pytest.raises(ProbeError, match=r"over Alternating .* in another order"):
        probe(Alternating())
    shrinking = probe(Shrinking(), 8)
    with pytest.raises(ProbeError, match=r"gave 5 examples .* and 4 now"):
        list(shrinking.batches())


def test_batches_count_by_their_examples():
    """[9, 1] examples: the mean over batches would weigh the last example nine times."""
    model = nn.Linear(2, 1)
    y = (X.sum(1, keepdim=True) / 10).square()
    parts = [(X[:9], y[:9]), (X[9:], y[9:])]
    whole = TorchObjective(model, F.mse_loss, (X, y))
    for data in (parts, DataLoader(TensorDataset(X, y), batch_size=9)):
        for memory in (None, 8):
            split = TorchObjective(model, F.mse_loss, data, max_memory=memory)
            assert split.risk() == pytest.approx(whole.risk(), rel=1e-6)
            v = whole.asvector(np.ones(3))
            assert torch.allclose(split.hessian()(v), whole.hessian()(v), rtol=1e-5)
    unweighted = np.mean([float(F.mse_loss(model(a), b).detach()) for a, b in parts])
    assert abs(unweighted / whole.risk() - 1) > 0.1
