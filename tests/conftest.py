"""Strict numerics for every test: float64, no silent broadcasting of ranks, no silent promotion of dtypes."""

import jax

jax.config.update("jax_enable_x64", True)
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")


def pytest_xdist_auto_num_workers() -> int:
    """As many processes as cores that this one may use; `pytest -n 0` for one process that can be debugged."""
    from gradbias.run.pool import cores  # not before: modules imported by now escape the type checks

    return cores()
