"""What is timed: slangrast, and the same image in plain PyTorch, which is what a user would write without it."""

from __future__ import annotations

import torch

import slangrast as sr
from tests.references import soft_rasterizer as plain

from .cases import Scene

_PAIRS_AT_ONCE = 2**20  # pixels times faces in one piece of the plain version: more and it runs out of cache


def slangrast_step(scene: Scene, mode: str, backward: bool) -> torch.Tensor:
    """One rendering, and the gradient of a sum over it."""
    if mode == "silhouette":
        image = sr.soft_silhouette(scene.positions, scene.triangles, scene.resolution)
        loss = image.sum()
    else:
        soft = sr.soft_rasterize(scene.positions, scene.triangles, scene.colors, scene.resolution)
        image = torch.cat([soft.color, soft.silhouette[..., None]], dim=-1)
        loss = image.sum()
    if backward:
        scene.positions.grad = scene.colors.grad = None
        loss.backward()
    return image.detach()


def plain_step(scene: Scene, mode: str, backward: bool, pixels: torch.Tensor) -> torch.Tensor:
    """The reference of the tests, in float32, on the given pixels, a piece at a time with a backward for each piece."""
    pieces = []
    for part in pixels.split(max(1, _PAIRS_AT_ONCE // len(scene.triangles))):
        with torch.set_grad_enabled(backward):
            soft = plain.soft_rasterize(scene.positions, scene.triangles, scene.colors, scene.resolution, pixels=part)
            image = soft.silhouette if mode == "silhouette" else torch.cat([soft.color, soft.silhouette[..., None]], -1)
            if backward:
                image.sum().backward()
        pieces.append(image.detach())
    return torch.cat(pieces, dim=1)
