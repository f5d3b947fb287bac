"""Decoders as rows of data.

A `Recipe` says how one decoder turns a heatmap into a keypoint: how it smooths, where it looks for the maximum, how it
refines it, and what it returns where there is nothing to find. The rows at the end of this file reproduce published
decoders to within 1e-4 heatmap pixels on maps with a peak (on nearly flat ones rounding decides, there as here), but
for `FIT` and `MATCHED`, which are this library's own; `dataclasses.replace` makes new ones.

    >>> import dataclasses
    >>> from dark_kernels import recipes
    >>> wide_blur = dataclasses.replace(recipes.MMPOSE_DARK, kernel_size=17)
    >>> wide_blur.blur_sigma
    2.9
"""

from __future__ import annotations

import dataclasses
import functools
import math
from numbers import Integral, Real
from typing import Literal, NamedTuple, get_type_hints

__all__ = [
    "ALL",
    "ARGMAX",
    "DARKPOSE",
    "FIT",
    "MATCHED",
    "MEGVII",
    "MMPOSE_DARK",
    "MMPOSE_LEGACY_UDP",
    "MMPOSE_UDP",
    "QUARTER",
    "QUARTER_LEGACY",
    "SAPIENS_HF",
    "VITPOSE_HF",
    "Recipe",
    "blur_taps",
    "get",
    "opencv_taps",
    "simcc_kernel_size",
]

# What OpenCV uses below k = 11 when no sigma is given: binomial-like tables, not sampled Gaussians.
# Half tables, centre first: TABLE[k][i] is the weight at distance i.
_OPENCV_TABLES: dict[int, tuple[float, ...]] = {
    1: (1.0,),
    3: (2 / 4, 1 / 4),
    5: (6 / 16, 4 / 16, 1 / 16),
    7: (9 / 32, 7 / 32, 7 / 64, 1 / 32),
    9: (60 / 256, 51 / 256, 30 / 256, 13 / 256, 4 / 256),
}

_BLURS = ("opencv", "gaussian", "none")
_PADDINGS = ("zeros", "reflect", "symmetric")
_STENCILS = ("wide", "compact", "fit", "gaussian", "quarter", "quarter_legacy", "none")
_ARGMAX_ON = ("raw", "blurred", "matched")
_ACTIVATIONS = ("none", "sigmoid", "softmax")
_SCORES = ("peak", "mass")
# Of a peak's window, of the targets' sigma where that is not given: what nearly all published ones have.
_USUAL_SIGMA = 2.0
# Of the blobs that a matched filter expects, where neither `blob_sigma` nor `target_sigma` is given: between published
# targets' 2 and 3.
_USUAL_BLOB_SIGMA = 2.5
# A patch of 31 x 31 pixels, which a kernel still holds in registers.
_LARGEST_FIT_RADIUS = 15
# Half of a patch of 63 x 63 pixels, which several warps still hold in theirs.
_LARGEST_BLOB_SIGMA = 11.0


