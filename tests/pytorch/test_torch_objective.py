"""Every quantity of a module against dense float64 references, for every kind of model and every form of data."""

import gc
import weakref

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from gradbias.errors import NotApplicable, ProbeError, UsageError
from gradbias.measures.jax_objective import JaxObjective
from gradbias.measures.objective import AbstractObjective
from gradbias.pytorch import examples as examples_module
from gradbias.pytorch.checks import finite_difference_check
from gradbias.pytorch.torch_objective import TorchObjective
from pytorch.models import CLASSES, MODELS, N, built, convolutional, dense, images, mlp, points, reference, texts

# A loss in float32 within the model (transformers upcasts its logits) limits what float64 weights can give.
TOLERANCE = dict.fromkeys(MODELS, 1e-12) | {"transformers gpt2": 1e-6}


def objective_of(name, **options):
    specimen = MODELS[name]
    return TorchObjective(built(name), specimen.loss_fn, specimen.data(), **specimen.options, **options)


def assert_products(objective, operator, matrix, tolerance):
    """Products with a few generic vectors: a matrix that differs gives others."""
    vectors = np.random.default_rng(3).normal(size=(4, objective.size))
    got = np.stack([objective.asnumpy(operator(objective.asvector(v))) for v in vectors])
    assert_close(got, vectors @ matrix, tolerance)


def rows_of(objective, of="loss"):
    return np.concatenate([objective.asnumpy(rows) for rows in objective.per_example_gradients(of)])


def assert_close(a, b, tolerance):
    assert np.shape(a) == np.shape(b)
    assert np.abs(np.asarray(a) - b).max() <= tolerance * max(np.abs(b).max(), 1e-300)


def small(dtype=torch.float64, n=24, **options):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, CLASSES)).to(dtype)
    x, y = torch.randn(n, 5, dtype=dtype), torch.randint(CLASSES, (n,))
    return TorchObjective(model, F.cross_entropy, options.pop("data", lambda x, y: (x, y))(x, y), **options)


# Values and derivatives


@pytest.mark.parametrize("name", MODELS)
def test_risk_gradient_and_curvature_are_those_of_dense_references(name):
    expected, tolerance = reference(name), TOLERANCE[name]
    objective = objective_of(name, dtype=torch.float64, check=False)
    assert_close(objective.asnumpy(objective.parameters()), expected["theta"], 0.0)
    assert_close(objective.risk(), expected["risk"], tolerance)
    assert_close(objective.asnumpy(objective.gradient()), expected["gradient"], tolerance)
    assert_products(objective, objective.hessian(), expected["hessian"], tolerance)
    assert_products(objective, objective.gauss_newton(), expected["gauss_newton"], tolerance)
    assert_close(objective.outputs(), expected["outputs"], tolerance)
    assert_close(rows_of(objective), expected["rows"], tolerance)


@pytest.mark.parametrize("name", MODELS)
def test_in_its_own_dtype_a_model_gives_the_same_to_rounding(name):
    expected = reference(name)
    objective = objective_of(name, check=False)
    rounding = 30 * objective.epsilon  # a few layers, each with a few roundings
    assert_close(objective.asnumpy(objective.gradient()), expected["gradient"], rounding)
    v = objective.asvector(np.linspace(-1, 1, objective.size))
    host = objective.asnumpy(v)
    assert v.dtype == {"float64 head": torch.float64}.get(name, torch.float32)
    assert_close(objective.asnumpy(objective.hessian()(v)), expected["hessian"] @ host, rounding)
    assert_close(objective.asnumpy(objective.gauss_newton()(v)), expected["gauss_newton"] @ host, rounding)


