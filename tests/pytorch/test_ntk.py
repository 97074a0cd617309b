"""The kernel made layer by layer equals the Gram matrix of the plain Jacobian."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from gradbias.errors import NotApplicable
from gradbias.pytorch import linear_calls, ntk
from gradbias.pytorch.ntk import layer_structured_ntk
from gradbias.pytorch.torch_objective import TorchObjective


def plain(parameters, forward):
    f = forward(slice(None))
    rows = []
    for entry in f.flatten():
        each = torch.autograd.grad(entry, parameters, retain_graph=True, allow_unused=True)
        found = zip(parameters, each, strict=True)
        rows.append(torch.cat([(torch.zeros_like(p) if g is None else g).flatten() for p, g in found]))
    jacobian = torch.stack(rows).double()
    return (jacobian @ jacobian.T).reshape(*f.shape, *f.shape).numpy()


class Twice(nn.Module):
    def __init__(self):
        nn.Module.__init__(self)
        self.first, self.again, self.last = nn.Linear(6, 5), nn.Linear(5, 5), nn.Linear(5, 3)

    def forward(self, x):
        h = torch.tanh(self.again(torch.tanh(self.first(x))))
        return self.last(torch.tanh(self.again(h)))


class Tied(nn.Module):
    """A decoder with the weight of the embedding, in two places of which one is no module."""

    def __init__(self, padding=None):
        nn.Module.__init__(self)
        self.embed = nn.Embedding(11, 6, padding_idx=padding)
        self.mix, self.decode = nn.Linear(6, 6), nn.Linear(6, 11, bias=False)
        self.decode.weight = self.embed.weight

    def forward(self, tokens):
        return F.linear(self.decode(torch.tanh(self.mix(self.embed(tokens)))), self.embed.weight.T).mean(1)[:, :3]


class TiedByModule(Tied):
    def forward(self, tokens):
        return self.decode(torch.tanh(self.mix(self.embed(tokens)))).mean(1)[:, :3]


class TiedConvolution(nn.Module):
    """The same grouped convolution applied twice."""

    def __init__(self):
        nn.Module.__init__(self)
        self.conv, self.last = nn.Conv2d(4, 4, 3, padding=1, groups=2), nn.Linear(4, 3)

    def forward(self, x):
        return self.last(self.conv(torch.tanh(self.conv(x))).mean((2, 3)))


class Attention(nn.Module):
    def __init__(self, batch_first=True, position=False):
        nn.Module.__init__(self)
        layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=batch_first)
        self.encode = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.last = nn.Linear(8, 3)
        self.position = nn.Embedding(5, 8) if position else None
        self.batch_first = batch_first

    def forward(self, x):
        if self.position is not None:
            x = x + self.position(torch.arange(5))
        x = x if self.batch_first else x.transpose(0, 1)
        return self.last(self.encode(x).mean(1 if self.batch_first else 0))


class Recurrent(nn.Module):
    def __init__(self):
        nn.Module.__init__(self)
        self.lstm, self.last = nn.LSTM(4, 5, batch_first=True), nn.Linear(5, 3)

    def forward(self, x):
        return self.last(self.lstm(x)[0][:, -1])


class Conv1D(nn.Module):
    """A dense layer with its weight the other way around, on flattened positions."""

    def __init__(self):
        nn.Module.__init__(self)
        self.weight, self.bias, self.last = (
            nn.Parameter(torch.randn(8, 6)),
            nn.Parameter(torch.randn(6)),
            nn.Linear(6, 3),
        )

    def forward(self, x):
        h = torch.addmm(self.bias, x.reshape(-1, 8), self.weight).reshape(*x.shape[:2], 6)
        return self.last(torch.relu(h).mean(1)) + self.last(torch.relu(x @ self.weight).mean(1))


class Loose(nn.Module):
    """Parameters outside of any layer."""

    def __init__(self):
        nn.Module.__init__(self)
        self.scale, self.unused, self.last = nn.Parameter(torch.randn(6)), nn.Parameter(torch.randn(2)), nn.Linear(6, 3)

    def forward(self, x):
        return self.last(torch.tanh(x * self.scale)) * self.last.bias


def frozen(model, *names):
    for name, p in model.named_parameters():
        p.requires_grad_(name not in names)
    return model


def mlp(inplace=False):
    return nn.Sequential(
        nn.Linear(6, 7), nn.ReLU(inplace=inplace), nn.Linear(7, 4, bias=False), nn.Tanh(), nn.Linear(4, 3)
    )


def cnn():
    return nn.Sequential(
        nn.Conv2d(4, 6, 3, stride=(2, 1), padding=(1, 0), groups=2), nn.GroupNorm(3, 6), nn.ReLU(inplace=True),
        nn.Conv2d(6, 4, (1, 3), dilation=(1, 2), padding="same", bias=False), nn.BatchNorm2d(4), nn.GELU(),
        nn.Conv2d(4, 4, 2, groups=4, padding="valid"), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3),
    )  # fmt: skip


def other_convolutions():
    return nn.Sequential(
        nn.Conv1d(3, 4, 3, padding=2, padding_mode="circular"), nn.Tanh(), nn.BatchNorm1d(4),
        nn.Unflatten(2, (3, 1, 4)),
        nn.Conv3d(4, 2, (2, 1, 2)), nn.ConvTranspose3d(2, 2, 1), nn.Flatten(), nn.Linear(12, 3), nn.BatchNorm1d(3),
    )  # fmt: skip


IMAGES, SEQUENCES, TOKENS = (5, 4, 7, 6), (5, 5, 8), "tokens"
CASES = {
    "MLP": (mlp, (5, 6), 0),
    "in-place activation": (lambda: mlp(True), (5, 6), 0),
    "one example": (mlp, (1, 6), 0),
    "frozen weight": (lambda: frozen(mlp(), "0.weight", "2.weight"), (5, 6), 0),
    "frozen bias": (lambda: frozen(mlp(), "0.bias"), (5, 6), 0),
    "CNN": (cnn, IMAGES, 0),
    "CNN, frozen": (lambda: frozen(cnn(), "0.weight", "3.weight", "1.bias", "4.weight"), IMAGES, 0),
    "convolutions of one and three axes": (other_convolutions, (5, 3, 10), 2),
    "module used twice": (Twice, (5, 6), 0),
    "tied, partly in functional code": (Tied, TOKENS, 1),
    "tied weights": (TiedByModule, TOKENS, 0),
    "tied weights with padding": (lambda: TiedByModule(2), TOKENS, 0),
    "convolution used twice": (TiedConvolution, IMAGES, 0),
    "attention": (Attention, SEQUENCES, 0),
    "attention, time first": (lambda: Attention(False), SEQUENCES, 0),
    "attention with positions": (lambda: Attention(position=True), SEQUENCES, 1),
    "addmm and matmul": (Conv1D, SEQUENCES, 0),
    "LSTM": (Recurrent, (5, 6, 4), 4),
    "loose parameters": (Loose, (5, 6), 2),
}


def build(name, dtype):
    make, shape, fallbacks = CASES[name]
    torch.manual_seed(1)
    model = make().to(dtype)
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
    for p in model.parameters():
        with torch.no_grad():
            p.add_(0.3 * torch.randn_like(p))
    x = torch.randint(0, 11, (5, 4)) if shape == TOKENS else torch.randn(shape, dtype=dtype)
    model.eval()
    return [p for p in model.parameters() if p.requires_grad], lambda part: model(x[part]), fallbacks


@pytest.fixture
def fallbacks(monkeypatch):
    """The parameters whose gradients were left to the plain Jacobian."""
    met, jacobians = [], ntk._jacobians

    def watched(forward, outputs, parameters, memory):
        met.extend(parameters)
        return jacobians(forward, outputs, parameters, memory)

    monkeypatch.setattr(ntk, "_jacobians", watched)
    return met


@pytest.mark.parametrize("name", CASES)
def test_equals_the_gram_matrix_of_the_plain_jacobian(name, fallbacks):
    parameters, forward, expected = build(name, torch.float64)
    truth, kernel = plain(parameters, forward), layer_structured_ntk(parameters, forward)
    np.testing.assert_allclose(kernel, truth, rtol=0, atol=1e-10 * np.abs(truth).max())
    assert len(fallbacks) == expected


@pytest.mark.parametrize("name", CASES)
def test_in_single_precision_errs_by_rounding_alone(name, fallbacks):
    parameters, forward, expected = build(name, torch.float32)
    truth, kernel = plain(parameters, forward), layer_structured_ntk(parameters, forward)
    np.testing.assert_allclose(kernel, truth, rtol=0, atol=1e-5 * np.abs(truth).max())
    assert len(fallbacks) == expected


def objective_of(name, **options):
    make, shape, _ = CASES[name]
    torch.manual_seed(1)
    model = make().double()
    x = torch.randint(0, 11, (5, 4)) if shape == TOKENS else torch.randn(shape, dtype=torch.float64)
    return TorchObjective(model, F.cross_entropy, (x, torch.tensor([0, 1, 2, 1, 0])), **options)


def rows(objective):
    leaves = objective.weights().leaves
    (batch,) = objective.probe.batches()
    return leaves, lambda part: objective.computation.forward(
        dict(zip(objective.computation.names, leaves, strict=True)), batch[part]
    )


@pytest.mark.parametrize("name", ["CNN", "attention", "tied weights", "LSTM", "frozen weight"])
def test_an_objective_has_the_kernel_and_the_products_of_its_jacobian(name):
    objective = objective_of(name)
    leaves, forward = rows(objective)
    with objective.computation.running():
        truth = plain(leaves, forward)
        f = forward(slice(None))
        v = torch.randn(objective.size, dtype=torch.float64)
        each = [torch.autograd.grad(entry, leaves, retain_graph=True, allow_unused=True) for entry in f.flatten()]
    jacobian = torch.stack([objective.computation.flat(row, leaves) for row in each])
    np.testing.assert_allclose(objective.ntk(), truth, rtol=0, atol=1e-10 * np.abs(truth).max())
    np.testing.assert_allclose(objective.jacobian_product(v), (jacobian @ v).view_as(f), rtol=1e-9, atol=1e-12)


def test_batches_of_different_lengths_have_one_kernel():
    torch.manual_seed(1)
    model = Recurrent().double()
    x = [torch.randn(2, 6, 4, dtype=torch.float64), torch.randn(3, 5, 4, dtype=torch.float64)]
    y = [torch.tensor([0, 1]), torch.tensor([2, 1, 0])]
    parts = TorchObjective(model, F.cross_entropy, list(zip(x, y, strict=True)))
    jacobians = []
    for one in zip(x, y, strict=True):
        leaves, forward = rows(TorchObjective(model, F.cross_entropy, one))
        each = [torch.autograd.grad(e, leaves, retain_graph=True) for e in forward(slice(None)).flatten()]
        jacobians += [torch.cat([g.flatten() for g in row]) for row in each]
    gram = torch.stack(jacobians) @ torch.stack(jacobians).T
    np.testing.assert_allclose(parts.ntk().reshape(15, 15), gram, rtol=0, atol=1e-10 * float(gram.max()))


def test_outputs_that_depend_on_their_neighbours_have_no_kernel():
    with pytest.raises(NotApplicable, match="tangent kernel"):
        objective_of("CNN", mode="train").ntk()


@pytest.mark.parametrize("name", ["CNN", "convolution used twice", "tied weights with padding", "attention"])
def test_little_memory_changes_nothing_but_the_order(name):
    parameters, forward, _ = build(name, torch.float64)
    truth = plain(parameters, forward)
    for memory in (1, 20_000):
        kernel = layer_structured_ntk(parameters, forward, memory=memory)
        np.testing.assert_allclose(kernel, truth, rtol=0, atol=1e-10 * np.abs(truth).max())


@pytest.mark.parametrize("pairs", [False, True])
@pytest.mark.parametrize("name", ["CNN", "CNN, frozen", "attention, time first", "addmm and matmul", "MLP"])
def test_both_ways_to_contract_a_layer_are_right(name, pairs, monkeypatch):
    parameters, forward, _ = build(name, torch.float64)
    truth = plain(parameters, forward)
    monkeypatch.setattr(ntk, "_pairs_are_cheaper", lambda given, results: pairs)
    for block in (1, 1 << 20):
        monkeypatch.setattr(ntk, "BLOCK", block)
        kernel = layer_structured_ntk(parameters, forward)
        np.testing.assert_allclose(kernel, truth, rtol=0, atol=1e-10 * np.abs(truth).max())


def test_a_kernel_of_several_blocks_is_whole(monkeypatch):
    monkeypatch.setattr(ntk, "BLOCK", 1 << 12)
    torch.manual_seed(1)
    model, x = mlp().double(), torch.randn(70, 6, dtype=torch.float64)
    parameters, forward = list(model.parameters()), lambda part: model(x[part])
    truth = plain(parameters, forward)
    kernel = layer_structured_ntk(parameters, forward)
    np.testing.assert_allclose(kernel, truth, rtol=0, atol=1e-10 * np.abs(truth).max())


def test_outputs_that_depend_on_their_neighbours_have_the_kernel_of_all_together(fallbacks):
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4, track_running_stats=False), nn.Tanh(), nn.Linear(4, 3))
    model, x = model.double(), torch.randn(5, 6, dtype=torch.float64)
    parameters, forward = list(model.parameters()), lambda part: model(x[part]) if part.stop is None else x[part, :3]
    truth = plain(parameters, forward)
    kernel = layer_structured_ntk(parameters, forward)
    np.testing.assert_allclose(kernel, truth, rtol=0, atol=1e-10 * np.abs(truth).max())
    assert len(fallbacks) == 4


@pytest.mark.filterwarnings("ignore:Using padding='same'")
def test_a_convolution_with_more_padding_on_one_side_is_seen(fallbacks):
    torch.manual_seed(1)
    model = nn.Sequential(nn.Conv1d(2, 3, 4, padding="same"), nn.Tanh(), nn.Flatten(), nn.Linear(15, 2)).double()
    x = torch.randn(4, 2, 5, dtype=torch.float64)
    parameters, forward = list(model.parameters()), lambda part: model(x[part])
    truth = plain(parameters, forward)
    kernel = layer_structured_ntk(parameters, forward)
    np.testing.assert_allclose(kernel, truth, rtol=0, atol=1e-10 * np.abs(truth).max())
    assert not fallbacks


def test_a_use_that_is_not_seen_sends_the_parameter_to_the_plain_jacobian(monkeypatch, fallbacks):
    parameters, forward, _ = build("MLP", torch.float64)
    monkeypatch.delitem(linear_calls._KNOWN, F.linear)
    kernel = layer_structured_ntk(parameters, forward)
    truth = plain(parameters, forward)
    np.testing.assert_allclose(kernel, truth, rtol=0, atol=1e-10 * np.abs(truth).max())
    assert len(fallbacks) == len(parameters)
