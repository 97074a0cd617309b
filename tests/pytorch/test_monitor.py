"""The monitor in a training loop: what it reads, and that nothing else notices it."""

import copy
import gc
import math
import sys

import numpy as np
import pytest
import torch
from torch import nn

import gradbias.pytorch as gbt
from gradbias.errors import NotApplicable, ProbeError, UsageError
from gradbias.measures.catalogue import Measure, catalogue, take_all
from gradbias.measures.estimate import Estimate
from gradbias.pytorch.monitor import at_state

LOSS = nn.functional.cross_entropy
CHEAP = ["margin", "weight_norm", "gradient_norm"]


def network(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, 3))


def data(n=24):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(n, 6, generator=generator), torch.arange(n) % 3


def toy(monkeypatch, name, take, needs="", planned=1.0):
    def estimate(objective, *, rng, state, **options):
        return take(objective)

    made = Measure(name, "toys", "A toy.", "", lambda o: planned, "", "", "", needs, (), {}, estimate)
    monkeypatch.setattr(sys.modules["gradbias.measures.catalogue"], "catalogue", lambda: {**catalogue(), name: made})


def train(monitored, steps=6):
    """Everything a training leaves behind, bit by bit."""
    torch.manual_seed(3)
    np.random.seed(3)  # noqa: NPY002
    model, (x, y) = network(), data()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    monitor, rows = None, []
    if monitored:
        probe = (x[:12], y[:12])
        monitor = gbt.Monitor(model, LOSS, probe, [*CHEAP, "cka_to_init"], optimizer=optimizer, budget=None, every=2)
    for _ in range(steps):
        index = torch.randperm(len(x))[:16]
        optimizer.zero_grad()
        LOSS(model(x[index]), y[index]).backward()
        optimizer.step()
        if monitor is not None:
            rows.append(monitor.step())
    state = [*model.state_dict().values(), *(p.grad for p in model.parameters())]
    state += [t for held in optimizer.state.values() for t in held.values()]
    drawn = [torch.rand(3), torch.tensor(np.random.rand(3))]  # noqa: NPY002 (beartype draws from `random`)
    return [t.clone() for t in (*state, *drawn)], [m.training for m in model.modules()], rows, monitor


def test_a_monitored_training_is_the_same_bit_by_bit():
    (alone, modes, _, _), (watched, same, rows, _) = train(False), train(True)
    assert len(alone) == len(watched)
    assert all(torch.equal(a, b) for a, b in zip(alone, watched, strict=True))
    assert modes == same
    assert [row is not None for row in rows] == [False, True] * 3


def test_rows_are_flat_dicts_of_floats_and_the_trajectory_starts_at_construction():
    _, _, rows, monitor = train(True)
    assert rows[1].keys() >= {
        "step",
        "margin",
        "margin/bound",
        "gradient_norm",
        "weight_norm/total",
        "monitor/overhead",
    }
    assert all(type(value) is float for value in rows[1].values())
    found = monitor.trajectory()
    assert found["step"].values.tolist() == [0, 2, 4, 6]
    assert float(found["margin"].sel(step=4)) == rows[3]["margin"]
    assert float(found["cka_to_init"].sel(step=0).min()) == pytest.approx(1.0, abs=1e-4)
    assert float(found["cka_to_init"].sel(step=6).min()) < 0.9999
    assert "Adam" in monitor.summary()


def test_a_reading_is_of_the_weights_at_its_step():
    model, (x, y) = network(), data()
    monitor = gbt.Monitor(model, LOSS, (x, y), ["margin"], budget=None, every=1)
    for scale in (2.0, 0.5):
        with torch.no_grad():
            model[4].weight.mul_(scale)
        model.eval()
        outputs = model(x).detach().double()
        model.train()
        right = outputs.gather(1, y[:, None])[:, 0]
        others = outputs.scatter(1, y[:, None], -math.inf).amax(1)
        row = monitor.step()
        assert row["margin"] == pytest.approx(float((right - others).min()), rel=1e-5)


def test_the_initial_function_keeps_its_buffers_when_the_model_s_move_on():
    model, (x, y) = network(), data()
    objective = gbt.TorchObjective(model, LOSS, (x, y))
    before, start = objective.outputs(), copy.deepcopy(model.state_dict())
    initial = at_state(objective, model)
    model(x * 3 + 1)  # running statistics of BatchNorm
    with torch.no_grad():
        model[0].weight.add_(1.0)
    assert np.abs(objective.outputs() - before).max() > 0.1
    np.testing.assert_array_equal(initial.outputs(), before)
    np.testing.assert_array_equal(at_state(objective, start).outputs(), before)


def test_initial_weights_of_another_model_are_refused_by_name():
    model, pair = network(), data()
    objective = gbt.TorchObjective(model, LOSS, pair)
    state = model.state_dict()
    state["extra"] = state.pop("4.bias")
    state["0.weight"] = state["0.weight"][:, :2]
    with pytest.raises(ProbeError, match=r"missing: 4.bias; unexpected: extra; of another shape: 0.weight"):
        at_state(objective, state)


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(6, 6, bias=False), nn.Linear(6, 6, bias=False)
        self.second.weight = self.first.weight

    def forward(self, x):
        return self.second(torch.tanh(self.first(x)))


