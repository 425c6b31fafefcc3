"""How a pixel's fragments become one colour and one silhouette: the twin of `aggregation.slang`.

Soft Rasterizer (Liu et al., 2019): the aggregate functions for colours and for silhouettes. All pixels
against all faces: `log_coverage`, `closeness`, `inside` and `kept` are [P, F].
"""

from __future__ import annotations

import torch
from torch import Tensor


def fragment_weights(
    kind: str,
    log_coverage: Tensor,
    closeness: Tensor,
    inside: Tensor,
    kept: Tensor,
    gamma: Tensor,
    epsilon: Tensor,
) -> Tensor:
    """[P, F + 1] Weights that sum to 1; the last column is the background."""
    if kind == "hard":
        return nearest_covering(closeness, inside & kept)
    if kind == "softmax":
        logits = log_coverage + closeness / gamma
    elif kind == "additive":
        logits = log_coverage.exp() + closeness / gamma
    else:
        raise ValueError(f"unknown aggregation {kind}")
    logits = torch.where(kept, logits, -torch.inf)
    background = (epsilon / gamma).to(logits).expand(logits.shape[0], 1)
    return torch.cat([logits, background], dim=1).softmax(dim=1)


def nearest_covering(closeness: Tensor, candidates: Tensor) -> Tensor:
    """[P, F + 1] 1 for the closest candidate (of equals, the first), or else for the background."""
    closeness = torch.where(candidates, closeness.detach(), -torch.inf)
    scores = torch.cat([closeness, closeness.new_full((len(closeness), 1), -torch.inf)], dim=1)
    best = scores.amax(dim=1, keepdim=True)
    first = (scores == best).int().argmax(dim=1)
    first = torch.where(candidates.any(dim=1), first, closeness.shape[1])
    return torch.nn.functional.one_hot(first, closeness.shape[1] + 1).to(closeness)


def log_complement(log_x: Tensor) -> Tensor:
    """`log(1 - exp(log_x))` without cancellation at either end. Finite at log_x = 0, with gradient 0."""
    log_x = log_x.clamp(max=-1e-300)
    near_one = log_x > -0.5
    small = torch.where(near_one, -1.0, log_x)
    large = torch.where(near_one, log_x, -0.1)
    return torch.where(near_one, (-torch.expm1(large)).log(), torch.log1p(-small.exp()))


def silhouette(kind: str, log_coverage: Tensor, kept: Tensor) -> Tensor:
    """[P] in [0, 1]: `1 - prod(1 - D)`, the largest D, or the sum of D clamped to 1."""
    if kind == "probabilistic":
        safe = torch.where(kept, log_coverage, -1.0)
        return -torch.expm1(torch.where(kept, log_complement(safe), 0.0).sum(dim=1))
    coverage = torch.where(kept, log_coverage, -torch.inf).exp()
    if kind == "max":
        return torch.cat([coverage, coverage.new_zeros(len(coverage), 1)], dim=1).max(dim=1).values
    if kind == "sum":
        return coverage.sum(dim=1).clamp(max=1)
    raise ValueError(f"unknown silhouette {kind}")
