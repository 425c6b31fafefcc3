"""Depth and attributes of a face at a pixel: the twin of `interpolation.slang`.

Outside its face a pixel takes clipped barycentrics (Soft Rasterizer: to [0, 1], then divided by their sum).
Perspective: a quantity linear on the face is linear on the screen only after division by w, the view depth.
"""

from __future__ import annotations

import torch
from torch import Tensor


def clip_barycentrics(weights: Tensor) -> Tensor:
    """[..., 3] In [0, 1], summing to 1. The sum divided by is at least 1/3, as the weights summed to 1."""
    clipped = weights.clamp(0, 1)
    return clipped / clipped.sum(dim=-1, keepdim=True)


def view_depth(weights: Tensor, w: Tensor) -> Tensor:
    """[P, F] `Z = 1 / sum_k b_k / w_k` for weights [P, F, 3] and vertices' w [F, 3]."""
    return 1 / (weights / w).sum(dim=2)


def ndc_depth(weights: Tensor, z: Tensor, w: Tensor) -> Tensor:
    """[P, F] `sum_k b_k z_k / w_k`: z/w is linear on the screen."""
    return (weights * (z / w)).sum(dim=2)


def attribute_weights(weights: Tensor, w: Tensor, perspective_correct: bool) -> Tensor:
    """[P, F, 3] The weights with which a vertex's attributes count at a pixel."""
    if not perspective_correct:
        return weights
    return weights / w * view_depth(weights, w)[..., None]


def interpolate(weights: Tensor, attributes: Tensor) -> Tensor:
    """[P, F, C] for weights [P, F, 3] and attributes of the faces' vertices [F, 3, C]."""
    return torch.einsum("pfk,fkc->pfc", weights, attributes)
