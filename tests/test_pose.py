"""The pose of a textured cube, found in one image by gradient descent through the whole hard path."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import slangrast as sr

RESOLUTION = (48, 48)
CAMERA = sr.Camera.orbit(3.2, 25.0, 30.0, fov_degrees=30)
STEPS = 80


def textured_cube() -> tuple[sr.Mesh, Tensor]:
    """A cube whose faces have corners of their own, so that each has its sixth of the texture [8, 48, 3]."""
    cube = sr.cube()
    corners = cube.triangles.flatten()
    in_square = torch.tensor([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 0.0], [1.0, 1.0], [0.0, 1.0]]).repeat(6, 1)
    face = torch.arange(6.0).repeat_interleave(6)
    uv = torch.stack([(face + in_square[:, 0]) / 6, in_square[:, 1]], dim=1)
    patches = torch.rand(1, 3, 3, 18, generator=torch.Generator().manual_seed(4))
    image = torch.nn.functional.interpolate(patches, (8, 48), mode="bilinear")[0].movedim(0, 2)
    return sr.Mesh(cube.vertices[corners], torch.arange(36).reshape(-1, 3), uv=uv), image


def rotation(vector: Tensor) -> Tensor:
    """[3, 3] by an axis times an angle in radians, [3]."""
    x, y, z = vector
    zero = torch.zeros_like(x)
    skew = torch.stack([zero, -z, y, z, zero, -x, -y, x, zero]).reshape(3, 3)
    return torch.linalg.matrix_exp(skew)


def degrees_between(a: Tensor, b: Tensor) -> float:
    return float(torch.rad2deg(torch.arccos(((a.T @ b).trace().double() - 1).div(2).clamp(-1, 1))))


def draw(pose: Tensor, resolution: tuple[int, int], inside: bool = True, outline: bool = True) -> Tensor:
    """The cube in front of grey; with gradients of the colours inside it, of its outline, or of both."""
    mesh, image = textured_cube()
    geometry = sr.rasterize(CAMERA.project(mesh.vertices @ pose.T), mesh.triangles, resolution)
    uv = sr.interpolate(geometry, mesh.uv)
    color = sr.texture(image, uv if inside else uv.detach(), wrap="clamp")
    color = torch.where(geometry.mask[..., None], color, 0.15)
    return sr.antialias(color, geometry) if outline else color


def photograph(pose: Tensor) -> Tensor:
    """What `antialias` approximates: the mean of 4 x 4 samples in each pixel, made without it."""
    height, width = RESOLUTION
    samples = draw(pose, (4 * height, 4 * width), outline=False)
    return torch.nn.functional.avg_pool2d(samples.movedim(3, 1), 4).movedim(1, 3)


def recover(photo: Tensor, start: Tensor, **gradients: bool) -> Tensor:
    """The pose [3, 3] whose image is like `photo`, found from a pose nearby."""
    turn = torch.full((3,), 1e-4, requires_grad=True)
    optimizer = torch.optim.Adam([turn], lr=0.03)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS, eta_min=1e-3)
    for _ in range(STEPS):
        loss = (draw(rotation(turn) @ start, RESOLUTION, **gradients) - photo).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return rotation(turn.detach()) @ start


# Each kind of gradient finds the pose alone, so that neither can hide that the other is wrong. Colours alone leave a
# greater error, because an image whose outline is not blended differs from the photograph even at the right pose.
@pytest.mark.parametrize(
    "axis, gradients, most_degrees",
    [
        ((1.0, 0.0, 0.0), {}, 0.3),
        ((0.0, 1.0, 0.0), {"outline": False}, 0.8),
        ((0.3, -0.4, 1.0), {"inside": False}, 0.3),
    ],
    ids=["both", "colours alone", "outline alone"],
)
def test_the_pose_of_a_textured_cube_is_found_in_one_image(
    axis: tuple[float, float, float], gradients: dict[str, bool], most_degrees: float
) -> None:
    pose = rotation(torch.tensor([0.3, 0.2, -0.1]))
    away = torch.deg2rad(torch.tensor(20.0)) * torch.nn.functional.normalize(torch.tensor(axis), dim=0)
    start = rotation(away) @ pose
    assert degrees_between(start, pose) == pytest.approx(20.0, abs=0.01)
    assert degrees_between(recover(photograph(pose), start, **gradients), pose) < most_degrees
