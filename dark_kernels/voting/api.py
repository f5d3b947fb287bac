"""vote() and variance_voting(): what users call."""

from __future__ import annotations

from torch import Tensor

from .. import _checks
from ..backends import check_backend
from ..types import Keypoints
from .library import call_vote, variance_voting_eager
from .reference import variance_voting_reference, vote_reference


def vote(
    samples: Tensor,  # [B, K, S, 2]
    heatmaps: Tensor | None = None,  # [B, K, H, W]
    bandwidth: float | None = None,
    backend: str = "auto",
) -> Keypoints:
    """Let samples of keypoints vote: their weighted mean, their covariance and the share of the votes.

    Each sample of a keypoint has one vote, and gives as much of it as its weight w says:

    - with `heatmaps`, the value of the keypoint's map at the sample, bilinear between pixel centres and falling
      to 0 within a pixel beyond the border;
    - with `bandwidth`, the density of the keypoint's samples there: the mean over all S of them, itself included, of
      exp(-d^2 / (2 bandwidth^2)), d its distance;
    - else 1.

    The keypoint is sum w x / sum w, its covariance sum w (x - mean) (x - mean)^T / sum w, and its score sum w / S,
    the share of the votes that were given: 1 if all were, and near 0 where the samples and the heatmap (or the
    samples among themselves) disagree. Samples of a Gaussian N(m, P) on a map that is exp(-(x - c)^T Q^-1 (x - c) / 2)
    approach the product of the two: covariance (P^-1 + Q^-1)^-1, and a share of sqrt(|Q| / |P + Q|)
    exp(-(m - c)^T (P + Q)^-1 (m - c) / 2). With a density of bandwidth h the same with m for c and P + h^2 I for Q, but
    for a factor of sqrt(h^4 / |P + h^2 I|) in the share.

    On CUDA, ROCm and XPU this is one launch. Eager takes some twenty operations for it, and for a density keeps
    the kernels of all pairs of some keypoints at a time. Nothing waits for the device; no gradient flows.

    A sample that is NaN or infinite gives no vote, neither does one whose weight is NaN, infinite or not positive.
    Where no sample votes, coordinates and covariance are NaN and the score is 0.

    Args:
        samples: [B, K, S, 2], S >= 1 samples (x, y) of each keypoint, in heatmap pixels with pixel centres at
            integers if there are heatmaps; float16, bfloat16, float32 or float64, any strides.
        heatmaps: [B, K, H, W] or None; the dtype may differ.
        bandwidth: Standard deviation of the kernels of a density, positive, or None.
        backend: `"auto"` (Triton where the device has it, else eager), `"triton"`, `"eager"` (vectorised
            PyTorch on any device) or `"reference"` (the definition). float64 is served by eager where Triton is
            asked for.

    Returns:
        Keypoints: `coords` [B, K, 2], `scores` [B, K] and `covariances` [B, K, 2, 2], symmetric and positive
        semi-definite; float32, or float64 if an input is.

    Raises:
        TypeError: An argument is not a dense tensor of a dtype above, or not a number.
        ValueError: A shape does not fit, `bandwidth` is not positive or comes with heatmaps, tensors are on two
            devices, or `backend` is unknown or cannot serve.

    Example:
        >>> import torch, dark_kernels
        >>> heatmaps = torch.rand(8, 17, 64, 48)
        >>> keypoints = dark_kernels.decode(heatmaps, covariance=True)
        >>> samples = dark_kernels.sample_keypoints(keypoints.coords, keypoints.covariances, n=100, seed=0)
        >>> dark_kernels.vote(samples, heatmaps).coords.shape
        torch.Size([8, 17, 2])
    """
    _checks.check_tensor("samples", samples, 4, "[B, K, S, 2]")
    if samples.shape[2] == 0 or samples.shape[3] != 2:
        raise ValueError(f"samples: got shape {list(samples.shape)}, expected [B, K, S, 2] with S >= 1 samples (x, y)")
    if heatmaps is not None:
        _checks.check_tensor("heatmaps", heatmaps, 4, "[B, K, H, W]")
        _checks.check_size("heatmaps", heatmaps)
        _checks.check_shape("heatmaps", heatmaps, (*samples.shape[:2], *heatmaps.shape[2:]), "a map for each keypoint")
        heatmaps = heatmaps.detach()
    if bandwidth is not None:
        _checks.check_positive("bandwidth", bandwidth)
        if heatmaps is not None:
            raise ValueError(f"bandwidth: got {bandwidth} with heatmaps, expected None; a vote has one weight")
        bandwidth = float(bandwidth)
    _checks.check_devices(samples=samples, heatmaps=heatmaps)
    check_backend(backend)
    samples = samples.detach()
    if backend == "reference":
        return Keypoints(*vote_reference(samples, heatmaps, bandwidth))
    return Keypoints(*call_vote(samples, heatmaps, bandwidth, backend))


