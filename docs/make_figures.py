"""Draw the figures of README: python docs/make_figures.py."""

from __future__ import annotations

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import torch
from matplotlib.collections import LineCollection
from matplotlib.patches import Polygon, Rectangle

import slangrast as sr

FOLDER = Path(__file__).parent


def bumpy_torus() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Vertices, triangles and lit colours of the object in the picture."""
    mesh = sr.torus()
    v = mesh.vertices
    v = v * (1 + 0.08 * torch.sin(6 * torch.atan2(v[:, 2], v[:, 0]))[:, None])
    normals = sr.Mesh(v, mesh.triangles).vertex_normals()
    hue = torch.atan2(v[:, 2], v[:, 0])[:, None] + torch.tensor([0.0, 2.1, 4.2])
    light = 0.35 + 0.65 * (normals @ torch.tensor([0.4, 0.8, 0.45])).clamp_min(0)
    return v, mesh.triangles, (0.55 + 0.4 * torch.cos(hue)) * light[:, None]


def draw_overview() -> None:
    vertices, triangles, colors = bumpy_torus()
    camera = sr.Camera.orbit(4.6, 35.0, 20.0, fov_degrees=45)
    size = (320, 320)

    def render(**options: object) -> sr.SoftImage:
        positions = camera.project(vertices)
        return sr.soft_rasterize(positions, triangles, colors, size, background=1.0, far=6.0, **options)

    images = [(f"color, sigma {s:g}, gamma {g:g}", render(sigma=s, gamma=g).color[0]) for s, g in SOFTNESS]
    soft = render(sigma=1e-3, gamma=1e-3)
    images += [("silhouette, sigma 0.001", soft.silhouette[0]), ("depth", soft.depth[0])]
    figure, axes = plt.subplots(2, 3, figsize=(10.2, 7.2), layout="constrained")
    for axis, (title, image) in zip(axes.flat, images, strict=False):
        kwargs = {} if image.ndim == 3 else {"cmap": "gray" if "sil" in title else "viridis_r"}
        axis.imshow(image.clamp(0, None).numpy(), **kwargs)
        axis.set_title(title)
    draw_gradient(axes.flat[5], camera, vertices, triangles, size)
    for axis in axes.flat:
        axis.set_axis_off()
    figure.savefig(FOLDER / "overview.png", dpi=80)
    plt.close(figure)


SOFTNESS = ((1e-6, 1e-5), (3e-4, 0.06), (3e-3, 0.12))


def draw_gradient(axis: plt.Axes, camera: sr.Camera, vertices: torch.Tensor, triangles: torch.Tensor, size) -> None:
    """How each vertex should move to match a silhouette that is shifted to the right and up."""
    with torch.no_grad():
        target = sr.soft_silhouette(camera.project(vertices + torch.tensor([-0.25, 0.2, 0.0])), triangles, size)
    moving = vertices.clone().requires_grad_()
    positions = camera.project(moving)
    found = sr.soft_silhouette(positions, triangles, size, sigma=1e-3)
    (grad,) = torch.autograd.grad(sr.losses.silhouette_iou(found, target), positions)
    step = -grad[0, :, :2]
    ndc = (positions[0, :, :2] / positions[0, :, 3:]).detach()
    pixels = torch.stack([(ndc[:, 0] + 1) * size[1] / 2, (1 - ndc[:, 1]) * size[0] / 2], 1) - 0.5
    overlay = torch.stack([1 - 0.35 * target[0], 1 - 0.35 * found[0].detach(), torch.ones(size)], -1)
    axis.imshow(overlay.numpy())
    keep = step.norm(dim=1) > 0.05 * step.norm(dim=1).max()
    axis.quiver(*pixels[keep].T, *step[keep].T, angles="uv", color="black", width=0.004)
    axis.set_title("gradient toward a shifted target")


def draw_conventions() -> None:
    triangle = torch.tensor([[-0.6, -0.7, 0.0, 1.0], [0.8, -0.4, 0.0, 1.0], [-0.2, 0.8, 0.0, 1.0]])
    height, width = 5, 8
    image = sr.soft_silhouette(triangle, torch.tensor([[0, 1, 2]]), (height, width), sigma=1e-3)[0]
    figure, (left, right) = plt.subplots(1, 2, figsize=(10.2, 3.9), layout="constrained")

    left.add_patch(Rectangle((-1, -1), 2, 2, fill=False))
    left.add_patch(Polygon(triangle[:, :2].numpy(), facecolor="tab:orange", alpha=0.7))
    for k, (x, y) in enumerate(triangle[:, :2].tolist()):
        left.annotate(f"v{k}", (x, y), textcoords="offset points", xytext=(5, 5))
    arrow = {"arrowprops": {"arrowstyle": "<-"}}
    left.annotate("x", (0, 0), (1.2, 0), va="center", **arrow)
    left.annotate("y", (0, 0), (0, 1.2), ha="center", **arrow)
    left.set(xlim=(-1.35, 1.35), ylim=(-1.3, 1.35), aspect="equal", xticks=[-1, 0, 1], yticks=[-1, 0, 1])
    left.set_title("positions, after division by w\nvisible z/w in [-1, 1], smaller is nearer", fontsize=10)

    right.imshow(image.numpy(), cmap="Oranges", vmin=0, vmax=1.4, extent=(0, width, height, 0))
    x = (triangle[:, 0] + 1) * width / 2
    y = (1 - triangle[:, 1]) * height / 2
    right.add_patch(Polygon(torch.stack([x, y], 1).numpy(), fill=False, edgecolor="tab:red"))
    grid = [[(i, 0), (i, height)] for i in range(width + 1)] + [[(0, j), (width, j)] for j in range(height + 1)]
    right.add_collection(LineCollection(grid, colors="gray", linewidths=0.5))
    right.plot(*torch.cartesian_prod(torch.arange(width) + 0.5, torch.arange(height) + 0.5).T, "k.", markersize=2)
    right.set_xticks([i + 0.5 for i in range(width)], [str(i) for i in range(width)])
    right.set_yticks([j + 0.5 for j in range(height)], [str(j) for j in range(height)])
    right.set(xlabel="column", ylabel="row")
    right.set_title("image [N, H, W, C], resolution (5, 8)\nrow 0 on top, pixel centres at + 0.5", fontsize=10)
    figure.savefig(FOLDER / "conventions.png", dpi=80)
    plt.close(figure)


if __name__ == "__main__":
    draw_overview()
    draw_conventions()