def test_a_tied_weight_may_be_there_under_one_of_its_names():
    model, (x, y) = Tied(), data()
    objective = gbt.TorchObjective(model, LOSS, (x, y))
    expected = objective.outputs()
    for left_out in ("first.weight", "second.weight"):
        state = {name: t.clone() for name, t in model.state_dict().items() if name != left_out}
        np.testing.assert_array_equal(at_state(objective, state).outputs(), expected)


def test_one_shot_measures_are_those_of_the_catalogue():
    model, pair = network(), data()
    told = gbt.measure(model, LOSS, pair, {"margin": {}, "effective_rank": {"of": "features"}}, seed=4)
    objective = gbt.TorchObjective(model, LOSS, pair)
    expected = take_all({"margin": {}, "effective_rank": {"of": "features"}}, objective, seed=4)
    assert told["margin"].value == expected["margin"].value
    np.testing.assert_array_equal(told["effective_rank"].value, expected["effective_rank"].value)
    assert all(estimate.cost.forwards for estimate in told.values())


def test_what_goes_with_a_measure_reaches_it(monkeypatch):
    model, pair = network(), data()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    toy(monkeypatch, "threshold", lambda o: Estimate(o.settings.geometry().threshold, 0.0))
    toy_two = lambda o: Estimate(float(o.settings.batch_size), 0.0)  # noqa: E731
    assert float(gbt.measure(model, LOSS, pair, "threshold", optimizer=optimizer)["threshold"]) == 20.0
    toy(monkeypatch, "batch", toy_two)
    assert float(gbt.measure(model, LOSS, pair, "batch", batch_size=32)["batch"]) == 32.0


def test_an_optimizer_without_averages_is_waited_for(monkeypatch):
    model, (x, y) = network(), data()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    toy(monkeypatch, "threshold", lambda o: Estimate(o.settings.geometry().threshold, 0.0))
    monitor = gbt.Monitor(model, LOSS, (x, y), "threshold", optimizer=optimizer, budget=None, every=1)
    LOSS(model(x), y).backward()
    optimizer.step()
    assert monitor.step()["threshold"] == pytest.approx(380.0)


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"measures": ["margins"]}, UsageError, "Did you mean"),
        ({"measures": []}, UsageError, "at least one"),
        ({"mode": "train"}, ProbeError, "ropout"),
        ({"loss_fn": lambda f, y: LOSS(f, y) * float("nan")}, ProbeError, "nan"),
        ({"budget": 0.0}, UsageError, "share of the step time"),
    ],
)
def test_what_cannot_be_measured_is_an_error_at_construction(arguments, error, words):
    given = {"loss_fn": LOSS, "measures": ["margin"], **arguments}
    with pytest.raises(error, match=words):
        gbt.Monitor(network(), given.pop("loss_fn"), data(), given.pop("measures"), **given)


def test_a_measure_without_a_meaning_here_is_reported_once_and_the_training_goes_on():
    model = nn.Linear(6, 1)
    pair = (data()[0], torch.randn(24, 1))
    with pytest.warns(RuntimeWarning, match="margin failed at step 0.*classifier") as caught:
        monitor = gbt.Monitor(model, nn.functional.mse_loss, pair, ["margin", "weight_norm"], budget=None, every=1)
    assert len(caught) == 1
    rows = [monitor.step() for _ in range(3)]
    assert all("weight_norm/total" in row and "margin" not in row for row in rows)
    assert "classifier" in monitor.summary()
    with pytest.raises(NotApplicable, match="classifier"):
        gbt.measure(model, nn.functional.mse_loss, pair, ["margin"])


def test_no_graph_outlives_a_reading():
    model, pair = network(), data()
    monitor = gbt.Monitor(model, LOSS, pair, [*CHEAP, "noise_alignment", "cka_to_init"], budget=None, every=1)
    monitor.step()

    def alive():
        gc.collect()
        tensors = [o for o in gc.get_objects() if issubclass(type(o), torch.Tensor)]
        return len(tensors), sum(t.grad_fn is not None for t in tensors)

    before = alive()
    monitor.step()
    assert alive() == before
    assert before[1] == 0


def test_the_page_of_a_monitored_training_names_the_model(tmp_path):
    _, _, _, monitor = train(True)
    page = monitor.report(tmp_path / "run.html").read_text()
    assert "Sequential" in page
    assert "12 examples" in page
    assert "Is every probe example classified as labelled?" in page


def test_memory_is_by_default_that_of_a_training_step():
    model = nn.Sequential(nn.Linear(3, 100), nn.Tanh(), nn.Linear(100, 2))
    x, y = torch.randn(32, 3), torch.randint(2, (32,))
    objective = gbt.TorchObjective(model, LOSS, (x, y))
    assert objective.limited(1000, 10).max_memory == 1000
    assert objective.limited(None, 1).max_memory == 1 << 25
    one, two = (objective.limited(None, n).max_memory for n in (10**6, 2 * 10**6))
    # The hidden units are saved, by tanh and by the layer after it once, and the outputs by the loss.
    assert 4 * 100 * 10**6 <= two - one <= 4 * (100 + 2 * 2 + 2) * 10**6
