"""Bits before and after: every model in every measurement, also one that raises; and `untouched` around anything."""

import random

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from cases import without_type_checks
from gradbias.errors import NotApplicable, ProbeError
from gradbias.pytorch.torch_objective import TorchObjective
from gradbias.pytorch.untouched import differentiable, randomness_kept, untouched
from pytorch.models import MODELS, N, built, points


@pytest.fixture(autouse=True)
def _without_type_checks():
    """The type checker draws from `random` to choose which entries of a list it looks at."""
    with without_type_checks():
        yield


def bits(tensor):
    return tensor.detach().contiguous().view(-1).view(torch.uint8).numpy().tobytes()


def fingerprint(model, optimizer=None):
    """Everything that a measurement might change; objects by identity and tensors by their bits."""
    found = {}
    for name, module in model.named_modules():
        found[name, "attributes"] = [(key, id(value)) for key, value in module.__dict__.items()]
        found[name, "contents"] = [
            (key, [(id(k), id(value[k])) for k in value] if isinstance(value, dict) else [id(v) for v in value])
            for key, value in module.__dict__.items()
            if isinstance(value, dict | list)
        ]
        found[name, "mode"] = module.training
        found[name, "tensors"] = [(k, bits(v)) for k, v in module.__dict__.items() if isinstance(v, torch.Tensor)]
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        grad = tensor.grad if tensor.is_leaf else None
        found[name] = (id(tensor), tensor.data_ptr(), tensor._version, tensor.requires_grad, bits(tensor), id(grad))
        found[name, "grad"] = None if grad is None else (bits(grad), grad._version)
        found[name, "hooks"] = None if tensor._backward_hooks is None else list(tensor._backward_hooks.items())
    if optimizer is not None:
        found["optimizer"] = [
            (id(p), [(k, bits(v) if isinstance(v, torch.Tensor) else v) for k, v in state.items()])
            for p, state in optimizer.state.items()
        ]
        found["groups"] = [{**group, "params": [id(p) for p in group["params"]]} for group in optimizer.param_groups]
    return found


def surroundings():
    """Random numbers and switches."""
    legacy = np.random.get_state()  # noqa: NPY002
    return {
        "torch": bits(torch.get_rng_state()),
        "numpy": (legacy[0], legacy[1].tobytes(), *legacy[2:]),
        "python": random.getstate(),
        "grad": torch.is_grad_enabled(),
        "inference": torch.is_inference_mode_enabled(),
        "autocast": (torch.is_autocast_enabled("cpu"), torch.get_autocast_dtype("cpu")),
        "precision": torch.get_float32_matmul_precision(),
        "dtype": torch.get_default_dtype(),
        "fast path": torch.backends.mha.get_fastpath_enabled(),
        "attention": (torch.backends.cuda.flash_sdp_enabled(), torch.backends.cuda.math_sdp_enabled()),
        "cudnn": torch.backends.cudnn.enabled,
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "threads": torch.get_num_threads(),
    }


MEASUREMENTS = {
    "risk": lambda o: o.risk(),
    "gradient": lambda o: o.gradient(),
    "hessian": lambda o: o.hessian()(o.parameters()),
    "gauss-newton": lambda o: o.gauss_newton()(o.parameters()),
    "outputs": lambda o: o.outputs(),
    "labels": lambda o: o.labels(),
    "rows": lambda o: list(o.per_example_gradients()),
    "margins": lambda o: list(o.per_example_gradients("margin")),
    "input jacobian": lambda o: o.input_jacobian_squares(2, np.random.default_rng(0)),
    "input gradients": lambda o: o.input_gradient_norms(),
    "layers": lambda o: o.layers(),
    "features": lambda o: o.features(),
    "elsewhere": lambda o: o.at(o.parameters() + 1.0).gradient(),
    "on a part": lambda o: o.subset(np.arange(2)).gradient(),
}
READS_NO_LOSS = {"outputs", "labels", "margins", "input jacobian", "layers", "features"}


class Armed(RuntimeError):
    pass


class Fuse:
    """A loss that raises when it is armed."""

    def __init__(self, loss_fn):
        self.loss_fn, self.armed = loss_fn, False

    def __call__(self, returned, targets):
        if self.armed:
            raise Armed
        return returned["loss"] if self.loss_fn is None else self.loss_fn(returned, targets)


