"""Checkpoints: what is recognised, what is refused, and that nothing is loaded by half."""

import copy
import pickle
import re

import pytest
import torch
from safetensors.torch import save_file, save_model
from torch import nn

from gradbias.errors import ProbeError
from gradbias.pytorch.checkpoint import load_checkpoint


def network(width=4):
    return nn.Sequential(nn.Linear(3, width), nn.BatchNorm1d(width), nn.Linear(width, 2))


@pytest.fixture
def saved():
    torch.manual_seed(0)
    model = network()
    model[1].running_mean.normal_()
    return model


@pytest.fixture
def model():
    torch.manual_seed(1)
    return network()


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


def prefixed(state, prefix):
    return {prefix + name: tensor for name, tensor in state.items()}


def test_safetensors_are_known_by_their_ending_and_by_their_content(saved, model, tmp_path):
    for name in ("run.safetensors", "weights.bin"):
        fresh = copy.deepcopy(model)
        save_file(saved.state_dict(), tmp_path / name)
        assert load_checkpoint(fresh, tmp_path / name) == f"9 tensors from {name}"
        assert same(fresh, saved)


@pytest.mark.parametrize("zipped", [True, False])
def test_torch_files_are_read(saved, model, tmp_path, zipped):
    path = tmp_path / "run.pt"
    torch.save(saved.state_dict(), path, _use_new_zipfile_serialization=zipped)
    load_checkpoint(model, str(path))
    assert same(model, saved)


@pytest.mark.parametrize(
    ("wrap", "told"),
    [
        (
            lambda s: {"epoch": 3, "state_dict": prefixed(s, "model."), "loops": {"a": 1}},
            "under 'state_dict', .* 'model.'",
        ),
        (lambda s: {"optimizer": {"state": {0: {"m": torch.ones(2)}}}, "model": prefixed(s, "module.")}, "'module.'"),
        (lambda s: prefixed(s, "_orig_mod."), "prefix '_orig_mod.'"),
        (lambda s: {"ema": {n: t + 1 for n, t in s.items()}, "model": s, "loss": torch.tensor(1.0)}, "under 'model'"),
        (lambda s: {"trainer": {"best": s}}, "under 'trainer.best'"),
        (lambda s: {**prefixed(s, "model."), "metric.total": torch.tensor(2)}, "taken off, 1 others left out"),
    ],
)
def test_training_checkpoints_are_recognised_and_reported(saved, model, tmp_path, wrap, told):
    torch.save(wrap(saved.state_dict()), tmp_path / "run.ckpt")
    report = load_checkpoint(model, tmp_path / "run.ckpt")
    assert same(model, saved)
    assert re.search(told, report)


def test_a_key_chooses_among_several(saved, model, tmp_path):
    states = {"model": model.state_dict(), "ema": {"best": saved.state_dict()}}
    torch.save(states, tmp_path / "run.pt")
    load_checkpoint(model, tmp_path / "run.pt", key="ema.best")
    assert same(model, saved)
    with pytest.raises(ProbeError, match=r"no entry 'swa'.*model, ema"):
        load_checkpoint(model, tmp_path / "run.pt", key="swa")


def test_what_does_not_fit_is_told_at_once_and_nothing_is_loaded(saved, model, tmp_path):
    state = saved.state_dict()
    state["2.weight"] = torch.zeros(2, 5)
    state["head.weight"] = state.pop("0.bias")
    torch.save(state, tmp_path / "run.pt")
    before = copy.deepcopy(model)
    with pytest.raises(ProbeError) as error:
        load_checkpoint(model, tmp_path / "run.pt")
    for part in ("1 missing in the file (0.bias)", "1 not in the model (head.weight)", "2.weight (2, 5) for (2, 4)"):
        assert part in str(error.value)
    assert "\n" not in str(error.value)
    assert same(model, before)


def test_a_long_list_is_cut(model, tmp_path):
    torch.save({f"layer{i}": torch.zeros(1) for i in range(50)}, tmp_path / "run.pt")
    with pytest.raises(ProbeError, match=r"50 not in the model \(layer0, layer1, layer2, \.\.\.\)"):
        load_checkpoint(model, tmp_path / "run.pt")


class Picky(nn.Linear):
    def _load_from_state_dict(self, state, prefix, *rest):
        nn.Linear._load_from_state_dict(self, state, prefix, *rest)
        if torch.any(self.bias > 5):
            raise RuntimeError("too large a bias")


