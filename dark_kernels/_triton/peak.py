"""Structs of a peak, from its pixel to its place between pixels, and of the recipe that says how to get there."""

from __future__ import annotations

from typing import Any, NamedTuple


class Peak(NamedTuple):
    """A peak's pixel, from where it is refined."""

    y: Any
    x: Any
    level: Any  # the map's value there, activated, or another that is close to those around it
    raw_maximum: Any  # of the whole map, activated
    scale: Any  # what the blurred map is multiplied with, or 1 if that is not known
    refinable: Any  # whether it may move at all


class Step(NamedTuple):
    """From a peak's pixel to where a stencil sees the peak."""

    x: Any
    y: Any
    exists: Any  # whether the peak may take it
    covariance: Any  # a Covariance


class Refined(NamedTuple):
    """A peak between pixels."""

    x: Any
    y: Any
    covariance: Any  # a Covariance
    scale: Any  # for another peak of the map: if it took the whole map to know it, once is enough


class Recipe(NamedTuple):
    """A recipe and what follows from it for kernels, a constant: see `recipe_constants`."""

    FIELDS: Any  # a `dark_kernels.recipes.OperatorRecipe`
    BLUR: Any  # a Blur
    FILTER: Any  # a Blur, of a matched filter; None if none is searched with
    FIT_RADIUS: int  # of the pixels of a fit
    FIT_WINDOW: int  # a power of two, more than 2 FIT_RADIUS
    HAS_COVARIANCE: bool
    FIT_LANES: int = 0  # that share the pixels of a blob's fit, see `fit_lanes`