@pytest.mark.parametrize("name", ["cnn with batch norm", "residual"])
def test_in_train_mode_a_batch_norm_normalizes_by_the_batch(name):
    expected = dense(built(name), MODELS[name], mode="train")
    objective = objective_of(name, mode="train", dtype=torch.float64, check=False, max_memory=1)
    assert_close(objective.risk(), expected["risk"], 1e-12)
    assert_close(objective.asnumpy(objective.gradient()), expected["gradient"], 1e-12)
    assert_products(objective, objective.hessian(), expected["hessian"], 1e-12)
    assert_products(objective, objective.gauss_newton(), expected["gauss_newton"], 1e-12)
    assert any("normalized together by" in note for note in objective.settings.notes)
    with pytest.raises(NotApplicable, match="mean over examples"):
        next(objective.per_example_gradients())
    with pytest.raises(NotApplicable, match="mean over examples"):
        objective.input_gradient_norms()


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")
@pytest.mark.parametrize("kind", ["mlp", "cnn"])
def test_products_are_those_of_curvlinops(kind):
    curvlinops = pytest.importorskip("curvlinops")
    torch.manual_seed(0)
    model, pair = (mlp(), points()) if kind == "mlp" else (convolutional(nn.Identity), images())
    objective = TorchObjective(model, F.cross_entropy, pair)
    parameters, data = list(model.parameters()), [pair]
    v = np.linspace(-1, 1, objective.size).astype(np.float32)
    for ours, theirs in (
        (objective.hessian(), curvlinops.HessianLinearOperator),
        (objective.gauss_newton(), curvlinops.GGNLinearOperator),
    ):
        expected = theirs(model, nn.CrossEntropyLoss(), parameters, data) @ torch.tensor(v)
        assert_close(objective.asnumpy(ours(objective.asvector(v))), expected.detach().double().numpy(), 1e-5)


def test_margin_gradients_are_derivatives_of_margins():
    objective = small(n=8)
    f, labels = objective.outputs(), objective.labels()
    others = np.where(np.arange(CLASSES) == labels[:, None], -np.inf, f).max(1)
    v = objective.asvector(np.random.default_rng(0).normal(size=objective.size))
    h = 1e-6

    def margins(theta):
        f = objective.at(theta).outputs()
        return f[np.arange(8), labels] - np.where(np.arange(CLASSES) == labels[:, None], -np.inf, f).max(1)

    theta = objective.parameters()
    assert_close(margins(theta), f[np.arange(8), labels] - others, 0.0)
    slope = (margins(theta + h * v) - margins(theta - h * v)) / (2 * h)
    assert_close(rows_of(objective, "margin") @ objective.asnumpy(v), slope, 1e-7)


def test_with_one_output_the_margin_is_the_output_with_the_sign_of_the_label():
    torch.manual_seed(0)
    model, x = nn.Linear(3, 1).double(), torch.randn(4, 3, dtype=torch.float64)
    y = torch.tensor([1.0, 0.0, 0.0, 1.0], dtype=torch.float64)
    objective = TorchObjective(model, lambda f, y: F.binary_cross_entropy_with_logits(f[:, 0], y), (x, y))
    assert objective.labels().tolist() == [1, 0, 0, 1]
    signed = np.array([[1.0], [-1.0], [-1.0], [1.0]]) * np.hstack([x.numpy(), np.ones((4, 1))])
    assert_close(rows_of(objective, "margin"), signed, 1e-15)


# Forms of data


def ragged(x, y):
    return [(x[:3], y[:3]), (x[3:21], y[3:21]), (x[21:], y[21:])]


def loader(x, y):
    return torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, y), batch_size=7)


def numbers(objective):
    v = objective.asvector(np.linspace(-1, 1, objective.size))
    return [
        np.array(objective.risk()),
        objective.asnumpy(objective.gradient()),
        objective.asnumpy(objective.hessian()(v)),
        objective.asnumpy(objective.gauss_newton()(v)),
        objective.outputs(),
        objective.targets(),
        rows_of(objective),
        rows_of(objective, "margin"),
        objective.input_jacobian_squares(None, np.random.default_rng(0)),
        objective.input_jacobian_squares(3, np.random.default_rng(0)),
        objective.input_gradient_norms(),
        *objective.features().values(),
    ]


@pytest.mark.parametrize("memory", [None, 10_000, 1000, 1])
@pytest.mark.parametrize("form", [lambda x, y: (x, y), ragged, loader], ids=["tensors", "ragged", "loader"])
def test_neither_the_form_of_the_data_nor_the_memory_changes_a_number(form, memory):
    expected = numbers(small())
    objective = small(data=form, max_memory=memory)
    assert (objective.probe.kept is None) == (form is loader and memory is not None and memory <= 1000)
    for got, wanted in zip(numbers(objective), expected, strict=True):
        assert_close(got, wanted, 1e-13)


