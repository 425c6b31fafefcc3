"""The scenes that are timed: icospheres with a small bump, seen so that they cover 37 % of a square image."""

from __future__ import annotations

from dataclasses import dataclass

import torch

import slangrast as sr


@dataclass(frozen=True)
class Case:
    """One scene. `subdivisions` of an icosahedron give 20 * 4**subdivisions faces."""

    name: str
    subdivisions: int
    size: int
    images: int = 1

    @property
    def faces(self) -> int:
        return 20 * 4**self.subdivisions

    def __str__(self) -> str:
        batch = f", batch {self.images}" if self.images > 1 else ""
        return f"{self.name}: {self.faces:,} faces, {self.size}²{batch}"


CASES = {
    case.name: case
    for case in (
        Case("S1", 3, 64),
        Case("S1x32", 3, 64, 32),
        Case("S1x128", 3, 64, 128),
        Case("S2", 3, 256),
        Case("S3", 5, 256),
        Case("S3-512", 5, 512),
    )
}
MODES = ("silhouette", "color")


@dataclass(frozen=True)
class Scene:
    positions: torch.Tensor  # [N, V, 4] clip space
    triangles: torch.Tensor  # [F, 3]
    colors: torch.Tensor  # [V, 3]
    resolution: tuple[int, int]


def make_scene(case: Case) -> Scene:
    """The tensors of a case, on the CPU, the first and the last of them to be differentiated."""
    sphere = sr.icosphere(case.subdivisions)
    phases = torch.rand((4, 3), generator=torch.Generator().manual_seed(0)) * 6.283
    bump = sum(torch.sin(3 * sphere.vertices + phase).sum(1) for phase in phases) / 4
    vertices = sphere.vertices * (1 + 0.02 * bump[:, None])
    colors = 0.5 + 0.5 * torch.sin(torch.tensor([5.0, 7.0, 9.0]) * vertices + 1)
    positions = sr.Camera.orbit(2.732, 0.0, 0.0, fov_degrees=60).project(vertices)
    positions = positions.expand(case.images, -1, -1).clone()
    return Scene(positions.requires_grad_(), sphere.triangles, colors.requires_grad_(), (case.size, case.size))
