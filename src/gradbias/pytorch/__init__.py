"""Measures of PyTorch models: `measure` takes them once, `Monitor` along a training loop."""

import importlib.util

if importlib.util.find_spec("torch") is None:
    raise ModuleNotFoundError("Measuring a PyTorch model needs torch: pip install 'gradbias[torch]'.", name="torch")

from .geometry import optimizer_geometry as optimizer_geometry
from .monitor import Monitor as Monitor
from .monitor import measure as measure
from .torch_objective import TorchObjective as TorchObjective
