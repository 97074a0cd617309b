"""Pure functions of a problem and θ, or of arrays."""