def test_a_sum_over_a_batch_is_divided_by_the_number_of_examples():
    x, y = points(torch.float64)
    mean = TorchObjective(built("mlp").double(), F.cross_entropy, (x, y))
    total = TorchObjective(
        built("mlp").double(),
        lambda f, y: F.cross_entropy(f, y, reduction="sum"),
        [(x[:1], y[:1]), (x[1:], y[1:])],
        reduction="sum",
        max_memory=1,
    )
    for got, wanted in zip(numbers(total), numbers(mean), strict=True):
        assert_close(got, wanted, 1e-13)


def test_inputs_can_be_a_mapping_or_several():
    class Sum(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(4, CLASSES)

        def forward(self, a, b):
            return self.layer(a - b)

    torch.manual_seed(0)
    model, (a, y), b = Sum(), points(), torch.ones(N, 4)
    forms = [((a, b), y), ({"a": a, "b": b}, y), (a, b, y), [(a[:2], b[:2], y[:2]), (a[2:], b[2:], y[2:])]]
    risks = [TorchObjective(model, F.cross_entropy, form).risk() for form in forms]
    assert_close(risks, np.full(4, F.cross_entropy(model(a, b), y).item()), 1e-6)
    jacobian = TorchObjective(model, F.cross_entropy, forms[0]).input_jacobian_squares(None, np.random.default_rng(0))
    assert_close(jacobian[:, 0], np.full(N, 2 * float(model.layer.weight.detach().double().square().sum())), 1e-6)


def test_targets_of_a_mapping_are_its_labels():
    assert objective_of("gpt with tied weights").targets().tolist() == texts()["labels"].tolist()


def test_a_subset_is_the_risk_over_those_examples_in_that_order():
    index = np.array([21, 3, 3, 23, 0])
    for form in (lambda x, y: (x, y), ragged, loader):
        whole = small(data=form, max_memory=1000)
        part = whole.subset(index)
        assert part.examples == 5
        assert_close(part.outputs(), whole.outputs()[index], 1e-14)
        assert_close(part.targets(), whole.targets()[index], 0.0)
        assert_close(rows_of(part), rows_of(whole)[index], 1e-13)
        assert_close(part.asnumpy(part.gradient()), rows_of(whole)[index].mean(0), 1e-13)


def test_a_part_of_the_data_counts_as_its_share():
    objective = small()
    with objective.work.spent() as told:
        part = objective.subset(np.arange(6))
        part.gradient()
        part.risk()
        part.hessian()(part.parameters())
    assert (told[0].products, told[0].gradients, told[0].forwards) == (0.25, 0.5, 0.25)


def test_what_is_built_once_counts_as_one_gradient_and_each_product_as_one():
    objective = small()
    operator = objective.hessian()
    with objective.work.spent() as told:
        for _ in range(3):
            operator(objective.parameters())
    assert (told[0].products, told[0].gradients) == (3.0, 1.0)


def test_at_other_weights_only_the_view_is_moved():
    objective = small()
    theta = objective.asnumpy(objective.parameters())
    moved = objective.at(theta + 1.0)
    assert_close(moved.asnumpy(moved.parameters()), theta + 1.0, 0.0)
    assert_close(objective.asnumpy(objective.parameters()), theta, 0.0)
    model = nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, CLASSES)).double()
    torch.nn.utils.vector_to_parameters(torch.tensor(theta + 1.0), model.parameters())
    (batch,) = objective.probe.batches()
    assert_close(moved.risk(), F.cross_entropy(model(batch.content[0]), batch.content[1]).item(), 1e-14)
    with pytest.raises(UsageError, match="vector of 66 entries"):
        objective.at(np.zeros(3))


class Checkpointed(nn.Module):
    def __init__(self, reentrant):
        super().__init__()
        self.first, self.inner, self.last = nn.Linear(4, 5), nn.Linear(5, 5), nn.Linear(5, CLASSES)
        self.reentrant = reentrant

    def forward(self, x):
        x = torch.tanh(self.first(x))
        if self.reentrant is None:
            return self.last(torch.tanh(self.inner(x)))
        run = torch.utils.checkpoint.checkpoint
        return self.last(run(lambda x: torch.tanh(self.inner(x)), x, use_reentrant=self.reentrant))


@pytest.mark.parametrize("reentrant", [False, True])
def test_activation_checkpoints_are_not_recomputed_at_the_models_own_weights(reentrant):
    def elsewhere(reentrant):
        torch.manual_seed(0)
        objective = TorchObjective(Checkpointed(reentrant), F.cross_entropy, points())
        moved = objective.at(objective.parameters() + 0.3)
        return torch.cat([moved.gradient(), moved.hessian()(moved.parameters())]).numpy()

    assert_close(elsewhere(reentrant), elsewhere(None), 1e-6)


