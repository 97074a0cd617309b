"""Parameterizations θ ↦ f_θ."""
