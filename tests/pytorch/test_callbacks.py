"""The monitor inside Lightning's and Hugging Face's trainers, the real ones, for a few steps."""

import math
import sys
import warnings

import pytest
import torch
from torch import nn

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # what the libraries say while they are imported
    import lightning.pytorch as pl
    import transformers
    from lightning.pytorch.loggers import CSVLogger

from gradbias.errors import UsageError
from gradbias.pytorch import lightning as of_lightning
from gradbias.pytorch import transformers as of_transformers

MEASURES = ["margin", "weight_norm", "gradient_norm"]
LOSS = nn.functional.cross_entropy

# Lightning's own use of a deprecated name of torch.
pytestmark = pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning")


class Classifier(pl.LightningModule):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(6, 8), nn.Dropout(0.2), nn.Linear(8, 3))

    def forward(self, x):
        return self.net(x)

    def training_step(self, batch, number):
        x, y = batch
        return LOSS(self(x), y)

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=0.01)


def pairs(n=32):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(n, 6, generator=generator), torch.arange(n) % 3


def fit(callbacks, folder, **options):
    data = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(*pairs()), batch_size=8)
    trainer = pl.Trainer(
        max_epochs=2,
        accelerator="cpu",
        callbacks=callbacks,
        logger=CSVLogger(folder, name="log"),
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        log_every_n_steps=1,
        **options,
    )
    model = Classifier()
    trainer.fit(model, data)
    return trainer, model


def test_lightning_logs_rows_and_writes_the_page(tmp_path):
    callback = of_lightning.MonitorCallback(
        LOSS, pairs(12), MEASURES, report=tmp_path / "run.html", budget=None, every=2
    )
    trainer, model = fit([callback], tmp_path)
    trainer.logger.save()
    head, *lines = (tmp_path / "log" / "version_0" / "metrics.csv").read_text().splitlines()
    assert {"margin", "margin/bound", "weight_norm/total", "monitor/overhead", "step"} <= set(head.split(","))
    assert [int(line.split(",")[head.split(",").index("step")]) for line in lines] == [2, 4, 6, 8]
    assert "Classifier" in (tmp_path / "run.html").read_text()
    assert callback.monitor.trajectory()["step"].values.tolist() == [0, 2, 4, 6, 8]
    assert "optimizer: Adam" in callback.monitor.summary()
    assert model.training


def test_a_training_with_the_callback_is_the_same(tmp_path):
    _, alone = fit([], tmp_path)
    _, watched = fit([of_lightning.MonitorCallback(LOSS, pairs(12), MEASURES, budget=None, every=1)], tmp_path)
    assert all(torch.equal(a, b) for a, b in zip(alone.parameters(), watched.parameters(), strict=True))


def test_steps_are_the_optimizer_s_and_the_batch_size_what_it_sees(tmp_path):
    callback = of_lightning.MonitorCallback(
        LOSS, pairs(12), MEASURES, model=lambda module: module.net, budget=None, every=1
    )
    trainer, _ = fit([callback], tmp_path, accumulate_grad_batches=2)
    assert trainer.global_step == 4
    assert callback.monitor.trajectory()["step"].values.tolist() == [0, 1, 2, 3, 4]
    assert callback.monitor._objective.settings.batch_size == 16
    assert "Sequential" in callback.monitor.summary()


def test_what_cannot_be_measured_stops_lightning_at_the_start(tmp_path):
    with pytest.raises(UsageError, match="Did you mean"):
        fit([of_lightning.MonitorCallback(LOSS, pairs(12), ["margins"])], tmp_path)


VOCABULARY, LENGTH = 20, 6


def language_model():
    config = transformers.GPT2Config(
        vocab_size=VOCABULARY, n_positions=LENGTH, n_embd=8, n_layer=1, n_head=2, bos_token_id=0, eos_token_id=0
    )
    torch.manual_seed(0)
    return transformers.GPT2LMHeadModel(config)


def classifier():
    config = transformers.BertConfig(
        vocab_size=VOCABULARY,
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=LENGTH,
        num_labels=3,
    )
    torch.manual_seed(0)
    return transformers.BertForSequenceClassification(config)


def sentences(n, *, labels):
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(0, VOCABULARY, (n, LENGTH), generator=generator)
    return {"input_ids": tokens, "labels": tokens.clone() if labels == "tokens" else torch.arange(n) % 3}


def examples(n, *, labels):
    columns = sentences(n, labels=labels)
    return [{name: column[i] for name, column in columns.items()} for i in range(n)]


def trainer_of(model, labels, folder, callbacks=None):
    arguments = transformers.TrainingArguments(
        output_dir=str(folder),
        max_steps=4,
        per_device_train_batch_size=4,
        gradient_accumulation_steps=2,
        learning_rate=0.01,
        logging_steps=100,
        save_strategy="no",
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
    )
    return transformers.Trainer(model, arguments, train_dataset=examples(32, labels=labels), callbacks=callbacks)


def test_transformers_keep_rows_in_the_history_and_write_the_page(tmp_path):
    probe = sentences(6, labels="classes")
    callback = of_transformers.MonitorCallback(probe, MEASURES, report=tmp_path / "run.html", budget=None, every=2)
    trainer = trainer_of(classifier(), "classes", tmp_path, [callback])
    trainer.train()
    rows = [row for row in trainer.state.log_history if "margin" in row]
    assert [row["step"] for row in rows] == [2, 4]
    assert all(math.isfinite(row["gradient_norm"]) and row["epoch"] > 0 for row in rows)
    assert "BertForSequenceClassification" in (tmp_path / "run.html").read_text()
    assert callback.monitor._objective.settings.batch_size == 8
    assert "optimizer: AdamW" in callback.monitor.summary()


class Listener(transformers.TrainerCallback):
    """A logger."""

    def __init__(self):
        self.heard = []

    def on_log(self, args, state, control, logs=None, **kwargs):
        self.heard.append(dict(logs))


def test_an_attached_callback_logs_where_the_trainer_logs(tmp_path):
    listener = Listener()
    trainer = trainer_of(language_model(), "tokens", tmp_path, [listener])
    callback = of_transformers.MonitorCallback(
        sentences(6, labels="tokens"), ["weight_norm", "gradient_norm"], budget=None, every=1
    ).attach(trainer)
    trainer.train()
    assert sum("gradient_norm" in logs for logs in listener.heard) == 4
    assert [row["step"] for row in trainer.state.log_history if "gradient_norm" in row] == [1, 2, 3, 4]
    assert any("math backend" in note for note in callback.monitor._recorder.run.notes)


def test_a_transformer_trained_with_the_callback_is_the_same(tmp_path):
    finals = []
    for callbacks in (
        [],
        [of_transformers.MonitorCallback(sentences(6, labels="classes"), MEASURES, budget=None, every=1)],
    ):
        transformers.set_seed(0)
        trainer = trainer_of(classifier(), "classes", tmp_path, callbacks)
        trainer.train()
        finals.append([p.detach().clone() for p in trainer.model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*finals, strict=True))


@pytest.mark.parametrize(("module", "package"), [("lightning", "lightning"), ("transformers", "transformers")])
def test_without_the_library_the_error_says_what_to_install(monkeypatch, module, package):
    monkeypatch.setitem(sys.modules, f"{package}", None)
    if package == "lightning":
        monkeypatch.setitem(sys.modules, "lightning.pytorch", None)
    monkeypatch.delitem(sys.modules, f"gradbias.pytorch.{module}")
    with pytest.raises(ModuleNotFoundError, match="pip install"):
        __import__(f"gradbias.pytorch.{module}", fromlist=["MonitorCallback"])