def test_an_objective_follows_the_model_and_an_operator_does_not():
    objective = small()
    operator, v = objective.hessian(), objective.asvector(np.ones(objective.size))
    here, before = objective.at(objective.parameters()), objective.risk()
    product = operator(v).clone()
    with torch.no_grad():
        for p in objective.model.parameters():
            p.mul_(2.0)
    assert objective.risk() != before == here.risk()
    assert torch.equal(operator(v), product)
    assert not torch.allclose(objective.hessian()(v), product)


def test_other_inputs_take_the_targets_in_turn():
    objective = small(n=4)
    assert objective.inputs().shape == (4, 5)
    doubled = objective.with_inputs(lambda x: 2 * np.concatenate([x, x]))
    assert doubled.targets().tolist() == np.tile(objective.targets(), 2).tolist()
    assert_close(doubled.inputs(), 2 * np.tile(objective.inputs(), (2, 1)), 0.0)
    assert_close(
        objective.with_inputs(np.zeros((1, 5))).outputs(), objective.with_inputs(np.zeros((3, 5))).outputs()[:1], 0
    )
    with pytest.raises(ProbeError, match=r"shape \(m, \*\(5,\)\)"):
        objective.with_inputs(np.zeros((2, 4)))
    with pytest.raises(NotApplicable, match="int64"):
        objective_of("lstm").inputs()


# Graphs and memory


def saved_bytes(objective, kind):
    """Bytes of the distinct storages that graphs of kept parts hold, counted while a product is made."""
    held, own = {}, {t.untyped_storage().data_ptr() for b in objective.probe.batches() for t in b.tensors()}

    def pack(t):
        held[t.untyped_storage().data_ptr()] = (weakref.ref(t.untyped_storage()), t.untyped_storage().nbytes())
        return t.detach()

    operator = getattr(objective, kind)()
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        operator(objective.parameters())
    weights = {t.untyped_storage().data_ptr() for t in operator.apply._weights.tensors.values()}
    return operator, sum(size for pointer, (_, size) in held.items() if pointer not in own | weights)


@pytest.mark.parametrize("kind", ["hessian", "gauss_newton"])
def test_graphs_stay_below_the_memory_cap_and_as_many_are_kept_as_fit(kind):
    whole = small(n=400)
    name = kind.replace("_", "-")
    operator, everything = saved_bytes(whole, kind)
    assert operator.apply._complete
    predicted = whole.plan(name).cost.of(next(whole.probe.batches()))
    assert everything == pytest.approx(predicted, rel=0.02)
    cap = everything // 3
    capped = small(n=400, max_memory=cap)
    operator = getattr(capped, kind)()
    operator(capped.parameters())
    graphs = operator.apply._kept
    part = capped.plan(name).cost.of(next(capped.probe.batches())[: capped.plan(name).size])
    assert not operator.apply._complete
    assert len(graphs) >= 5
    assert (len(graphs) + 1) * part <= cap
    with capped.work.spent() as told:
        operator(capped.parameters())
    assert 0.5 < told[0].gradients < 0.8  # a third of the graphs is kept, less the one that is being used


def test_graphs_go_with_their_operator():
    objective = small()
    operator = objective.hessian()
    operator(objective.parameters())
    graph = weakref.ref(operator.apply._kept[0])
    leaf = weakref.ref(operator.apply._weights.leaves[0])
    gc.disable()
    try:
        del operator
        assert graph() is None
        assert leaf() is None
    finally:
        gc.enable()


# Layers and features


def test_layers_come_in_the_order_of_the_forward_pass_with_their_weights():
    model, layers = built("residual"), objective_of("residual").layers()
    assert [layer.name for layer in layers] == ["stem.weight", "first.weight", "second.weight", "head.weight"]
    assert [layer.kind for layer in layers] == ["convolution"] * 3 + ["dense"]
    assert_close(layers[1].weight, model.first.weight.detach().double().numpy(), 0.0)
    assert layers[0].bias is None
    assert_close(layers[3].bias, model.head.bias.detach().double().numpy(), 0.0)


