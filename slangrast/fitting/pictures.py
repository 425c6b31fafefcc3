"""Pictures of a fit: target, result and difference side by side, and how it came about."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from slangrast.fitting.scene import Scene
from slangrast.mesh import Mesh
from slangrast.shading import directional_light, lambert
from slangrast.soft_rasterizer import soft_rasterize

_SHARP = 1e-6  # gamma of pictures: the nearest face alone
_ROWS = 4
_SHORTER_SIDE = 192  # pixels of a picture of a mesh, at least: at the size of small images its shading is noise


@torch.no_grad()
def draw_mesh(scene: Scene, mesh: Mesh, views: Tensor) -> Tensor:
    """[M, H, W, 3] a mesh in world units as the cameras of `views` see it, on white: its colours, or lit grey. H and W
    are `enlargement(scene)` times those of the images."""
    colors = mesh.vertex_colors
    if colors is None:
        light = directional_light((0.4, 0.8, 0.45))
        colors = 0.25 + 0.65 * lambert(mesh.vertex_normals(), light, two_sided=True)
        colors = colors.expand(len(mesh.vertices), 3)
    clip = scene.cameras[views].project(scene.from_world(mesh.vertices))
    height, width = scene.resolution
    image = soft_rasterize(
        clip,
        mesh.triangles,
        colors,
        (height * enlargement(scene), width * enlargement(scene)),
        gamma=_SHARP,
        coverage="hard",
        background=1.0,
        **scene.depth_range(),
    )
    return image.color


def enlargement(scene: Scene) -> int:
    """How many times larger than the images a mesh is drawn."""
    return -(-_SHORTER_SIDE // min(scene.resolution))


def draw_target(scene: Scene, views: Tensor) -> Tensor:
    """[M, H, W, 3] the images of `views` on white: their colours, or grey."""
    masks = scene.masks[views][..., None]
    colors = 0.55 * masks if scene.colors is None else scene.colors[views]
    return colors.expand(*masks.shape[:3], 3) + 1 - masks


def some_views(count: int) -> Tensor:
    """A few views, evenly spread over all."""
    return torch.linspace(0, count - 1, min(count, _ROWS)).round().long().unique()


def save_images(path: Path, images: Tensor) -> None:
    """Views side by side, without decoration."""
    from PIL import Image

    Image.fromarray(np.concatenate(list(_bytes(images)), axis=1)).save(path)


def save_comparison(path: Path, scene: Scene, mesh: Mesh, ious: Tensor) -> None:
    """A row for each of a few views: target, result, and where the masks differ."""
    from matplotlib.figure import Figure

    views = some_views(len(scene))
    targets, found = draw_target(scene, views), draw_mesh(scene, mesh, views)
    figure = Figure(figsize=(7.2, 2.45 * len(views) + 0.3), layout="constrained")
    axes = figure.subplots(len(views), 3, squeeze=False)
    covered = scene.covered(scene.from_world(mesh.vertices), mesh.triangles, views)
    for row, view in enumerate(views.tolist()):
        target = scene.masks[view] > 0.5
        result = covered[row]
        difference = torch.full((*target.shape, 3), 0.96)
        difference[target & result] = torch.tensor([0.75, 0.75, 0.75])
        difference[target & ~result] = torch.tensor([0.12, 0.47, 0.71])
        difference[~target & result] = torch.tensor([0.84, 0.15, 0.16])
        for axis, image in zip(axes[row], (targets[row], found[row], difference), strict=True):
            axis.imshow(image.clamp(0, 1).cpu().numpy(), interpolation="nearest")
            axis.set(xticks=[], yticks=[])
        axes[row][0].set_ylabel(f"view {view}")
        axes[row][2].set_xlabel(f"IoU {float(ious[view]):.3f}")
    for axis, title in zip(axes[0], ("target", "result", "blue: missing, red: too much"), strict=True):
        axis.set_title(title, fontsize=10)
    figure.savefig(path, dpi=110)


class Film:
    """Frames of a fit, one view of target and mesh side by side, for an animated GIF."""

    def __init__(self, scene: Scene, most_frames: int = 60) -> None:
        self._scene, self._most = scene, most_frames
        self._view = torch.tensor([len(scene) // 3])
        target, scale = _bytes(draw_target(scene, self._view))[0], enlargement(scene)
        self._target = target.repeat(scale, 0).repeat(scale, 1)
        self._frames: list[np.ndarray] = []

    def add(self, mesh: Mesh) -> None:
        """Keep a frame; of too many, every second is let go."""
        found = _bytes(draw_mesh(self._scene, mesh, self._view))[0]
        self._frames.append(np.concatenate((self._target, found), axis=1))
        if len(self._frames) > self._most:
            del self._frames[1:-1:2]

    def save(self, path: Path) -> None:
        from PIL import Image

        if not self._frames:
            return
        # One palette, from a few frames, for all: to choose colours takes longer than to draw, and the target would
        # flicker if each frame had colours of its own.
        few = [self._frames[index] for index in some_views(len(self._frames))]
        palette = Image.fromarray(np.concatenate(few)).quantize(256)
        pages = [Image.fromarray(frame).quantize(palette=palette, dither=Image.Dither.NONE) for frame in self._frames]
        durations = [100] * (len(pages) - 1) + [2000]  # milliseconds
        pages[0].save(path, save_all=True, append_images=pages[1:], duration=durations, loop=0)


def _bytes(images: Tensor) -> np.ndarray:
    return (images.clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy()
