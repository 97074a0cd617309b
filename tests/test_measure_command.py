"""`gradbias measure`: files in, numbers with bounds out."""

import importlib.util
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from gradbias.cli import main
from gradbias.measures.catalogue import catalogue

MODEL = """
import torch
from neighbour import WIDTH

def build():
    return torch.nn.Sequential(torch.nn.Linear(WIDTH, 3))

def regression():
    return torch.nn.Linear(WIDTH, 1)

def broken():
    raise RuntimeError("no such layer")

def number():
    return 3

def half(outputs, targets):
    return 0.5 * torch.nn.functional.cross_entropy(outputs, targets)
"""
DATA = """
import torch

torch.manual_seed(0)
x = torch.randn(40, 4)
classes = (x, torch.randint(0, 3, (40,)))

def probe():
    return classes

def binary():
    return x, (x[:, 0] > 0).float()

def real():
    return x, x[:, :1] * 2
"""


@dataclass
class Told:
    code: int
    out: str
    err: str


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch) -> Callable[..., Told]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [*__import__("sys").path])
    for name, text in (("net.py", MODEL), ("numbers.py", DATA), ("neighbour.py", "WIDTH = 4\n")):
        (tmp_path / name).write_text(text)  # `numbers` is also a module of the standard library

    def run(*arguments: str) -> Told:
        with pytest.raises(SystemExit) as ended:
            main(["measure", *arguments])
        said = capsys.readouterr()
        assert "Traceback" not in said.err
        return Told(int(ended.value.code or 0), said.out, said.err)

    yield run
    for name in ("net", "neighbour"):
        __import__("sys").modules.pop(name, None)


def weights(seed: int) -> dict[str, torch.Tensor]:
    torch.manual_seed(seed)
    return torch.nn.Sequential(torch.nn.Linear(4, 3)).state_dict()


def norm(state) -> float:
    return float(np.sqrt(sum(float((t.double() ** 2).sum()) for t in state.values())))


def test_the_numbers_are_those_of_the_checkpoint(call, tmp_path):
    save_file(weights(5), tmp_path / "checkpoint.safetensors")
    told = call(
        "net.py:build",
        "checkpoint.safetensors",
        "--data",
        "numbers.py:probe",
        "--measures",
        "weight_norm,margin",
        "--json",
    )
    assert told.code == 0
    first, second = map(json.loads, told.out.splitlines())
    assert first["measure"] == "weight_norm"
    assert first["value"][first["names"].index("total")] == pytest.approx(norm(weights(5)), rel=1e-6)
    assert second["cost"]["forwards"] == 1
    assert second["value"] < 0
    assert "2 tensors from checkpoint.safetensors" in told.err


def test_a_table_has_value_bound_cost_and_reason(call):
    told = call("net.py:build", "--data", "numbers.py:classes", "--measures", "margin,neural_collapse")
    header, _, margin, collapse = told.out.splitlines()[:4]
    assert header.split() == ["measure", "value", "±", "bound", "cost", "reason"]
    assert "±" in margin
    assert "1 forward pass" in margin
    assert collapse.endswith("direct")
    assert "weights: those the model is built with" in told.err


@pytest.mark.parametrize(
    ("model", "data", "loss"),
    [
        ("build", "probe", "cross-entropy"),
        ("regression", "binary", "binary cross-entropy"),
        ("regression", "real", "mean squared error"),
    ],
)
def test_the_loss_is_chosen_by_the_targets_and_named(call, model, data, loss):
    told = call(f"net.py:{model}", "--data", f"numbers.py:{data}", "--measures", "gradient_norm", "--json")
    assert f"loss: {loss} (--loss" in told.err
    assert told.code == 0


def test_a_loss_of_one_s_own(call, tmp_path):
    save_file(weights(1), tmp_path / "w.safetensors")
    common = ("net.py:build", "w.safetensors", "--data", "numbers.py:probe", "--measures", "gradient_norm", "--json")
    whole, half = json.loads(call(*common).out), json.loads(call(*common, "--loss", "net.py:half").out)
    assert half["value"] == pytest.approx(whole["value"] / 2, rel=1e-5)


def test_options_of_measures_have_the_types_of_their_defaults(call):
    common = ("net.py:build", "--data", "numbers.py:probe", "--json", "--measures", "effective_rank,noise_covariance")
    told = call(*common, "--set", "effective_rank.of=features", "--set", "noise_covariance.k=2")
    first, second = map(json.loads, told.out.splitlines())
    assert first["options"] == {"of": "features"}
    assert second["options"]["k"] == 2


