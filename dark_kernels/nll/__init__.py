"""Mean and variance maps, maps of a mixture, or features, to a negative log-likelihood."""

from .api import gaussian_nll, linear_gaussian_nll
from .api_mixture import gaussian_mixture_nll
from .reference import gaussian_nll_reference, linear_gaussian_nll_reference
from .reference_mixture import gaussian_mixture_nll_reference

__all__ = [
    "gaussian_mixture_nll",
    "gaussian_mixture_nll_reference",
    "gaussian_nll",
    "gaussian_nll_reference",
    "linear_gaussian_nll",
    "linear_gaussian_nll_reference",
]
