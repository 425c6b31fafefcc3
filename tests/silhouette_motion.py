"""How far gradients of moving edges are from those of the exact image, a hard render of many samples a pixel.

`python -m tests.silhouette_motion` prints the table of docs/edge_gradients.md.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

import slangrast as sr

SAMPLES = 16  # along each side of a pixel
RESOLUTION = (32, 44)
BACKGROUND = (0.1, 0.15, 0.3)


class Motion(NamedTuple):
    """A mesh whose vertices are moved, and the camera that sees it."""

    vertices: Tensor  # [V, 3] world space
    triangles: Tensor  # [F, 3]
    colours: Tensor  # [V, 3]
    step: float  # of finite differences: about a quarter of a pixel


_CAMERA = sr.Camera.look_at((0.0, 0.0, 4.0), fov_degrees=40.0, aspect=RESOLUTION[1] / RESOLUTION[0]).to(
    dtype=torch.float64
)


def _turned(vertices: Tensor, x: float, y: float, z: float) -> Tensor:
    for axis, angle in enumerate((x, y, z)):
        turn = torch.zeros(3, 3, dtype=torch.float64)
        turn[(axis + 1) % 3, (axis + 2) % 3] = -angle
        turn[(axis + 2) % 3, (axis + 1) % 3] = angle
        vertices = vertices @ torch.linalg.matrix_exp(turn).T
    return vertices


def _colours(count: int) -> Tensor:
    return 0.3 + 0.7 * torch.rand(count, 3, generator=torch.Generator().manual_seed(count), dtype=torch.float64)


def moving_square() -> Motion:
    """Tilted a little, so that its sides pass through pixels everywhere."""
    corners = torch.tensor([[-1, -1, 0], [1, -1, 0], [1, 1, 0], [-1, 1, 0]], dtype=torch.float64) * 0.8
    triangles = torch.tensor([[0, 1, 2], [0, 2, 3]])
    return Motion(_turned(corners, 0.0, 0.0, 0.23), triangles, _colours(4), 0.02)


def rotating_cube() -> Motion:
    cube = sr.cube()
    vertices, same = cube.vertices.double().unique(dim=0, return_inverse=True)
    size = 0.75 / vertices.abs().max()
    return Motion(_turned(vertices * size, 0.5, 0.7, 0.1), same[cube.triangles.long()], _colours(len(vertices)), 0.02)


def crossing_triangles() -> Motion:
    """Two triangles larger than the image that pass through each other: all that moves is the line where they do."""
    first = torch.tensor([[-5.3, -3.4, 1.3], [5.2, -3.2, -1.7], [0.1, 5.1, 0.2]], dtype=torch.float64)
    second = torch.tensor([[5.3, -3.6, 1.4], [-5.1, -3.1, -1.4], [0.05, 5.2, -0.3]], dtype=torch.float64)
    colours = torch.tensor([[0.9, 0.3, 0.2]] * 3 + [[0.2, 0.5, 0.9]] * 3, dtype=torch.float64)
    return Motion(torch.cat([first, second]), torch.arange(6).reshape(2, 3), colours, 0.02)


def crossing_triangles_with_sides() -> Motion:
    """Two smaller ones, whose silhouettes move as well."""
    one = crossing_triangles()
    return one._replace(vertices=one.vertices * torch.tensor([0.25, 0.25, 0.5], dtype=torch.float64))


MOTIONS = {
    motion.__name__: motion
    for motion in (moving_square, rotating_cube, crossing_triangles, crossing_triangles_with_sides)
}
ESTIMATORS: dict[str, Callable[[Tensor, sr.GeometryBuffer], Tensor]] = {
    "none": lambda image, geometry: image,
    "antialias": sr.antialias,
    "edge_gradients": sr.edge_gradients,
}


class Agreement(NamedTuple):
    cosine: float  # of the angle between the estimate and the exact gradient
    size: float  # the length of the estimate, over that of the exact gradient


def render(motion: Motion, vertices: Tensor, resolution: tuple[int, int], estimator: str) -> Tensor:
    """[1, H, W, 3]"""
    geometry = sr.rasterize(_CAMERA.project(vertices), motion.triangles, resolution)
    colours = sr.interpolate(geometry, motion.colours)
    image = torch.where(geometry.mask[..., None], colours, colours.new_tensor(BACKGROUND))
    return ESTIMATORS[estimator](image, geometry)


def weights() -> Tensor:
    """[H, W, 3] A loss's gradient that changes little from pixel to pixel."""
    height, width = RESOLUTION
    y, x = torch.meshgrid(torch.linspace(-1, 1, height), torch.linspace(-1, 1, width), indexing="ij")
    waves = [torch.cos(1.7 * x + 0.9 * y + 0.4), torch.sin(2.3 * y - 1.1 * x), torch.cos(2.9 * x * y + 1.0 * x)]
    return torch.stack(waves, dim=-1).double()


def exact_change(motion: Motion, direction: Tensor) -> float:
    """Of the loss, by a central difference of the exact image along a direction of the vertices [V, 3]."""
    height, width = RESOLUTION
    pattern = weights().repeat_interleave(SAMPLES, 0).repeat_interleave(SAMPLES, 1) / SAMPLES**2

    def loss(step: float) -> float:
        vertices = motion.vertices + step * direction
        return float((render(motion, vertices, (height * SAMPLES, width * SAMPLES), "none")[0] * pattern).sum())

    return (loss(motion.step) - loss(-motion.step)) / (2 * motion.step)


def exact_gradient(motion: Motion) -> Tensor:
    """[V, 3]"""
    axes = torch.eye(motion.vertices.numel(), dtype=torch.float64).unflatten(1, motion.vertices.shape)
    return torch.tensor([exact_change(motion, axis) for axis in axes], dtype=torch.float64).view_as(motion.vertices)


def estimated_gradient(motion: Motion, estimator: str) -> Tensor:
    vertices = motion.vertices.clone().requires_grad_()
    image = render(motion, vertices, RESOLUTION, estimator)
    return torch.autograd.grad((image[0] * weights()).sum(), vertices)[0]


def agreement(estimate: Tensor, exact: Tensor) -> Agreement:
    cosine = torch.nn.functional.cosine_similarity(estimate.flatten(), exact.flatten(), dim=0)
    return Agreement(float(cosine), float(estimate.norm() / exact.norm()))


def main() -> None:
    print("| motion | gradient | cosine | size |\n|---|---|---|---|")
    for name, motion in MOTIONS.items():
        exact = exact_gradient(motion())
        for estimator in ESTIMATORS:
            cosine, size = agreement(estimated_gradient(motion(), estimator), exact)
            print(f"| {name.replace('_', ' ')} | `{estimator}` | {cosine:.3f} | {size:.2f} |")


if __name__ == "__main__":
    main()
