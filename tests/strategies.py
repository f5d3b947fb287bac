"""What Hypothesis draws: maps of any content, shape, dtype and layout, and recipes beyond the published ones."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import torch
from hypothesis import strategies as st
from torch import Tensor

from dark_kernels import Recipe, recipes, testing

# 1, primes, powers of two and their neighbours; from smaller than a stencil to larger than a patch.
SIZES = (1, 2, 3, 4, 5, 7, 8, 11, 13, 16, 17, 19, 23)
DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


class Case(NamedTuple):
    """One call. The maps are made from the other fields, so that a failing example prints small."""

    recipe: Recipe
    kinds: tuple[str, ...]
    shape: tuple[int, int, int, int]
    dtype: torch.dtype
    layout: str
    seed: int
    covariance: bool

    def heatmaps(self, device: torch.device | str = "cpu") -> Tensor:
        scale = 255.0 if self.recipe == recipes.MEGVII else 1.0
        maps = testing.heatmaps_of_kinds(self.kinds, *self.shape, seed=self.seed, dtype=torch.float64) * scale
        return testing.with_layout(maps.to(self.dtype).to(device), self.layout)


@st.composite
def any_recipe(draw: st.DrawFn) -> Recipe:
    """A published recipe, or one with some of its fields changed."""
    recipe = draw(st.sampled_from(recipes.ALL))
    changes: dict[str, object] = {}
    if draw(st.booleans()):
        return recipe
    if recipe.blur != "none":
        changes["kernel_size"] = draw(st.sampled_from((1, 3, 5, 7, 9, 11, 13, 17, 23)))
        changes["padding"] = draw(st.sampled_from(("zeros", "reflect", "symmetric")))
        changes["rescale"] = draw(st.booleans())
    changes["argmax_on"] = draw(st.sampled_from(("raw", "raw", "blurred", "matched")))
    if recipe.stencil == "fit":
        changes["fit_radius"] = draw(st.sampled_from((1, 2, 3, 5, 7, 8, 15)))
    if "matched" in (changes["argmax_on"], recipe.argmax_on):
        changes["blob_sigma"] = draw(st.sampled_from((None, 0.7, 2.0, 3.1)))
    changes["max_offset"] = draw(st.sampled_from((None, 0.5, 1.0)))
    changes["invalid"] = draw(st.sampled_from((recipe.invalid, 0.0, -1.0, float("nan"))))
    changes["target_sigma"] = draw(st.sampled_from((None, 1.0)))
    changes["activation"] = draw(st.sampled_from(("none", "none", "sigmoid", "softmax")))
    changes["score"] = draw(st.sampled_from(("peak", "mass")))
    changes["score_radius"] = draw(st.sampled_from((None, 1, 7)))
    return dataclasses.replace(recipe, **changes)  # type: ignore[arg-type]


@st.composite
def cases(
    draw: st.DrawFn,
    sizes: tuple[int, ...] = SIZES,
    max_maps: int = 8,
    dtypes: tuple[torch.dtype, ...] = DTYPES,
) -> Case:
    """A call of decode."""
    recipe = draw(any_recipe())
    batch = draw(st.sampled_from((1, 2, 3, 0)))
    num_keypoints = draw(st.sampled_from((1, 2, 3, 5, 0)))
    while batch * num_keypoints > max_maps:
        batch, num_keypoints = (batch - 1, num_keypoints) if batch > 1 else (batch, num_keypoints - 1)
    return Case(
        recipe=recipe,
        kinds=tuple(draw(st.lists(st.sampled_from(sorted(testing.VALUE_KINDS)), min_size=1, max_size=4))),
        shape=(batch, num_keypoints, draw(st.sampled_from(sizes)), draw(st.sampled_from(sizes))),
        dtype=draw(st.sampled_from(dtypes)),
        layout=draw(st.sampled_from(sorted(testing.LAYOUTS))),
        seed=draw(st.integers(0, 2**16)),
        covariance=recipe.has_hessian and draw(st.booleans()),
    )
