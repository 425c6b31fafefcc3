"""`slangrast demo`: make a mesh, render it, and find it again from its images."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from slangrast.camera import Camera
from slangrast.fitting.job import make_folder, run_job
from slangrast.fitting.pictures import save_images
from slangrast.fitting.run import FitResult
from slangrast.fitting.settings import FitSettings
from slangrast.mesh import Mesh, icosphere
from slangrast.shading import directional_light, lambert
from slangrast.soft_rasterizer import soft_rasterize

VIEWS = 24


def bumpy_mesh(subdivisions: int = 4) -> Mesh:
    """A smooth object of genus 0 with bumps and dents, coloured by direction and lit from above."""
    sphere = icosphere(subdivisions)
    x, y, z = sphere.vertices.unbind(1)
    radius = 1 + 0.22 * torch.sin(3 * x + 0.5) * torch.cos(2 * y) + 0.16 * torch.sin(4 * z + 2 * y) + 0.12 * x * y
    vertices = sphere.vertices * radius[:, None] * torch.tensor([1.15, 0.9, 0.95])
    normals = Mesh(vertices, sphere.triangles).vertex_normals()
    light = 0.7 + 0.3 * lambert(normals, directional_light((0.3, 0.9, 0.3)))
    hue = 0.6 + 0.38 * torch.cos(2.5 * vertices + torch.tensor([0.0, 2.1, 4.2]))
    return Mesh(vertices, sphere.triangles, vertex_colors=(hue * light).clamp(0, 1))


def views_around(count: int = VIEWS) -> Camera:
    """Cameras on three rings around the origin, from below, level and above."""
    index = torch.arange(count)
    elevation = torch.tensor([-35.0, 0.0, 35.0])[index % 3]
    return Camera.orbit(4.2, elevation, index * (360.0 / count), fov_degrees=40.0)


@torch.no_grad()
def render_views(mesh: Mesh, cameras: Camera, size: int) -> Tensor:
    """[N, size, size, 4] RGBA images with hard edges."""
    colors = mesh.vertex_colors
    assert colors is not None
    image = soft_rasterize(
        cameras.project(mesh.vertices), mesh.triangles, colors, (size, size), gamma=1e-6, coverage="hard"
    )
    return torch.cat((image.color, image.silhouette[..., None].round()), dim=3)


def run_demo(out: Path, size: int = 96, settings: FitSettings | None = None) -> FitResult:
    """Reconstruct the mesh of `bumpy_mesh` from 24 views, leaving target.png and the files of a fit in `out`."""
    make_folder(out)
    cameras = views_around()
    images = render_views(bumpy_mesh(), cameras, size)
    save_images(out / "target.png", images[:8:2, ..., :3] + 1 - images[:8:2, ..., 3:])
    # The object is smooth: wide steps keep dents from folding.
    settings = settings or FitSettings(levels=1, coarse_size=size, steps=200, views_per_step=8, smoothness=4.0)
    return run_job(images, cameras, out, with_colors=True, settings=settings)
