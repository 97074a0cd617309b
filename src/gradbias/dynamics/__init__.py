"""How θ moves."""