def test_the_order_is_that_of_use_not_of_definition():
    class Backwards(nn.Module):
        def __init__(self):
            super().__init__()
            self.last, self.first = nn.Linear(6, CLASSES), nn.Linear(4, 6)

        def forward(self, x):
            return self.last(self.first(x))

    objective = TorchObjective(Backwards(), F.cross_entropy, points())
    assert [layer.name for layer in objective.layers()] == ["first.weight", "last.weight"]
    assert list(objective.features()) == ["first.weight", "last.weight"]


def test_tied_and_repeated_weights_are_shared():
    tied = {layer.name: layer.shared for layer in objective_of("gpt with tied weights").layers()}
    assert [tied["wte.weight"], tied["head.weight"], tied["qkv.weight"]] == [True, True, False]
    assert objective_of("gpt with tied weights").blocks.keys() >= {"wte.weight"}
    assert "head.weight" not in objective_of("gpt with tied weights").blocks
    repeated = objective_of("module used twice").layers()
    assert [(layer.name, layer.shared) for layer in repeated] == [
        ("inner.weight", True), ("inner.weight (use 2)", True), ("head.weight", False),
    ]  # fmt: skip


def test_features_are_the_inputs_of_the_layers():
    objective, model = objective_of("module used twice"), built("module used twice").eval()
    x = points()[0]
    told = objective.features()
    first = torch.tanh(model.inner(x))
    second = torch.tanh(model.inner(first))
    for got, wanted in zip(told.values(), (x, first, second), strict=True):
        assert_close(got, wanted.detach().double().numpy(), 1e-6)


def test_a_weight_of_transformers_and_of_a_transposed_convolution_has_outputs_first():
    gpt, model = objective_of("transformers gpt2"), built("transformers gpt2")
    layer = next(layer for layer in gpt.layers() if layer.name.endswith("mlp.c_fc.weight"))
    assert_close(layer.weight, model.transformer.h[0].mlp.c_fc.weight.detach().double().numpy().T, 0.0)
    up = nn.Sequential(nn.ConvTranspose2d(4, 6, 1, groups=2, bias=False), nn.Flatten())
    objective = TorchObjective(up, lambda f, y: f.square().mean(), (torch.randn(3, 4, 1, 1), torch.zeros(3)))
    weight = objective.layers()[0].matrix
    assert weight.shape == (6, 2)
    blocks = np.zeros((6, 4))
    blocks[:3, :2], blocks[3:, 2:] = weight[:3], weight[3:]
    assert_close(objective.outputs(), objective.inputs().reshape(3, 4) @ blocks.T, 1e-6)


def test_weights_that_no_layer_holds_are_noted():
    objective = objective_of("lstm")
    assert [layer.name for layer in objective.layers()] == ["embedding.weight", "head.weight"]
    assert any("lstm.weight_ih_l0, lstm.weight_hh_l0" in note for note in objective.settings.notes)


def test_features_need_examples_on_the_first_axis():
    class TimeFirst(nn.Module):
        def __init__(self):
            super().__init__()
            self.lstm, self.head = nn.LSTM(4, 5), nn.Linear(5, CLASSES)

        def forward(self, x):
            return self.head(self.lstm(x.transpose(0, 1))[0])[-1]

    data = (torch.randn(6, 3, 4), torch.randint(CLASSES, (6,)))
    with pytest.raises(NotApplicable, match=r"head.weight has shape \(3, 6, 5\)"):
        TorchObjective(TimeFirst(), F.cross_entropy, data).features()


# Inputs


def test_input_derivatives_are_those_of_autograd():
    objective = small(n=5)
    x = torch.tensor(objective.inputs())
    jacobians = [torch.autograd.functional.jacobian(objective.model, one) for one in x]
    exact = objective.input_jacobian_squares(None, np.random.default_rng(0))
    assert_close(exact, np.array([[float(j.square().sum())] for j in jacobians]), 1e-13)
    samples = objective.input_jacobian_squares(4, np.random.default_rng(7))
    signs = np.random.default_rng(7).choice([-1.0, 1.0], size=(5, 4, CLASSES))
    expected = [
        [float((torch.tensor(u) @ j).square().sum()) for u in us] for us, j in zip(signs, jacobians, strict=True)
    ]
    assert_close(samples, np.array(expected), 1e-13)
    y = torch.tensor(objective.targets())
    norms = []
    for one, label in zip(x, y, strict=True):
        free = one.clone().requires_grad_()
        loss = F.cross_entropy(objective.model(free)[None], label[None])
        norms.append(float(torch.autograd.grad(loss, free)[0].norm()))
    assert_close(objective.input_gradient_norms(), np.array(norms), 1e-13)
    with pytest.raises(NotApplicable, match="int64"):
        objective_of("lstm").input_gradient_norms()


