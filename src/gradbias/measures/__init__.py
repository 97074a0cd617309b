"""What to record: pure functions of (problem, θ), or of arrays. Any function of (problem, θ) will do in `Record`."""

from .curvature import sharpness as sharpness
from .layers import balancedness as balancedness
from .margin import normalized_margin as normalized_margin
from .rank import effective_rank as effective_rank
