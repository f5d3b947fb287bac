"""Maps of a mixture of Gaussians to a negative log-likelihood."""

from .api import gaussian_mixture_nll
from .reference import gaussian_mixture_nll_reference

__all__ = ["gaussian_mixture_nll", "gaussian_mixture_nll_reference"]