def test_soft_targets_are_no_labels():
    x, y = points()
    objective = TorchObjective(mlp(), F.cross_entropy, (x, F.one_hot(y, CLASSES).float()))
    with pytest.raises(NotApplicable, match="one class number per example"):
        objective.labels()


# What is checked


def refused(match, model=None, loss=F.cross_entropy, data=None, **options):
    with pytest.raises(ProbeError, match=match):
        TorchObjective(mlp() if model is None else model, loss, points() if data is None else data, **options)


def test_a_model_without_trainable_parameters_is_refused():
    refused("4 parameters, and none requires a gradient", mlp().requires_grad_(False))
    refused("has 0 parameters", nn.Flatten())


def test_a_loss_that_is_not_one_number_is_refused():
    refused(r"got shape \(6,\) for 6 examples", loss=lambda f, y: F.cross_entropy(f, y, reduction="none"))
    refused("got a float", loss=lambda f, y: F.cross_entropy(f, y).item())
    refused("does not depend on any trainable parameter", loss=lambda f, y: F.cross_entropy(f.detach(), y))
    refused("has none. Pass loss_fn", loss=None)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_loss_that_is_not_finite_is_placed(bad):
    x, y = points()
    x[4, 1] = np.nan
    refused(r"nan in batch number 1 \(examples 2 ... 5\). The probe data", data=[(x[:2], y[:2]), (x[2:], y[2:])])
    model = mlp()
    model[2].weight.data[0, 0] = bad
    refused(r"has NaN or infinity in 2.weight", model)


def test_a_gradient_that_is_not_finite_is_refused():
    refused("its gradient is not", loss=lambda f, y: (f - f.detach()).square().sum().sqrt())


def test_active_dropout_is_named():
    model = nn.Sequential(mlp(), nn.Dropout(0.5))
    refused(r"Dropout is active in mode='train', in 1,", model, mode="train")
    assert TorchObjective(model, F.cross_entropy, points()).risk() > 0


