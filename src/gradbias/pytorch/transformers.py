"""The monitor as a callback of Hugging Face's `Trainer`."""

from pathlib import Path
from typing import Any

from torch import nn

try:
    from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
except ModuleNotFoundError as missing:
    raise ModuleNotFoundError(
        "This callback needs transformers: pip install 'transformers[torch]'.", name="transformers"
    ) from missing

from ..measures.catalogue import Asked
from .monitor import Loss, Monitor


class MonitorCallback(TrainerCallback):
    """Measures while a `Trainer` trains; rows go to `trainer.state.log_history`, a page to `report` at the end.

    `probe_data` are a batch as the model takes it: a mapping with the labels, for the model's own loss, or anything
    else that `Monitor` takes, with a `loss_fn`. A `Trainer` does not tell its callbacks where it logs to: after
    `callback.attach(trainer)`, instead of `callbacks=[callback]`, rows go to its loggers too. The further `options` are
    those of `Monitor`; the optimizer and the batch size are the trainer's. `callback.monitor` is the monitor, from the
    start of the training on.
    """

    def __init__(
        self,
        probe_data: Any,
        measures: Asked,
        *,
        loss_fn: Loss = None,
        report: Path | str | None = None,
        **options: Any,
    ) -> None:
        self.monitor: Monitor | None = None
        self._asked, self._options, self._report = (loss_fn, probe_data, measures), options, report
        self._trainer: Trainer | None = None

    def attach(self, trainer: Trainer) -> "MonitorCallback":
        """Add this to a trainer's callbacks, and log where it logs."""
        self._trainer = trainer
        trainer.add_callback(self)
        return self

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Build the monitor; what cannot be measured is an error here, not in the loop."""
        if not state.is_world_process_zero:
            return
        loss_fn, data, measures = self._asked
        model: nn.Module = kwargs["model"]
        model = getattr(model, "module", model)  # wrapped for several devices
        size = args.train_batch_size * args.gradient_accumulation_steps * args.world_size
        found = {"optimizer": kwargs.get("optimizer"), "batch_size": size}
        self.monitor = Monitor(model, loss_fn, data, measures, **{**found, **self._options})

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Read what is due."""
        row = None if self.monitor is None else self.monitor.step()
        if row is None:
            return
        told = {name: value for name, value in row.items() if name != "step"}
        if self._trainer is not None:
            self._trainer.log(told)
        else:
            state.log_history.append({**told, "epoch": state.epoch, "step": state.global_step})

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Write the page."""
        if self.monitor is not None and self._report is not None:
            self.monitor.report(self._report)