def opencv_sigma(kernel_size: int) -> float:
    """The sigma that OpenCV derives from a kernel size: 0.3 ((k - 1) / 2 - 1) + 0.8.

    Evaluated in hundredths so that 17 gives 2.9 and not 2.9000000000000004.
    """
    return (30 * ((kernel_size - 1) // 2 - 1) + 80) / 100


@functools.lru_cache(maxsize=64)
def blur_taps(kernel_size: int, sigma: float) -> tuple[float, ...]:
    """Weights of a one-dimensional blur at distances 0, 1, ..., (kernel_size - 1) / 2 from its centre.

    Args:
        kernel_size: Odd and positive.
        sigma: Standard deviation in pixels of a sampled Gaussian; 0 takes OpenCV's fixed table, which
            exists for kernel sizes up to 9.

    Returns:
        Half of the symmetric kernel, centre first. The whole kernel sums to one.
    """
    if sigma == 0.0:
        return _OPENCV_TABLES[kernel_size]
    radius = kernel_size // 2
    weights = [math.exp(-0.5 * (distance / sigma) ** 2) for distance in range(radius + 1)]
    total = weights[0] + 2.0 * math.fsum(weights[1:])
    return tuple(weight / total for weight in weights)


def opencv_taps(kernel_size: int) -> tuple[float, ...]:
    """`blur_taps` as `cv2.GaussianBlur(map, (k, k), 0)` has them: a fixed table up to 9, else a Gaussian of the sigma
    that OpenCV derives from k."""
    return blur_taps(kernel_size, 0.0 if kernel_size in _OPENCV_TABLES else opencv_sigma(kernel_size))


def simcc_kernel_size(sigma: float) -> int:
    """The width in bins of the blur with which mmpose's SimCC codec refines targets of that sigma: odd, and positive
    from a sigma of 0.5 on."""
    kernel_size = int((20 * sigma - 7) // 3)
    return kernel_size - 1 if kernel_size % 2 == 0 else kernel_size


def _is_number(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


class OperatorRecipe(NamedTuple):
    """A recipe as operators take it: plain numbers and flags, worked out once, of which None is none.

    The one list of them. Schemas are written from it (`operator_schema`), and every backend reads fields by name.
    """

    kernel_size: int  # 1 where nothing is smoothed
    sigma: float  # 0 for OpenCV's fixed tables
    padding: str
    rescale: bool
    clip_min: float
    clip_max: float
    stencil: str
    argmax_on: str
    invalid: float
    max_offset: float
    extra_shift: float
    score_scale: float
    score_offset: float
    known_variance: float
    fit_radius: int  # 0 for stencils that do not look at it
    target_variance: float  # likewise
    activation: str
    mass_radius: int  # 0 where the score is the peak
    blob_sigma: float  # 0 for recipes that expect none

    @property
    def taps(self) -> tuple[float, ...]:
        """Half of the blur kernel, centre first (see `blur_taps`)."""
        return blur_taps(self.kernel_size, self.sigma)


def operator_schema() -> str:
    """The fields of an `OperatorRecipe` as arguments in an operator's schema."""
    return ", ".join(f"{kind.__name__} {field}" for field, kind in get_type_hints(OperatorRecipe).items())


@dataclasses.dataclass(frozen=True)
class Recipe:
    """One way of decoding heatmaps. Immutable, hashable, compared by value.

    Attributes:
        name: What to call it in tables and messages.
        blur: `"opencv"` derives sigma from `kernel_size` as `cv2.GaussianBlur(map, (k, k), 0)` does, its
            fixed tables for k <= 9 included. `"gaussian"` samples a Gaussian at every k. `"none"` does
            not smooth, whatever `kernel_size` says.
        kernel_size: Width of the blur in pixels, odd and positive.
        sigma: Standard deviation of the `"gaussian"` blur in pixels; None takes OpenCV's formula.
        padding: What the blur sees beyond the border: `"zeros"`, `"reflect"` (d c b | a b c d) or
            `"symmetric"` (c b a | a b c d).
        rescale: Multiply the blurred map by max(raw) / max(blurred). A map whose blurred maximum is not
            positive is left as it is.
        clip_min, clip_max: The blurred map is clipped to this range before its logarithm is taken.
            `clip_min` is positive.
        stencil: `"wide"` is the Taylor step of the DARK paper's code (Zhang et al., CVPR 2020, eq. 7 to
            10) with derivatives over two pixels; `"compact"` the one of UDP (Huang et al., CVPR 2020)
            over one pixel; `"fit"` goes to the centre of a Gaussian fitted to the raw pixels around the peak
            (see `fit_radius`), which no border bends; `"gaussian"` to that of a round Gaussian fitted to all
            pixels around, which neither border nor neighbour bends (see `blob_sigma`); `"quarter"` and
            `"quarter_legacy"` move a quarter of a pixel towards the larger neighbour under mmpose 1.x's and
            HRNet's border rule; `"none"` stays on the pixel.
        invalid: Both coordinates of a keypoint whose peak is not positive (or is NaN).
        argmax_on: The map whose maximum is the peak: the `"raw"` one, the `"blurred"` (and rescaled) one, from which
            the score and a quarter step are read as well, or the `"matched"` filter's response to the raw one (see
            `blob_sigma`); then the score is the raw map's maximum, and a quarter step reads the raw map.
            `find_peaks` takes the raw map's peaks in place of a matched filter's, which merges two that are close.
        max_offset: Bound, in pixels and for each axis, of the refinement step; None does not bound it,
            as published decoders don't.
        extra_shift: Added to both coordinates where a quarter step's border rule lets it act.
        score_scale, score_offset: score = peak * score_scale + score_offset, and alike for the mass.
        target_sigma: Standard deviation in pixels of the Gaussian targets the network was trained on. If
            given, its square is subtracted from covariances, so that they tell what the network adds.
        fit_radius: Stencil `"fit"` takes the pixels up to so far from the peak on each axis, 1 to 15, as far as
            they lie inside the map and are positive. Weighted least squares of a quadratic to their log (Guo, "A
            simple algorithm for fitting a Gaussian function", IEEE Signal Processing Magazine, 2011): three times of
            a round one, then twice of one of any shape, with the squares of the values fitted before for weights, less
            where pixels exceed the round fit, which are a neighbour's. Where that is no peak within those pixels, the
            step is that of `"wide"` with the recipe's blur, rescaling and clip, which serve nothing else. Other
            stencils do not look at it.
        activation: What the maps are. `"none"`: what is decoded, as it is. `"sigmoid"`: logits of each pixel,
            p = 1 / (1 + exp(-h)). `"softmax"`: logits of one distribution over the pixels of a map,
            p = exp(h) / sum(exp(h)). All else is that of decoding p, but that a raw map's maximum, and the neighbours
            of a quarter step, are found among the logits, where no saturation makes them equal, and that a map has a
            keypoint unless its largest logit is -inf or NaN.
        score: `"peak"`: the value of the peak, of p with an activation. `"mass"`: the share, 0 to 1, that the pixels
            around the peak have in all positive values of the map (of p with an activation, and before any blur).
            A single large pixel in a map that has more to show has little of it, a blob nearly all.
        score_radius: For `"mass"`, up to how many pixels from the peak's pixel on each axis; None takes two standard
            deviations of the targets, rounded up: of `target_sigma`, or of 2 if that is not given.

        blob_sigma: Standard deviation s in pixels of the blobs that a matched filter and the stencil `"gaussian"`
            expect, up to 11; None takes `target_sigma`, or 2.5 if that is not given. The filter is a Gaussian of that
            width, normalised for the pixels that lie inside the map (Turin, "An introduction to matched filters", IRE
            Transactions on Information Theory, 1960). The stencil fits a round Gaussian, of a width from 0.4 s to 2 s,
            to all pixels up to 2.8 s away on each axis: maximum likelihood in white noise, in which pixels that exceed
            it by far, a neighbour's, count little. Where that fails the step is that of `"wide"`.

    Raises:
        ValueError: A field is out of its range; the message says what came and what was expected.
    """

    name: str = "custom"
    blur: Literal["opencv", "gaussian", "none"] = "opencv"
    kernel_size: int = 11
    sigma: float | None = None
    padding: Literal["zeros", "reflect", "symmetric"] = "zeros"
    rescale: bool = True
    clip_min: float = 1e-10
    clip_max: float = math.inf
    stencil: Literal["wide", "compact", "fit", "gaussian", "quarter", "quarter_legacy", "none"] = "wide"
    invalid: float = -1.0
    argmax_on: Literal["raw", "blurred", "matched"] = "raw"
    max_offset: float | None = None
    extra_shift: float = 0.0
    score_scale: float = 1.0
    score_offset: float = 0.0
    target_sigma: float | None = None
    fit_radius: int = 5
    activation: Literal["none", "sigmoid", "softmax"] = "none"
    score: Literal["peak", "mass"] = "peak"
    score_radius: int | None = None
    blob_sigma: float | None = None

    def __post_init__(self) -> None:
        def require(condition: bool, field: str, expected: str) -> None:
            if not condition:
                raise ValueError(f"Recipe.{field}: got {getattr(self, field)!r}, expected {expected}")

        for field, allowed in (
            ("blur", _BLURS),
            ("padding", _PADDINGS),
            ("stencil", _STENCILS),
            ("argmax_on", _ARGMAX_ON),
            ("activation", _ACTIVATIONS),
            ("score", _SCORES),
        ):
            require(getattr(self, field) in allowed, field, f"one of {', '.join(map(repr, allowed))}")
        size = self.kernel_size
        is_int = isinstance(size, Integral) and not isinstance(size, bool)
        require(is_int and size >= 1 and size % 2 == 1, "kernel_size", "an odd positive int")
        require(isinstance(self.rescale, bool), "rescale", "a bool")
        for field in ("sigma", "max_offset", "target_sigma"):
            value = getattr(self, field)
            is_length = value is None or (_is_number(value) and 0 < value < math.inf)
            require(is_length, field, "a positive finite number or None")
        require(
            self.sigma is None or self.blur == "gaussian", "sigma", f"None with blur={self.blur!r}, or blur='gaussian'"
        )
        require(_is_number(self.clip_min) and self.clip_min > 0, "clip_min", "a positive number")
        require(_is_number(self.clip_max) and self.clip_max > self.clip_min, "clip_max", "a number above clip_min")
        require(_is_number(self.invalid), "invalid", "a number")
        for field in ("extra_shift", "score_scale", "score_offset"):
            value = getattr(self, field)
            require(_is_number(value) and -math.inf < value < math.inf, field, "a finite number")
        radius = self.fit_radius
        is_int = isinstance(radius, Integral) and not isinstance(radius, bool)
        require(is_int and 1 <= radius <= _LARGEST_FIT_RADIUS, "fit_radius", f"an int from 1 to {_LARGEST_FIT_RADIUS}")
        around = self.score_radius
        is_int = isinstance(around, Integral) and not isinstance(around, bool)
        require(around is None or (is_int and around >= 1), "score_radius", "a positive int or None")
        sigma = self.blob_sigma
        is_length = sigma is None or (_is_number(sigma) and 0 < sigma <= _LARGEST_BLOB_SIGMA)
        require(is_length, "blob_sigma", f"a positive number up to {_LARGEST_BLOB_SIGMA:g}, or None")
        if self._expects_blobs and sigma is None:
            is_length = (self.target_sigma or 0.0) <= _LARGEST_BLOB_SIGMA
            require(is_length, "target_sigma", f"up to {_LARGEST_BLOB_SIGMA:g}, or a blob_sigma of its own")
        # The operator takes numbers and flags, not recipes. They are worked out here, once, so that a call
        # pays nothing for them and torch.compile has nothing of it to trace.
        object.__setattr__(self, "_operator_arguments", self._resolve())

    @property
    def operator_arguments(self) -> OperatorRecipe:
        """The recipe as operators take it."""
        arguments: OperatorRecipe = self.__dict__["_operator_arguments"]
        return arguments

    @property
    def blur_kernel_size(self) -> int:
        """The kernel size in force: 1 where nothing is smoothed."""
        return 1 if self.blur == "none" else self.kernel_size

    @property
    def blur_sigma(self) -> float:
        """The standard deviation in pixels that the blur adds to a Gaussian blob.

        That of the Gaussian, and for OpenCV's fixed tables the square root of their second moment.
        """
        if self.blur == "none":
            return 0.0
        if self._uses_table:
            taps = _OPENCV_TABLES[self.kernel_size]
            return math.sqrt(2.0 * math.fsum([weight * i * i for i, weight in enumerate(taps)]))
        return opencv_sigma(self.kernel_size) if self.sigma is None else self.sigma

    @property
    def taps(self) -> tuple[float, ...]:
        """Half of the blur kernel, centre first (see `blur_taps`)."""
        return blur_taps(self.blur_kernel_size, 0.0 if self._uses_table else self.blur_sigma)

    @property
    def target_variance(self) -> float:
        """Known part of the variance of an unsmoothed blob: `target_sigma` squared, or 0."""
        return float((self.target_sigma or 0.0) ** 2)

    @property
    def known_variance(self) -> float:
        """Known part of the variance of a smoothed blob: that of the blur and `target_variance`."""
        return float(self.blur_sigma**2 + self.target_variance)

    @property
    def mass_radius(self) -> int:
        """Radius in pixels of the window whose share of the map is the score; 0 where the peak is the score."""
        if self.score == "peak":
            return 0
        return math.ceil(2 * (self.target_sigma or _USUAL_SIGMA)) if self.score_radius is None else self.score_radius

    @property
    def expected_sigma(self) -> float:
        """Standard deviation in pixels of the blobs that a matched filter and the stencil `"gaussian"` expect."""
        return float(self.blob_sigma or self.target_sigma or _USUAL_BLOB_SIGMA)

    @property
    def has_hessian(self) -> bool:
        """True if the stencil computes second derivatives, which a covariance needs."""
        return self.stencil in ("wide", "compact", "fit", "gaussian")

    def summary(self) -> dict[str, str]:
        """The recipe as a row of text: what it does at each step, blank where it doesn't take that step.

        What the maps are and what the score is come last, and only where that is not what published decoders have.
        """
        smooths = self.blur_kernel_size > 1
        stencil = {"fit": f"fit r={self.fit_radius}", "gaussian": f"gaussian s={self.expected_sigma:g}"}
        sigma = "" if self.sigma is None else f" sigma={self.sigma:g}"
        return {
            "recipe": self.name,
            "blur": f"{self.blur} k={self.kernel_size}{sigma}" if smooths else "",
            "padding": self.padding if smooths else "",
            "rescale": ("yes" if self.rescale else "no") if smooths else "",
            "clip": f"{self.clip_min:g} to {self.clip_max:g}" if self.has_hessian else "",
            "stencil": stencil.get(self.stencil, self.stencil),
            "invalid": f"{self.invalid:g}",
            "argmax on": "raw" if self.argmax_on == "blurred" and not smooths else self.argmax_on,
            **({} if self.activation == "none" else {"activation": self.activation}),
            **({} if self.score == "peak" else {"score": f"mass r={self.mass_radius}"}),
        }

    @property
    def _expects_blobs(self) -> bool:
        return self.argmax_on == "matched" or self.stencil == "gaussian"

    @property
    def _uses_table(self) -> bool:
        return self.blur == "none" or (self.blur == "opencv" and self.kernel_size <= 9)

    def _resolve(self) -> OperatorRecipe:
        kernel_size = int(self.blur_kernel_size)
        # Without a blur the blurred map is the raw map, so one of the two names is enough below.
        smooths = kernel_size > 1
        fits = self.stencil in ("fit", "gaussian")
        return OperatorRecipe(
            kernel_size=kernel_size,
            sigma=0.0 if self._uses_table else float(self.blur_sigma),
            padding=self.padding,
            rescale=bool(self.rescale and smooths),
            clip_min=float(self.clip_min),
            clip_max=float(self.clip_max),
            stencil=self.stencil,
            argmax_on="raw" if self.argmax_on == "blurred" and not smooths else self.argmax_on,
            invalid=float(self.invalid),
            max_offset=math.inf if self.max_offset is None else float(self.max_offset),
            extra_shift=float(self.extra_shift),
            score_scale=float(self.score_scale),
            score_offset=float(self.score_offset),
            known_variance=self.known_variance,
            fit_radius=int(self.fit_radius) if self.stencil == "fit" else 0,
            target_variance=self.target_variance if fits else 0.0,
            activation=self.activation,
            mass_radius=int(self.mass_radius),
            blob_sigma=self.expected_sigma if self._expects_blobs else 0.0,
        )


DARKPOSE = Recipe(name="darkpose", invalid=0.0)
"""DARK as its authors published it (Zhang et al., CVPR 2020)."""

MMPOSE_DARK = Recipe(name="mmpose_dark")
"""mmpose 1.x MSRAHeatmap(unbiased=True); mmpose 0.x post_process="unbiased"."""

MMPOSE_UDP = Recipe(name="mmpose_udp", clip_min=1e-3, clip_max=50.0, stencil="compact")
"""mmpose 1.x UDPHeatmap; Sapiens lite."""

MMPOSE_LEGACY_UDP = Recipe(
    name="mmpose_legacy_udp", padding="reflect", rescale=False, clip_min=1e-3, clip_max=50.0, stencil="compact"
)
"""mmpose 0.x use_udp=True; ViTPose; rtmlib."""

VITPOSE_HF = Recipe(
    name="vitpose_hf",
    blur="gaussian",
    sigma=0.8,
    padding="symmetric",
    rescale=False,
    clip_min=1e-3,
    clip_max=50.0,
    stencil="compact",
)
"""transformers' VitPoseImageProcessor."""

SAPIENS_HF = Recipe(name="sapiens_hf", blur="gaussian", clip_min=1e-3, clip_max=50.0, stencil="compact")
"""transformers' Sapiens2 image processor."""

QUARTER = Recipe(name="quarter", blur="none", rescale=False, stencil="quarter")
"""mmpose 1.x MSRAHeatmap, its default."""

QUARTER_LEGACY = Recipe(name="quarter_legacy", blur="none", rescale=False, stencil="quarter_legacy")
"""HRNet; mmpose 0.x post_process="default"."""

MEGVII = Recipe(
    name="megvii",
    stencil="quarter_legacy",
    argmax_on="blurred",
    extra_shift=0.5,
    score_scale=1 / 255,
    score_offset=0.5,
)
"""mmpose post_process="megvii", for networks whose maps are scaled to 255."""

ARGMAX = Recipe(name="argmax", blur="none", rescale=False, stencil="none")
"""The pixel with the largest value."""

FIT = Recipe(name="fit", stencil="fit")
"""This library's own: the centre of a Gaussian that is fitted to the pixels around the peak (Guo, 2011), which stays
accurate at the border of a map, and beside another person from two standard deviations of a blob on. mmpose's DARK
where nothing can be fitted."""

MATCHED = Recipe(name="matched", stencil="gaussian", argmax_on="matched")
"""This library's most accurate: the maximum of a matched filter, which noise does not mislead, and from there the
maximum-likelihood fit of a round Gaussian, at the Cramér-Rao bound inside a map, at its border and beside another
person. mmpose's DARK where nothing can be fitted."""

ALL: tuple[Recipe, ...] = (
    DARKPOSE,
    MMPOSE_DARK,
    MMPOSE_UDP,
    MMPOSE_LEGACY_UDP,
    VITPOSE_HF,
    SAPIENS_HF,
    QUARTER,
    QUARTER_LEGACY,
    MEGVII,
    ARGMAX,
    FIT,
    MATCHED,
)


def get(name: str) -> Recipe:
    """The row of that name, upper or lower case.

    Raises:
        ValueError: There is none; the message lists the names.
    """
    for recipe in ALL:
        if recipe.name == str(name).lower():
            return recipe
    raise ValueError(f"recipe: got {name!r}, expected one of {', '.join(recipe.name for recipe in ALL)}")