class Stateful(nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.kind, self.layer = kind, nn.Linear(4, CLASSES)
        self.register_buffer("seen", torch.ones(()))
        self.calls = 1

    def forward(self, x):
        if self.kind == "buffer":
            self.seen += 1
        elif self.kind == "attribute":
            self.calls += 1
        elif self.kind == "noise":
            return self.layer(x + torch.randn(4))
        elif self.kind == "functional dropout":
            x = F.dropout(x, 0.5)
        elif self.kind == "in place":
            x.mul_(2.0)
        return self.layer(x) * self.seen * self.calls


def test_a_forward_pass_that_changes_what_it_uses_is_refused():
    refused("buffer seen", Stateful("buffer"))
    refused("attribute calls", Stateful("attribute"))
    refused("draws random numbers", Stateful("noise"))
    refused("draws random numbers", Stateful("functional dropout"))
    data = points()
    refused("writes into its inputs", Stateful("in place"), data=data)
    assert torch.equal(data[0], points()[0])


def test_weights_read_by_a_second_reference_are_named():
    class Aside(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(4, CLASSES)
            self.held = [self.layer.weight]

        def forward(self, x):
            return x @ self.held[0].T + self.layer.bias

    refused("reads layer.weight by a second reference", Aside())


def test_outputs_that_cannot_be_found_are_asked_for():
    model = built("returns a dict")
    with pytest.raises(ProbeError, match="one row per example"):
        TorchObjective(
            model, MODELS["returns a dict"].loss_fn, points(), outputs=lambda returned: returned["scores"].sum(0)
        ).outputs()
    with pytest.raises(ProbeError, match="with 'loss'"):
        TorchObjective(OnlyLoss(), None, {"x": points()[0]}).outputs()


class OnlyLoss(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 1)

    def forward(self, x):
        return {"loss": self.layer(x).square().mean()}


def test_a_loss_that_is_no_mean_over_examples_keeps_its_batches_whole():
    weight = torch.tensor([1.0, 5.0, 0.2], dtype=torch.float64)
    x, y = points(torch.float64)
    model = built("mlp").double()

    def loss(f, y):
        return F.cross_entropy(f, y, weight=weight)

    objective = TorchObjective(model, loss, [(x[:4], y[:4]), (x[4:], y[4:])], max_memory=1)
    expected = (4 * loss(model(x[:4]), y[:4]) + 2 * loss(model(x[4:]), y[4:])) / 6
    assert_close(objective.risk(), expected.item(), 1e-14)
    with pytest.raises(NotApplicable, match="class weights, ignored targets"):
        next(objective.per_example_gradients())


def test_the_gauss_newton_matrix_needs_a_loss_of_the_outputs_alone():
    model = built("mlp")

    def penalized(returned, y):
        return F.cross_entropy(returned["f"], y) + returned["size"]

    class Penalized(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = model

        def forward(self, x):
            return {"f": self.inner(x), "size": self.inner[0].weight.square().sum()}

    objective = TorchObjective(Penalized(), penalized, points())
    with pytest.raises(NotApplicable, match="through the outputs alone"):
        objective.gauss_newton()(objective.parameters())
    other = TorchObjective(Penalized(), lambda r, y: r["size"] + 0 * y.sum(), points(), outputs=lambda r: r["f"])
    with pytest.raises(NotApplicable, match="does not depend on the tensor that was taken"):
        other.gauss_newton()(other.parameters())


@pytest.mark.parametrize("option", [{"mode": "test"}, {"reduction": "none"}, {"max_memory": 0}])
def test_an_option_that_does_not_exist_is_told(option):
    with pytest.raises((UsageError, TypeError, Exception), match=next(iter(option))):
        TorchObjective(mlp(), F.cross_entropy, points(), **option)


# Reliability of derivatives


class WrongTwice(torch.autograd.Function):
    """The square, with a right first derivative and a wrong second one."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**2

    @staticmethod
    def backward(ctx, g):
        (x,) = ctx.saved_tensors
        return 2 * g * x.detach()


class WithWrongTwice(nn.Module):
    def __init__(self, right=False):
        super().__init__()
        self.layer, self.square = nn.Linear(4, CLASSES), torch.square if right else WrongTwice.apply

    def forward(self, x):
        return self.square(self.layer(x))


def test_a_wrong_second_derivative_is_caught_and_noted():
    torch.manual_seed(0)
    objective = TorchObjective(WithWrongTwice(), F.cross_entropy, points())
    assert objective.settings.notes == []
    objective.hessian()
    assert [note for note in objective.settings.notes if note.startswith("Do not trust")] != []
    error, _ = finite_difference_check(objective, np.random.default_rng(1))
    assert error > 0.05
    strict = TorchObjective(WithWrongTwice(), F.cross_entropy, points(), check=True)
    with pytest.raises(ProbeError, match="Do not trust"):
        strict.hessian()
    assert rows_of(objective).shape == (N, objective.size)


def test_a_right_second_derivative_passes_and_its_error_is_noted():
    torch.manual_seed(0)
    objective = TorchObjective(WithWrongTwice(right=True), F.cross_entropy, points(), check=True)
    objective.hessian()
    assert ["agree with differences" in note for note in objective.settings.notes] == [True]
    error, _ = finite_difference_check(objective, np.random.default_rng(1))
    assert error < 1e-7


def test_plain_models_are_not_checked_and_doubtful_ones_once():
    plain = objective_of("mlp")
    plain.hessian()
    assert plain.settings.notes == []
    normed = objective_of("cnn with group norm")
    normed.hessian()
    normed.hessian()
    assert len(normed.settings.notes) == 1


@pytest.mark.parametrize("name", ["transformer", "gpt with tied weights", "transformers gpt2"])
def test_attention_by_the_math_backend_is_noted(name):
    assert any("math backend" in note for note in objective_of(name).settings.notes)
    assert objective_of("mlp").settings.notes == []


def test_examples_one_by_one_are_those_of_vmap(monkeypatch):
    vectorized = rows_of(small(n=7))
    monkeypatch.setattr(examples_module, "vmap", refuse)
    objective = small(n=7)
    assert_close(rows_of(objective), vectorized, 1e-14)
    assert objective._support["vmap"] is False


def refuse(*args, **options):
    raise RuntimeError("no batching rule")


def test_the_interface_is_that_of_the_other_objective():
    assert issubclass(TorchObjective, AbstractObjective)
    public = {name for name in vars(JaxObjective) if not name.startswith("_")}
    assert public <= set(dir(TorchObjective))
