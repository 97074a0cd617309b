"""Where theory says θ ends: exact limits with certificates, computed from arrays and never by training."""
