"""Assumptions of theorems as predicates of a data set (`x`, `y`): where one is false, a claim is not judged."""

import numpy as np

from .data import Dataset


def full_row_rank(data: Dataset) -> bool:
    """The inputs of different examples are linearly independent, so every target can be interpolated."""
    return bool(np.linalg.matrix_rank(data.x) == len(data.x))


def linearly_separable(data: Dataset) -> bool:
    """Some hyperplane through the origin has every example strictly on the side of its label ±1."""
    from .oracles import is_separable

    return is_separable(data.x, data.y)


def interpolation_is_underdetermined(data: Dataset) -> bool:
    """There are more features than examples: many predictors fit."""
    return data.x.shape[1] > data.x.shape[0]