def with_hooks(model):
    """Hooks of the user's own, on a module and on a parameter: the latter must not see our gradients."""
    seen = []
    last = [m for m in model.modules() if not list(m.children())][-1]
    last.register_forward_hook(lambda module, given, result: None)
    next(p for p in model.parameters() if p.requires_grad).register_hook(seen.append)
    return model, seen


WITH_DROPOUT = {"transformer", "transformers gpt2"}  # refused in train mode


@pytest.mark.parametrize(
    ("name", "mode"),
    [(name, mode) for name in MODELS for mode in ("eval", "train") if mode == "eval" or name not in WITH_DROPOUT],
)
def test_a_measurement_leaves_no_trace_also_when_it_raises(name, mode):
    specimen, (model, seen) = MODELS[name], with_hooks(built(name))
    loss = Fuse(specimen.loss_fn)
    model.eval()
    next(model.modules()).train(True)  # modes that differ from module to module
    before, around = fingerprint(model), surroundings()
    objective = TorchObjective(model, loss, specimen.data(), mode=mode, **specimen.options)
    for taken in MEASUREMENTS.values():
        try:
            taken(objective)
        except NotApplicable:
            continue
        finally:
            assert fingerprint(model) == before
            assert surroundings() == around
    loss.armed = True
    for label, taken in MEASUREMENTS.items():
        if label in READS_NO_LOSS:
            continue
        with pytest.raises((Armed, NotApplicable)):
            taken(objective)
        assert fingerprint(model) == before
        assert surroundings() == around
    with pytest.raises(Armed):
        TorchObjective(model, loss, specimen.data(), mode=mode, **specimen.options)
    assert fingerprint(model) == before
    assert surroundings() == around
    assert seen == []


@pytest.mark.parametrize("caller", [torch.no_grad, torch.inference_mode, lambda: torch.autocast("cpu", torch.bfloat16)])
@pytest.mark.parametrize("name", ["mlp", "cnn with batch norm", "lstm", "gpt with tied weights"])
def test_the_callers_modes_change_neither_a_number_nor_are_changed(name, caller):
    specimen, model = MODELS[name], built(name)

    def numbers():
        objective = TorchObjective(model, specimen.loss_fn, specimen.data())
        v = objective.parameters()
        return objective.risk(), objective.gradient(), objective.hessian()(v), *objective.per_example_gradients()

    expected, before = numbers(), fingerprint(model)
    with caller():
        around = surroundings()
        got = numbers()
        assert surroundings() == around
    assert fingerprint(model) == before
    assert got[0] == expected[0]
    assert all(torch.equal(a, b) for a, b in zip(got[1:], expected[1:], strict=True))


class Drawing(nn.Module):
    """Draws from every generator, in vain or not."""

    def __init__(self, scale):
        super().__init__()
        self.layer, self.scale = nn.Linear(4, 3), scale

    def forward(self, x):
        drawn = torch.rand(()) + float(np.random.rand()) + random.random()  # noqa: NPY002
        return self.layer(x) + self.scale * drawn * x[:, :3]


def test_random_numbers_that_a_model_draws_are_given_back_also_when_it_is_refused():
    around = surroundings()
    model = Drawing(0.0)
    assert surroundings() != around  # initial weights are the caller's own draw
    around = surroundings()
    objective = TorchObjective(model, F.cross_entropy, points())
    assert surroundings() == around
    for taken in MEASUREMENTS.values():
        taken(objective)
        assert surroundings() == around
    model.scale = 1.0
    with pytest.raises(ProbeError, match="draws random numbers"):
        TorchObjective(model, F.cross_entropy, points())
    assert surroundings() == around


def test_precision_of_products_is_raised_for_the_measurement_only():
    before = torch.get_float32_matmul_precision()
    seen = []

    def loss(f, y):
        seen.append(torch.get_float32_matmul_precision())
        return F.cross_entropy(f, y)

    torch.set_float32_matmul_precision("medium")
    try:
        TorchObjective(built("mlp"), loss, points()).risk()
        assert set(seen) == {"highest"}
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before)


