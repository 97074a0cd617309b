"""Strict numerics for every test: float64, no silent broadcasting of ranks, no silent promotion of dtypes."""

import jax

jax.config.update("jax_enable_x64", True)
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")
