"""The monitor as a callback of Lightning's `Trainer`."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import nn

try:
    import lightning.pytorch as pl
except ModuleNotFoundError as missing:
    raise ModuleNotFoundError("This callback needs Lightning: pip install lightning.", name="lightning") from missing

from ..measures.catalogue import Asked
from .monitor import Loss, Monitor


class MonitorCallback(pl.Callback):
    """Measures while a `Trainer` trains; rows go to its loggers, a page to `report` at the end.

    `loss_fn(outputs, targets)` is the loss of the module's `forward`, or of `model(module)` if `model` picks a part of
    it. The further `options` are those of `Monitor`; the optimizer (where there is one) and the batch size are the
    trainer's. `callback.monitor` is the monitor, from the start of the training on.
    """

    def __init__(
        self,
        loss_fn: Loss,
        probe_data: Any,
        measures: Asked,
        *,
        report: Path | str | None = None,
        model: Callable[[pl.LightningModule], nn.Module] | None = None,
        **options: Any,
    ) -> None:
        self.monitor: Monitor | None = None
        self._asked, self._pick, self._options, self._report = (loss_fn, probe_data, measures), model, options, report
        self._step = 0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Build the monitor; what cannot be measured is an error here, not in the loop."""
        if not trainer.is_global_zero:
            return
        loss_fn, data, measures = self._asked
        optimizer = trainer.optimizers[0] if len(trainer.optimizers) == 1 else None
        found = {"optimizer": optimizer, "batch_size": _batch_size(trainer)}
        model = pl_module if self._pick is None else self._pick(pl_module)
        self.monitor = Monitor(model, loss_fn, data, measures, **{**found, **self._options})
        self._step = trainer.global_step

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any, **__: Any) -> None:
        """Read what is due; batches whose gradients are only accumulated are no steps."""
        if self.monitor is None or trainer.global_step == self._step:
            return
        self._step = trainer.global_step
        row = self.monitor.step()
        if row is not None:
            told = {name: value for name, value in row.items() if name != "step"}
            for logger in trainer.loggers:
                logger.log_metrics(told, step=trainer.global_step)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write the page."""
        if self.monitor is not None and self._report is not None:
            self.monitor.report(self._report)


def _batch_size(trainer: pl.Trainer) -> int | None:
    size = getattr(trainer.train_dataloader, "batch_size", None)
    return None if size is None else size * trainer.accumulate_grad_batches * trainer.world_size