def test_a_model_that_refuses_in_the_middle_is_as_it_was(tmp_path):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(2, 2), Picky(2, 2))
    before = copy.deepcopy(model)
    torch.save({name: torch.full_like(t, 9.0) for name, t in model.state_dict().items()}, tmp_path / "run.pt")
    with pytest.raises(ProbeError, match=r"refused the weights.*too large a bias"):
        load_checkpoint(model, tmp_path / "run.pt")
    assert same(model, before)


class Tied(nn.Module):
    def __init__(self):
        nn.Module.__init__(self)
        self.embed, self.decode = nn.Embedding(5, 3), nn.Linear(3, 5, bias=False)
        self.decode.weight = self.embed.weight


def test_a_tied_weight_may_be_there_once_but_not_twice_with_other_values(tmp_path):
    saved, model = Tied(), Tied()
    save_model(saved, str(tmp_path / "run.safetensors"))
    load_checkpoint(model, tmp_path / "run.safetensors")
    assert same(model, saved)
    torch.save({"embed.weight": torch.zeros(5, 3), "decode.weight": torch.ones(5, 3)}, tmp_path / "run.pt")
    with pytest.raises(ProbeError, match="one tensor in the model but two in the file"):
        load_checkpoint(model, tmp_path / "run.pt")
    assert same(model, saved)


class Trap:
    sprung = False

    def __reduce__(self):
        return (spring, ())


def spring():
    Trap.sprung = True
    return 0


def test_code_in_a_file_is_run_only_if_it_is_trusted(saved, model, tmp_path):
    torch.save({"state_dict": saved.state_dict(), "config": Trap()}, tmp_path / "run.pt")
    with pytest.raises(ProbeError, match=r"holds more than tensors .*spring.*--trust-pickle"):
        load_checkpoint(model, tmp_path / "run.pt")
    assert not Trap.sprung
    assert not same(model, saved)
    load_checkpoint(model, tmp_path / "run.pt", trust_pickle=True)
    assert Trap.sprung
    assert same(model, saved)


def test_a_whole_module_is_read_if_trusted(saved, model, tmp_path):
    torch.save(saved, tmp_path / "run.pt")
    with pytest.raises(ProbeError, match="trust"):
        load_checkpoint(model, tmp_path / "run.pt")
    load_checkpoint(model, tmp_path / "run.pt", trust_pickle=True)
    assert same(model, saved)


def broken(saved, tmp_path):
    torch.save(saved.state_dict(), tmp_path / "whole.pt")
    torch.save(saved.state_dict(), tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    save_file(saved.state_dict(), tmp_path / "whole.safetensors")
    whole, old, safe = ((tmp_path / n).read_bytes() for n in ("whole.pt", "old.pt", "whole.safetensors"))
    yield "a.pt", b""
    yield "b.pt", whole[: len(whole) // 2]
    yield "c.pt", old[: len(old) // 2]
    yield "d.pt", b"<html>404</html>"
    yield "e.pt", whole[:100] + bytes(300) + whole[400:]
    yield "f.safetensors", b""
    yield "g.safetensors", safe[:-8]
    yield "h.bin", safe[:60]
    yield "i.pt", pickle.dumps([1, 2])


@pytest.mark.parametrize("trust", [False, True])
def test_broken_files_are_told_from_refused_ones(saved, model, tmp_path, trust):
    before = copy.deepcopy(model)
    for name, content in broken(saved, tmp_path):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ProbeError) as error:
            load_checkpoint(model, tmp_path / name, trust_pickle=trust)
        assert name in str(error.value)
        assert "\n" not in str(error.value)
        if name != "i.pt":
            assert "is no whole checkpoint" in str(error.value), (name, str(error.value))
    assert same(model, before)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("tensor.pt", torch.zeros(3), "holds a Tensor"),
        ("numbers.pt", {"a": 1, "b": {"c": 2}}, r"no state dict.*a, b"),
    ],
)
def test_files_without_weights_say_what_they_hold(model, tmp_path, name, content, message):
    torch.save(content, tmp_path / name)
    with pytest.raises(ProbeError, match=message):
        load_checkpoint(model, tmp_path / name)


def test_paths_that_are_no_file_are_refused(model, tmp_path):
    with pytest.raises(ProbeError, match=r"missing\.pt cannot be read: No such file"):
        load_checkpoint(model, tmp_path / "missing.pt")
    with pytest.raises(ProbeError, match="is a directory"):
        load_checkpoint(model, tmp_path)
    with pytest.raises(ProbeError, match="index of shards"):
        load_checkpoint(model, tmp_path / "model.safetensors.index.json")
