"""Gradient descent that moves a mesh smoothly: each step is diffused over the mesh before it is taken."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

_SOLVE_TOLERANCE = 1e-4


class SmoothDescent:
    """Descend along a gradient that is preconditioned by the mesh's own Laplacian.

    With L the combinatorial Laplacian (degree minus adjacency) and A = I + smoothness * L, the values x are written
    as x = A^-1 u and u is descended, so that one vertex never runs off without its neighbours (Nicolet et al., "Large
    Steps in Inverse Rendering of Geometry", 2021, equation 10). The step itself is their AdamUniform: Adam with one
    scale for all components, the largest, so that directions are kept.

    Args:
        edges: [E, 2] int64, every edge once.
        values: [V, C] float, what is descended; only its shape, dtype and device are used.
        smoothness: how far a step spreads, at least 0; 0 is AdamUniform on the values themselves.
        decay: how much of the running means of the gradient and of its square each step keeps.
    """

    def __init__(
        self, edges: Tensor, values: Tensor, smoothness: float, decay: tuple[float, float] = (0.9, 0.99)
    ) -> None:
        self._smoothness, self._decay = smoothness, decay
        degrees = torch.bincount(edges.flatten(), minlength=len(values))
        # The neighbours of vertex 0, then those of vertex 1, and so on; and where each vertex's begin.
        ends = torch.cat((edges, edges.flip(1)))
        self._neighbours, self._begins = ends[ends[:, 0].argsort(stable=True), 1], degrees.cumsum(0) - degrees
        self._diagonal = (1 + smoothness * degrees.to(values.dtype))[:, None]
        # Gershgorin: the eigenvalues of A lie between 1 and this.
        self._largest = 1 + 2 * smoothness * float(degrees.max())
        self._mean = torch.zeros_like(values)
        self._square = torch.zeros_like(values)
        self._steps = 0

    def step(self, values: Tensor, gradient: Tensor, rate: float) -> Tensor:
        """The values after one step of at most about `rate`, in their own unit, against `gradient`."""
        # A face seen edge-on can overflow a gradient; one bad number must not end a long run.
        gradient = self.smooth(torch.nan_to_num(gradient.detach(), nan=0.0, posinf=0.0, neginf=0.0))
        self._steps += 1
        keep_mean, keep_square = self._decay
        self._mean = keep_mean * self._mean + (1 - keep_mean) * gradient
        self._square = keep_square * self._square + (1 - keep_square) * gradient.square()
        mean = self._mean / (1 - keep_mean**self._steps)
        scale = (self._square.max() / (1 - keep_square**self._steps)).sqrt()
        # Without a gradient there is no direction: 0 / tiny stays 0.
        return values.detach() - rate * self.smooth(mean / scale.clamp(min=torch.finfo(scale.dtype).tiny))

    def smooth(self, right: Tensor) -> Tensor:
        """Solve A x = right, [V, C], by Chebyshev iteration (Saad, "Iterative Methods for Sparse Linear Systems",
        2003, algorithm 12.1): its length is known beforehand, and it takes no dot products, which on a GPU would make
        the CPU wait."""
        if self._smoothness == 0:
            return right
        centre, reach = (self._largest + 1) / 2, (self._largest - 1) / 2
        ratio = centre / reach
        # Gradients may come transposed, and sums of their rows would take seven times as long.
        residual = right.clone(memory_format=torch.contiguous_format)
        solution = torch.zeros_like(residual)
        factor = 1 / ratio
        direction = residual / centre
        for _ in range(self._iterations()):
            solution += direction
            self._subtract_applied(direction, residual)
            next_factor = 1 / (2 * ratio - factor)
            direction = direction.mul_(next_factor * factor).add_(residual, alpha=2 * next_factor / reach)
            factor = next_factor
        return solution + direction

    def _iterations(self) -> int:
        root = math.sqrt(self._largest)
        return math.ceil(math.log(2 / _SOLVE_TOLERANCE) / math.log((root + 1) / (root - 1)))

    def _subtract_applied(self, values: Tensor, result: Tensor) -> None:
        """result -= A values, in few operators: they are small, and each costs as much to call as to do."""
        sums = torch.nn.functional.embedding_bag(self._neighbours, values, self._begins, mode="sum")
        result.addcmul_(self._diagonal, values, value=-1).add_(sums, alpha=self._smoothness)

    def state(self) -> dict[str, Tensor | int]:
        """What a checkpoint must hold to go on as if never stopped."""
        return {"mean": self._mean, "square": self._square, "steps": self._steps}

    def restore(self, state: Mapping[str, Tensor | int]) -> None:
        """Go on from what `state` gave."""
        self._mean, self._square = (torch.as_tensor(state[name]).to(self._mean) for name in ("mean", "square"))
        self._steps = int(state["steps"])