def test_equal_seeds_give_equal_numbers(call, tmp_path):
    save_file(weights(1), tmp_path / "w.safetensors")
    common = (
        "net.py:build",
        "w.safetensors",
        "--data",
        "numbers.py:probe",
        "--measures",
        "batch_sharpness",
        "--json",
        "--batch-size",
        "4",
    )

    def numbers(seed):
        told = json.loads(call(*common, "--seed", seed).out)
        return told["value"], told["bound"]

    assert numbers("1") == numbers("1")
    assert numbers("1") != numbers("2")


def test_drift_is_from_the_initial_weights(call, tmp_path):
    for seed in (1, 2):
        save_file(weights(seed), tmp_path / f"{seed}.safetensors")
    common = ("net.py:build", "1.safetensors", "--data", "numbers.py:probe", "--measures", "cka_to_init", "--json")
    told = call(*common, "--initial", "2.safetensors")
    assert told.code == 0
    assert "2 tensors from 2.safetensors" in told.err
    assert call(*common).code == 1


def test_what_has_no_meaning_is_said_and_the_rest_is_measured(call, tmp_path):
    told = call(
        "net.py:regression", "--data", "numbers.py:real", "--measures", "margin,weight_norm", "--output", "r.html"
    )
    assert told.code == 1
    assert "not applicable" in told.out
    assert "error: margin: This measure is of a classifier" in told.err
    page = (tmp_path / "r.html").read_text()
    assert "weight_norm" in page
    assert "This measure is of a classifier" in page
    assert told.out.splitlines()[-1] == "report: r.html"


def test_the_list_has_every_measure(call):
    told = call("--list")
    assert told.code == 0
    assert all(name in told.out for name in catalogue())
    assert {json.loads(line)["measure"] for line in call("--list", "--json").out.splitlines()} == set(catalogue())


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ((), 2, "Give a model and --data"),
        (("net.py:build",), 2, "Give a model and --data"),
        (("net.py:build", "--data", "numbers.py:probe"), 2, "--measures takes names"),
        (("net.py:build", "--data", "numbers.py:probe", "--measures", "margins"), 2, "Did you mean margin"),
        (
            ("net.py:build", "--data", "numbers.py:probe", "--measures", "margin", "--set", "margin.k=2"),
            2,
            "no option k",
        ),
        (
            ("net.py:build", "--data", "numbers.py:probe", "--measures", "margin", "--set", "k=2"),
            2,
            "measure.option=value",
        ),
        (("net.py:build", "--data", "numbers.py:probe", "--measures", "margin", "--mode", "fast"), 2, "eval or train"),
        (("net.py:built", "--data", "numbers.py:probe", "--measures", "margin"), 2, "no 'built' in net.py"),
        (("not.py:build", "--data", "numbers.py:probe", "--measures", "margin"), 2, "There is no file not.py"),
        (("net.py", "--data", "numbers.py:probe", "--measures", "margin"), 2, "file.py:function"),
        (("net.py:broken", "--data", "numbers.py:probe", "--measures", "margin"), 1, "RuntimeError: no such layer"),
        (
            ("net.py:number", "--data", "numbers.py:probe", "--measures", "margin"),
            1,
            "torch.nn.Module; it returned a int",
        ),
        (("net.py:build", "no.safetensors", "--data", "numbers.py:probe", "--measures", "margin"), 1, "no.safetensors"),
        (("bad.py:build", "--data", "numbers.py:probe", "--measures", "margin"), 1, "SyntaxError"),
    ],
)
def test_an_error_is_one_paragraph_with_its_code(call, tmp_path, arguments, code, words):
    (tmp_path / "bad.py").write_text("def build(:\n")
    told = call(*arguments)
    assert told.code == code
    assert words in told.err
    assert told.err.splitlines()[-1].startswith("error: ")
    assert told.out == ""


def test_a_pickle_is_read_only_if_it_is_trusted(call, tmp_path):
    torch.save({"state_dict": weights(3), "of": Path("somewhere")}, tmp_path / "c.pt")
    common = ("net.py:build", "c.pt", "--data", "numbers.py:probe", "--measures", "weight_norm", "--json")
    told = call(*common)
    assert told.code == 1
    assert "--trust-pickle" in told.err
    told = call(*common, "--trust-pickle")
    assert json.loads(told.out)["value"][0] == pytest.approx(norm(weights(3)), rel=1e-6)


def test_without_torch_the_remedy_is_named(call, monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "torch" else found(name, *rest)
    )
    told = call("net.py:build", "--data", "numbers.py:probe", "--measures", "margin")
    assert told.code == 1
    assert "pip install 'gradbias[torch]'" in told.err
