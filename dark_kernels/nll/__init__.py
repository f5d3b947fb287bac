"""Mean and variance maps, or features, to a negative log-likelihood."""

from .api import gaussian_nll, linear_gaussian_nll
from .reference import gaussian_nll_reference, linear_gaussian_nll_reference

__all__ = ["gaussian_nll", "gaussian_nll_reference", "linear_gaussian_nll", "linear_gaussian_nll_reference"]
