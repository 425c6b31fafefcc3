"""Clip space to screen space, by shaders/project.slang, and the way back of gradients."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from .op_modules import op_module
from .runtime import Module


@dataclass(frozen=True)
class Projection:
    """How positions came to the screen. A part of a larger reverse: one of its own would cost more than the work."""

    screen: torch.Tensor  # [N, V, 4] x, y, z/w, 1/w; outside of autograd
    module: Module
    image: dict[str, int]

    def reverse(self, positions: torch.Tensor, grad_screen: torch.Tensor) -> torch.Tensor:
        """The gradient of `positions`, [N, V, 4]."""
        grad_positions = torch.zeros_like(positions, memory_format=torch.contiguous_format)
        # The reverse that Slang generates stores the screen once more, and the same as it was.
        launch = self.module.project.bwd(
            positions=(positions, grad_positions), out_screen=(self.screen, grad_screen), **self.image
        )
        self.module.launch(launch, over=(positions.shape[1], positions.shape[0]))
        return grad_positions


def project(positions: torch.Tensor, resolution: tuple[int, int]) -> Projection:
    """Tensors: positions [N, V, 4] -> screen [N, V, 4]: x, y, z/w, 1/w. Both differentiable, by `reverse`."""
    module: Any = op_module("project", positions)
    image = {"height": resolution[0], "width": resolution[1]}
    screen = torch.empty(positions.shape, dtype=positions.dtype, device=positions.device)
    launch = module.project(positions=positions, out_screen=screen, **image)
    module.launch(launch, over=(positions.shape[1], positions.shape[0]))
    return Projection(screen, module, image)
