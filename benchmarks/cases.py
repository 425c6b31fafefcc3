"""The scenes that are timed. Most are spheres with a small bump, seen so that they cover 37 % of a square image."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch

import slangrast as sr

MODES = ("silhouette", "color")


@dataclass(frozen=True)
class Case:
    """One scene: `size` pixels across and down, `images` copies of it at once."""

    name: str
    mesh: Callable[[], sr.Mesh]
    size: int
    images: int = 1
    sigma: float = 1e-4
    view: tuple[float, float, float, float] = (2.732, 0.0, 0.0, 60.0)  # distance, elevation, azimuth, field of view
    beside_plain: bool = False  # plain PyTorch and PyTorch3D take minutes where there are many faces


@dataclass(frozen=True)
class Scene:
    positions: torch.Tensor  # [N, V, 4] clip space
    triangles: torch.Tensor  # [F, 3]
    colors: torch.Tensor  # [V, 3]
    resolution: tuple[int, int]
    sigma: float = 1e-4

    def to(self, device: str) -> Scene:
        return replace(
            self,
            positions=self.positions.detach().to(device).requires_grad_(),
            triangles=self.triangles.to(device),
            colors=self.colors.detach().to(device).requires_grad_(),
        )

    def forget_gradients(self) -> None:
        self.positions.grad = self.colors.grad = None

    def bar_mib(self) -> float:
        """64 bytes a pixel, 256 a face and four for each pair of a face and a tile that its box touches."""
        images, (height, width) = len(self.positions), self.resolution
        ndc = self.positions.detach()[..., :2] / self.positions.detach()[..., 3:]
        reach = (9.21 * self.sigma) ** 0.5  # how far coverage stays above 1e-4, in NDC
        corners = ndc[:, self.triangles.long()]  # [N, F, 3, 2]
        size = torch.tensor([width, height])
        first, last = (
            ((limit + 1) / 2 * size / 16).floor().clamp(min=torch.zeros(2), max=(size - 1) // 16)
            for limit in (corners.amin(2) - reach, corners.amax(2) + reach)
        )
        entries = (last - first + 1).prod(-1).sum().item()
        return (64 * images * height * width + 256 * images * len(self.triangles) + 4 * entries) / 2**20


def bumped(sphere: sr.Mesh) -> sr.Mesh:
    """A sphere on which nothing is perfectly symmetric."""
    phases = torch.rand((4, 3), generator=torch.Generator().manual_seed(0)) * 6.283
    bump = sum(torch.sin(3 * sphere.vertices + phase).sum(1) for phase in phases) / 4
    return sphere.with_vertices(sphere.vertices * (1 + 0.02 * bump[:, None]))


def icosphere(subdivisions: int) -> sr.Mesh:
    """20 * 4**subdivisions faces."""
    return bumped(sr.icosphere(subdivisions))


def uv_sphere(rows: int, columns: int) -> sr.Mesh:
    """A sphere of meridians and parallels, with slivers at its poles: 2 * columns * (rows - 1) faces."""
    polar = torch.linspace(0, torch.pi, rows + 1)[1:-1, None]
    around = torch.arange(columns) * (2 * torch.pi / columns)
    ring = torch.stack([polar.sin() * around.sin(), polar.cos().expand(-1, columns), polar.sin() * around.cos()], -1)
    vertices = torch.cat([ring.reshape(-1, 3), torch.tensor([[0.0, 1.0, 0.0], [0.0, -1.0, 0.0]])])
    place = torch.arange((rows - 1) * columns).reshape(rows - 1, columns)
    beside = place.roll(-1, dims=1)
    north, south = (torch.full((columns,), len(vertices) + end) for end in (-2, -1))
    triangles = [
        torch.stack([place[:-1], place[1:], beside[1:]], -1).reshape(-1, 3),
        torch.stack([place[:-1], beside[1:], beside[:-1]], -1).reshape(-1, 3),
        torch.stack([north, place[0], beside[0]], -1),
        torch.stack([south, beside[-1], place[-1]], -1),
    ]
    return bumped(sr.Mesh(vertices, torch.cat(triangles)))


def sphere_before_wall() -> sr.Mesh:
    """20,480 tiny faces before two that are larger than the image."""
    sphere = icosphere(5)
    wall = torch.tensor([[-4.0, -4.0, -1.5], [4.0, -4.0, -1.5], [4.0, 4.0, -1.5], [-4.0, 4.0, -1.5]])
    corners = torch.tensor([[0, 1, 2], [0, 2, 3]]) + len(sphere.vertices)
    triangles = torch.cat([sphere.triangles, corners.to(sphere.triangles.dtype)])
    return sr.Mesh(torch.cat([sphere.vertices, wall]), triangles)


CUBE_VIEW = (4.0, 30.0, 30.0, 45.0)
CASES = {
    case.name: case
    for case in (
        Case("S1", partial(icosphere, 3), 64, beside_plain=True),
        Case("S1x32", partial(icosphere, 3), 64, images=32),
        Case("S1x128", partial(icosphere, 3), 64, images=128),
        Case("S2", partial(icosphere, 3), 256, beside_plain=True),
        Case("S3", partial(icosphere, 5), 256, beside_plain=True),
        Case("S3-512", partial(icosphere, 5), 512),
        Case("S4-512", partial(icosphere, 6), 512),
        Case("S4-1024", partial(icosphere, 6), 1024),
        Case("S5", partial(uv_sphere, 140, 140), 1024),
        Case("S6", partial(icosphere, 3), 256, sigma=1e-2),
        Case("S7", sphere_before_wall, 512),
        Case("L1", sr.cube, 16, view=CUBE_VIEW),
    )
}


def make_scene(case: Case) -> Scene:
    """The tensors of a case, on the CPU; positions and colours are to be differentiated."""
    mesh = case.mesh()
    colors = 0.5 + 0.5 * torch.sin(torch.tensor([5.0, 7.0, 9.0]) * mesh.vertices + 1)
    distance, elevation, azimuth, fov = case.view
    positions = sr.Camera.orbit(distance, elevation, azimuth, fov_degrees=fov).project(mesh.vertices)
    positions = positions.expand(case.images, -1, -1).clone()
    resolution = (case.size, case.size)
    return Scene(positions.requires_grad_(), mesh.triangles, colors.requires_grad_(), resolution, case.sigma)