def variance_voting(
    poses: Tensor,  # [..., N, K, 2]
    variances: Tensor,  # [..., N, K] or [..., N, K, 2]
    similarities: Tensor,  # [..., M, N]
    spread: float = 0.01,
    mask: Tensor | None = None,  # [..., N]
    backend: str = "auto",
) -> Tensor:
    """Let overlapping poses vote about where the keypoints of M of them are, each by how sure it is.

    Keypoint k of pose m becomes sum_i p_i x_i / v_i over sum_i p_i / v_i, where x_i is that keypoint of pose i, v_i its
    variance, and p_i = exp(-(1 - o_mi)^2 / spread) says how much the poses, of similarity o_mi, are about the
    same person (variance voting: He et al., "Bounding Box Regression with Uncertainty for Accurate Object
    Detection", CVPR 2019, eq. 11). To be used on what `oks_nms` keeps, with the votes of what it drops:

        similarities = oks(poses, poses, areas, areas)
        voted = variance_voting(poses, variances, similarities)

    A coordinate gives no vote if it is NaN or infinite, if its variance is NaN, infinite or not positive, or if the
    similarity is NaN. Each axis is voted on by itself. Where nobody votes the result is NaN.

    There is no kernel for it: it is ten of PyTorch's operations on M N K 2 numbers, which `torch.compile` fuses, and
    gradients flow through them.

    Args:
        poses: [..., N, K, 2]; float16, bfloat16, float32 or float64, any strides.
        variances: [..., N, K], or [..., N, K, 2] of each axis, in the squared unit of the poses; the dtype may differ.
        similarities: [..., M, N], of the poses that are asked for with all poses, as `oks` returns them.
        spread: How fast a pose loses its vote with the similarity, positive.
        mask: [..., N] of any real dtype, above 0 where there is a pose. None: everywhere.
        backend: `"auto"` or `"eager"`, or `"reference"` (the definition, in float64).

    Returns:
        [..., M, K, 2]; float32, or float64 if an input is.

    Raises:
        TypeError: An argument is not a dense tensor of a dtype above, or not a number.
        ValueError: A shape does not fit, `spread` is not positive, tensors are on several devices, or `backend` is
            unknown or `"triton"`.

    Example:
        >>> import torch, dark_kernels
        >>> poses, areas = torch.rand(8, 30, 17, 2) * 200, torch.full((8, 30), 9000.0)
        >>> similarities = dark_kernels.oks(poses, poses, areas, areas)
        >>> dark_kernels.variance_voting(poses, torch.ones(8, 30, 17), similarities).shape
        torch.Size([8, 30, 17, 2])
    """
    dim = poses.dim() if isinstance(poses, Tensor) else 3
    _checks.check_tensor("poses", poses, max(dim, 3), "[..., N, K, 2]")
    if poses.shape[-1] != 2:
        raise ValueError(f"poses: got shape {list(poses.shape)}, expected [..., N, K, 2], (x, y) of every keypoint")
    is_round = isinstance(variances, Tensor) and variances.dim() == dim - 1  # one variance for both axes
    _checks.check_tensor("variances", variances, dim - is_round, "[..., N, K] or [..., N, K, 2]")
    shape = poses.shape[:-1] if is_round else poses.shape
    _checks.check_shape("variances", variances, shape, "one for each keypoint, or for each axis")
    variances = variances[..., None] if is_round else variances
    _checks.check_tensor("similarities", similarities, dim - 1, "[..., M, N]")
    expected = (*poses.shape[:-3], similarities.shape[-2], poses.shape[-3])
    _checks.check_shape("similarities", similarities, expected, "of each pose asked for with each of poses")
    _checks.check_flags("mask", mask, poses.shape[:-2], "one for each pose")
    _checks.check_devices(poses=poses, variances=variances, similarities=similarities, mask=mask)
    _checks.check_positive("spread", spread)
    check_backend(backend)
    if backend == "triton":
        raise ValueError(
            "backend: got 'triton', expected 'auto', 'eager' or 'reference'; variance voting has no kernel"
        )
    arguments = (poses, variances, similarities, spread, mask)
    return variance_voting_reference(*arguments) if backend == "reference" else variance_voting_eager(*arguments)