def test_batch_statistics_are_kept_in_train_mode():
    model = built("cnn with batch norm")
    norm, before = model[1], fingerprint(model)
    TorchObjective(model, F.cross_entropy, MODELS["cnn with batch norm"].data(), mode="train").gradient()
    assert fingerprint(model) == before
    model(MODELS["cnn with batch norm"].data()[0])
    assert norm.num_batches_tracked == 1


def test_between_chunks_of_gradients_the_model_is_in_the_users_mode():
    model = built("mlp")
    objective = TorchObjective(model, F.cross_entropy, points(), max_memory=1)
    chunks = 0
    for _ in objective.per_example_gradients():
        assert model.training
        torch.rand(1)  # the caller's own draw is not taken back
        chunks += 1
    torch.manual_seed(0)
    first = [torch.rand(1) for _ in objective.per_example_gradients()]
    torch.manual_seed(0)
    assert first == [torch.rand(1) for _ in range(chunks)]
    assert chunks == N


def test_what_a_model_keeps_on_itself_is_let_go():
    class Keeping(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.kept, self.log, self.count = nn.Linear(4, 3), None, [], {"calls": 0}

        def forward(self, x):
            self.kept = self.layer(x)
            self.log.append(self.kept)
            self.count["calls"] = self.count["calls"] + 1
            return self.kept

    model = Keeping()
    TorchObjective(model, F.cross_entropy, points()).gradient()
    assert (model.kept, model.log, model.count) == (None, [], {"calls": 0})


# The context


def trained():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Linear(5, 3))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    x, y = points()
    for _ in range(2):
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
    return model, optimizer


def vandalize(model, optimizer):
    x, y = points()
    model.eval()
    model[1].train()
    F.cross_entropy(model(x), y).backward()
    optimizer.step()
    optimizer.param_groups[0]["lr"] = 5.0
    optimizer.add_param_group({"params": [nn.Parameter(torch.zeros(1))]})
    optimizer.zero_grad(set_to_none=True)
    model[0].weight.requires_grad_(False)
    model[0].bias.data = torch.zeros(5)
    model[2].weight.grad = torch.ones(3, 5)
    model[2].register_forward_hook(lambda *_: None)
    model[2].bias.register_hook(lambda g: 2 * g)
    model[1].extra = torch.zeros(3)
    model.add_module("more", nn.Linear(3, 3))
    del model[1].eps
    torch.rand(3), np.random.rand(3), random.random()  # noqa: NPY002
    torch.set_grad_enabled(False)
    torch.set_default_dtype(torch.float64)
    torch.set_float32_matmul_precision("medium")
    torch.backends.mha.set_fastpath_enabled(False)
    torch.use_deterministic_algorithms(True)


@pytest.mark.parametrize("raising", [False, True])
def test_whatever_happens_inside_everything_is_as_before(raising):
    model, optimizer = trained()
    model[2].weight.grad = None

    def seen():  # values are written back through `.data`: versions count the block's own writes
        found = fingerprint(model, optimizer)
        return {
            k: v[:2] + v[3:] if isinstance(k, str) and isinstance(v, tuple) else _first(v) for k, v in found.items()
        }

    before, around = seen(), surroundings()
    try:
        with untouched(model, optimizer):
            vandalize(model, optimizer)
            assert seen() != before
            if raising:
                raise Armed
    except Armed:
        assert raising
    assert seen() == before
    assert surroundings() == around


def _first(value):
    """A gradient's bits without its version."""
    return value[0] if isinstance(value, tuple) else value


def test_a_generator_that_is_given_is_kept():
    generator = torch.Generator().manual_seed(3)
    state = generator.get_state()
    with randomness_kept(generator):
        torch.rand(2, generator=generator)
    assert torch.equal(generator.get_state(), state)


def test_fused_attention_can_be_differentiated_twice_inside():
    q = torch.randn(2, 1, 3, 4, requires_grad=True)

    def second():
        attended = F.scaled_dot_product_attention(q, q, q).square().sum()
        (slope,) = torch.autograd.grad(attended, q, create_graph=True)
        return torch.autograd.grad(slope.square().sum(), q)

    with pytest.raises(RuntimeError, match="not implemented"):
        second()
    with differentiable(nn.Linear(1, 1), torch.device("cpu")):
        assert torch.isfinite(second()[0]).all()
