"""The samples in vectorised PyTorch, for CPU and for any device without Triton."""

from __future__ import annotations

import math

import torch
from torch import Tensor

_WORD = 0xFFFFFFFF


def _random_words(num_keypoints: int, n: int, seed: int, offset: int, device: torch.device) -> list[Tensor]:
    """Philox 4x32-10 of the counters (i, p, offset): four int64 [P, (n + 1) // 2], of 32 bits each.

    The first rounds are of a row and a column, since no word has seen both yet.
    """

    def word(number: int) -> Tensor:
        return torch.full((1, 1), number & _WORD, dtype=torch.int64, device=device)

    a = torch.arange((n + 1) // 2, device=device)[None]
    b = torch.arange(num_keypoints, device=device)[:, None]
    c, d = word(offset), word(offset >> 32)
    for i in range(10):
        to_c, to_a = a * 0xD2511F53, c * 0xCD9E8D57  # which wrap around, as far as int64 has a sign
        a = (to_a >> 32).bitwise_and_(_WORD) ^ (b ^ ((seed + i * 0x9E3779B9) & _WORD))
        c = (to_c >> 32).bitwise_and_(_WORD) ^ (d ^ (((seed >> 32) + i * 0xBB67AE85) & _WORD))
        b, d = to_a.bitwise_and_(_WORD), to_c.bitwise_and_(_WORD)
    return [a, b, c, d]


def sample_keypoints_fwd(
    means: Tensor,  # [P, 2]
    covariances: Tensor,  # [P, 2, 2]
    n: int,
    seed: int,
    offset: int,
    tolerance: float,
    dtype: torch.dtype,
) -> Tensor:
    """Samples [P, n, 2]."""
    words = [(word >> 8).to(dtype) for word in _random_words(means.shape[0], n, seed, offset, means.device)]
    to_radius, to_angle = (torch.stack(words[i::2], dim=-1).flatten(1)[:, :n] for i in (0, 1))  # [P, n]
    # The other way round, of an angle that is half a turn less: it has a digit more.
    radius = to_radius.add_(1).mul_(2**-24).log_().mul_(-2).sqrt_().neg_()
    angle = to_angle.sub_(2**23).mul_(2 * math.pi / 2**24)
    first, second = radius * angle.cos(), radius * angle.sin()

    x, y = means.to(dtype)[:, None].unbind(-1)
    across, along, rest = (each[:, None] for each in _factors(covariances.to(dtype), tolerance))
    return torch.stack([x + across * first, y + (along * first + rest * second)], dim=-1)


def _factors(covariances: Tensor, tolerance: float) -> tuple[Tensor, Tensor, Tensor]:
    """The three numbers of the Cholesky factors, row by row; 0 where there is none."""
    xx, yx, yy = covariances[:, 0, 0], covariances[:, 1, 0], covariances[:, 1, 1]
    across = xx.sqrt()
    along = torch.where(xx == 0, yx, yx / across)
    rest = yy - along * along
    # NaN and infinity fail one of these.
    is_valid = (xx >= 0) & (xx < math.inf) & (yy >= 0) & (yy < math.inf) & (rest >= -tolerance * yy)
    is_valid = is_valid & ((xx > 0) | (yx == 0))
    rest = rest.clamp(min=0).sqrt()
    return torch.where(is_valid, across, 0.0), torch.where(is_valid, along, 0.0), torch.where(is_valid, rest, 0.0)
