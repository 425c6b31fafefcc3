"""Draw one scene through every stage of the hard path: python docs/make_buffers.py."""

from __future__ import annotations

import math
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import torch
from torch import Tensor

import slangrast as sr

FOLDER = Path(__file__).parent
SIZE = (240, 240)
BACKGROUND = torch.tensor([0.93, 0.95, 0.98])
INSET = (slice(74, 94), slice(51, 71))  # rows and columns of the pixels that are shown enlarged


def ring() -> tuple[sr.Mesh, Tensor]:
    """A torus with uv, and its normals: a grid that is bent around, and meets itself at seams of the texture."""
    grid = sr.plane(columns=32, rows=16)
    # The remainder makes both sides of a seam equal to the last bit, so that they are no silhouette.
    around, across = (2 * math.pi * (grid.uv % 1.0)).unbind(1)
    outward = torch.stack([around.sin(), torch.zeros_like(around), around.cos()], dim=1)
    upward = torch.tensor([0.0, 1.0, 0.0])
    normals = across.cos()[:, None] * outward - across.sin()[:, None] * upward
    return sr.Mesh(outward + 0.42 * normals, grid.triangles, uv=grid.uv * torch.tensor([8.0, 3.0])), normals


def scene() -> tuple[sr.Mesh, Tensor]:
    """The ring above a floor, and the normals of both."""
    torus, torus_normals = ring()
    floor = sr.plane(3.6, 3.6, 4, 4)
    x, y, _ = floor.vertices.unbind(1)
    level = torch.stack([x, torch.full_like(x, -0.75), -y], dim=1)
    mesh = sr.Mesh(
        torch.cat([torus.vertices, level]),
        torch.cat([torus.triangles, floor.triangles + len(torus.vertices)]),
        uv=torch.cat([torus.uv, floor.uv * 4]),
    )
    return mesh, torch.cat([torus_normals, mesh.vertex_normals()[len(torus_normals) :]])


def tiles(side: int = 128) -> Tensor:
    """[side, side, 3]: four tiles in warm and cold colours, brighter to the right, with dark joints."""
    place = (torch.arange(side) + 0.5) / side
    v, u = torch.meshgrid(place, place, indexing="ij")
    warm = ((u < 0.5) == (v < 0.5))[..., None]
    color = torch.where(warm, torch.tensor([0.95, 0.62, 0.25]), torch.tensor([0.2, 0.5, 0.75]))
    joint = ((u % 0.5 - 0.25).abs().maximum((v % 0.5 - 0.25).abs()) > 0.225)[..., None]
    return torch.where(joint, 0.2, color * (0.7 + 0.3 * u[..., None]))


def stages() -> dict[str, Tensor]:
    """[H, W, 3] each, or [H, W, 1] of the depth: what every stage makes of the scene, NaN where it makes nothing."""
    mesh, vertex_normals = scene()
    camera = sr.Camera.orbit(6.3, 33.0, 30.0, target=(0.0, -0.25, 0.0), fov_degrees=42)
    geometry = sr.rasterize(camera.project(mesh.vertices), mesh.triangles, SIZE)
    seen = geometry.mask[..., None]

    uv, slopes = sr.interpolate(geometry, mesh.uv, derivatives=True)
    normals = sr.shading.normalize(sr.interpolate(geometry, vertex_normals))
    albedo = sr.texture(sr.mip_stack(tiles()), uv, uv_derivatives=slopes, filter="linear_mipmap_linear")
    light = sr.shading.directional_light((0.3, 1.0, -0.6))
    shaded = sr.shading.ambient(albedo, 0.35) + sr.shading.lambert(normals, light, 0.75 * albedo)
    shaded = torch.where(seen, shaded, BACKGROUND)

    u, v = geometry.barycentrics.unbind(-1)
    face_colors = torch.rand(len(mesh.triangles), 3, generator=torch.Generator().manual_seed(1))
    buffers = {
        "triangle_id": face_colors[geometry.triangle_id.clamp_min(0)],
        "barycentrics": torch.stack([u, v, 1 - u - v], dim=-1),
        "depth": geometry.depth[..., None],
        "interpolate: uv": torch.cat([uv % 1, torch.zeros_like(uv[..., :1])], dim=-1),
        "interpolate: normals": 0.5 + 0.5 * normals,
        "texture": albedo,
    }
    pictures = {name: torch.where(seen, image, math.nan) for name, image in buffers.items()}
    pictures |= {"shading": shaded, "antialias": sr.antialias(shaded, geometry)}
    return {name: image[0] for name, image in pictures.items()}


def draw_buffers() -> None:
    figure, axes = plt.subplots(2, 4, figsize=(12.4, 6.7), layout="constrained")
    for axis, (title, image) in zip(axes.flat, stages().items(), strict=True):
        empty = image.isnan()
        if image.shape[2] == 1:
            image = depth_colors(image)
        pixels = torch.where(empty, BACKGROUND, image).clamp(0, 1).numpy()
        axis.imshow(pixels, interpolation="nearest")
        axis.set_title(title)
        axis.set_axis_off()
        if title in ("shading", "antialias"):
            enlarge(axis, pixels)
    figure.savefig(FOLDER / "buffers.png", dpi=80)
    plt.close(figure)


def depth_colors(depth: Tensor) -> Tensor:
    """[H, W, 3] from [H, W, 1]: the nearest is brightest."""
    known = depth[~depth.isnan()]
    share = (depth[..., 0] - known.min()) / (known.max() - known.min())
    return torch.from_numpy(plt.get_cmap("viridis_r")(share.numpy())[..., :3]).float()


def enlarge(axis: plt.Axes, pixels: np.ndarray) -> None:
    """Show a few pixels large, in a corner."""
    rows, columns = INSET
    inset = axis.inset_axes((0.64, 0.64, 0.36, 0.36))
    inset.imshow(
        pixels[INSET],
        interpolation="nearest",
        extent=(columns.start - 0.5, columns.stop - 0.5, rows.stop - 0.5, rows.start - 0.5),
    )
    inset.set(xticks=[], yticks=[])
    axis.indicate_inset_zoom(inset, edgecolor="black")


if __name__ == "__main__":
    draw_buffers()
