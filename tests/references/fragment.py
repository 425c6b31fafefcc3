"""Shading of fragments, from attributes [P, F, A] to colours [P, F, C]. Lambert; Phong, 1975; bilinear filtering."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize


def lambert(attributes: Tensor, light: Tensor, ambient: Tensor, diffuse: Tensor) -> Tensor:
    """Attributes: normal, albedo."""
    normal, albedo = normalize(attributes[..., :3], dim=-1), attributes[..., 3:]
    facing = (normal @ normalize(light, dim=0)).clamp(min=0)[..., None]
    return albedo * (ambient + diffuse * facing)


def phong(
    attributes: Tensor,
    light: Tensor,
    eye: Tensor,
    ambient: Tensor,
    diffuse: Tensor,
    specular: Tensor,
    shininess: Tensor,
) -> Tensor:
    """Attributes: position, normal, albedo."""
    position, normal, albedo = attributes.split(3, dim=-1)
    normal, light = normalize(normal, dim=-1), normalize(light, dim=0)
    facing = (normal @ light)[..., None]
    mirrored = 2 * facing * normal - light
    along = (mirrored * normalize(eye - position, dim=-1)).sum(-1, keepdim=True)
    highlight = torch.where((facing > 0) & (along > 0), specular * along.clamp(min=1e-6) ** shininess, 0.0)
    return albedo * (ambient + diffuse * facing.clamp(min=0)) + highlight


def textured(attributes: Tensor, texture: Tensor) -> Tensor:
    """Attributes: u, v. `texture` [H, W, 3], v = 1 at the upper border of row 0."""
    grid = torch.stack([2 * attributes[..., 0] - 1, 1 - 2 * attributes[..., 1]], dim=-1)
    image = texture.permute(2, 0, 1)[None]
    sampled = torch.nn.functional.grid_sample(image, grid[None], padding_mode="border", align_corners=False)
    return sampled[0].permute(1, 2, 0)
