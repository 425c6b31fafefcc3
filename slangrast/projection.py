"""Clip space to screen space, by shaders/project.slang, and the way back of gradients."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch

from .op_modules import op_module
from .runtime import Module


class Projection(NamedTuple):
    """How positions came to the screen. A part of a larger reverse: one of its own would cost more than the work."""

    screen: torch.Tensor  # [N, V, 4] x, y, z/w, 1/w; outside of autograd
    module: Module
    image: dict[str, int]

    def reverse(self, positions: torch.Tensor, screen: torch.Tensor, grad_screen: torch.Tensor) -> torch.Tensor:
        """The gradient of `positions`, [N, V, 4], where that of the screen is a sum of parts: both [N, P, V, 4]."""
        grad_positions = torch.empty_like(positions, memory_format=torch.contiguous_format)
        launch = self.module.project.bwd(
            positions=(positions, grad_positions), out_screen=(screen, grad_screen), **self.image
        )
        self.module.launch(launch, over=(positions.shape[1], positions.shape[0]))
        return grad_positions


def not_yet_projected(positions: torch.Tensor, resolution: tuple[int, int]) -> Projection:
    """A projection whose screen nobody has written yet."""
    screen = positions.new_empty(positions.shape)
    return Projection(screen, op_module("project", positions), {"height": resolution[0], "width": resolution[1]})


def project(positions: torch.Tensor, resolution: tuple[int, int]) -> Projection:
    """Tensors: positions [N, V, 4] -> screen [N, V, 4]: x, y, z/w, 1/w. Both differentiable, by `reverse`."""
    projection = not_yet_projected(positions, resolution)
    module: Any = projection.module
    launch = module.project(positions=positions, out_screen=projection.screen.unsqueeze(1), **projection.image)
    module.launch(launch, over=(positions.shape[1], positions.shape[0]))
    return projection
