"""Where theory says θ ends: exact limits with certificates, computed from arrays and never by training."""

from .asymptote import logistic_asymptote as logistic_asymptote
from .bregman import bregman_projection as bregman_projection
from .max_margin import margin as margin
from .max_margin import max_margin as max_margin
from .max_margin import max_margin_dual as max_margin_dual
from .max_margin import max_margin_multiclass as max_margin_multiclass
from .max_margin import max_margin_value as max_margin_value
from .min_norm import min_norm_interpolant as min_norm_interpolant
from .norms import min_norm_lp as min_norm_lp
from .norms import min_norm_lp_value as min_norm_lp_value
from .norms import quasi_norm as quasi_norm
from .nuclear import min_nuclear_norm as min_nuclear_norm
from .polynomial_tail import polynomial_tail_direction as polynomial_tail_direction
from .potentials import entropy as entropy
from .potentials import euclidean as euclidean
from .potentials import hypentropy as hypentropy
from .potentials import p_norm as p_norm
from .random_matrix import min_norm_bias as min_norm_bias
from .random_matrix import min_norm_variance as min_norm_variance
from .separability import is_separable as is_separable
from .separability import non_separability_certificate as non_separability_certificate
from .stability import gd_growth_rate as gd_growth_rate
from .stability import gd_stability_threshold as gd_stability_threshold
