"""What is timed: slangrast, and the same image in plain PyTorch, which is what a user would write without it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

import slangrast as sr
from tests.references import soft_rasterizer as plain

from .cases import Scene

# A silhouette [N, H, W]; or a colour [N, H, W, 3] and a silhouette; or, of a hard rasterizer, a colour.
Images = tuple[torch.Tensor, ...]

_PAIRS_AT_ONCE = 2**20  # pixels times faces in one piece of the plain version: more and it runs out of cache


@dataclass(frozen=True)
class Tolerance:
    """How far two images may be apart and count as one."""

    largest: float
    mean: float


PROTOTYPE_TOLERANCE = Tolerance(1e-3, 1e-4)  # the same formulas in float32
PEER_TOLERANCE = Tolerance(1.0, 1e-3)  # a pixel on an edge may go to another face, or a fragment be clipped otherwise
GRADIENT_TOLERANCE = 1e-2  # of the gradient's length: a few such pixels, and rounding


@dataclass(frozen=True)
class Contender:
    name: str
    forward: Callable[[], Images]
    step: Callable[[], Images]  # forward, and the gradient of the images weighted by an upstream gradient
    scene: Scene | None = None  # where autograd leaves the gradients
    mirror: tuple[float, ...] = (1.0, 1.0, 1.0, 1.0)  # by which positions were multiplied for it


def differentiable(
    name: str,
    render: Callable[[Scene], Images],
    scene: Scene,
    upstream: Images,
    mirror: tuple[float, ...] = Contender.mirror,
) -> Contender:
    """A contender that autograd differentiates."""

    def forward() -> Images:
        with torch.no_grad():
            return render(scene)

    def step() -> Images:
        scene.forget_gradients()
        images = render(scene)
        torch.autograd.backward(images, upstream)
        return images

    return Contender(name, forward, step, scene, mirror)


def upstream_gradient(images: Images) -> Images:
    """Fixed random weights, the same for every contender.

    None is negative: else what the scene does to the image as it moves as a whole would drown in their noise.
    """
    generator = torch.Generator().manual_seed(1)
    return tuple(torch.rand(image.shape, generator=generator).to(image.device) for image in images)


def render_slangrast(scene: Scene, mode: str, perspective_correct: bool = True) -> Images:
    """What `mode` shows. The last three are the hard path: without gradients at silhouettes, or with these or those."""
    if mode == "silhouette":
        return (sr.soft_silhouette(scene.positions, scene.triangles, scene.resolution, sigma=scene.sigma),)
    if mode == "color":
        soft = sr.soft_rasterize(
            scene.positions, scene.triangles, scene.colors, scene.resolution, sigma=scene.sigma,
            perspective_correct=perspective_correct,
        )  # fmt: skip
        return soft.color, soft.silhouette
    geometry = sr.rasterize(scene.positions, scene.triangles, scene.resolution)
    color = sr.interpolate(geometry, scene.colors)
    if mode == "interior":
        return (color,)
    return ({"antialias": sr.antialias, "edges": sr.edge_gradients}[mode](color, geometry),)


def plain_step(scene: Scene, mode: str, pixels: torch.Tensor, upstream: Images) -> Images:
    """The reference of the tests, in float32, on the given pixels, a piece at a time with a backward for each piece."""
    pieces = []
    scene.forget_gradients()
    for part in pixels.split(max(1, _PAIRS_AT_ONCE // len(scene.triangles))):
        soft = plain.soft_rasterize(
            scene.positions, scene.triangles, scene.colors, scene.resolution, sigma=scene.sigma, pixels=part
        )
        images = (soft.silhouette,) if mode == "silhouette" else (soft.color, soft.silhouette)
        torch.autograd.backward(images, tuple(weight.flatten(1, 2)[:, part] for weight in upstream))
        pieces.append(tuple(image.detach() for image in images))
    return tuple(torch.cat(images, dim=1) for images in zip(*pieces, strict=True))


@dataclass(frozen=True)
class GradientGap:
    """How far the gradient of positions is from ours, in shares of ours."""

    whole: float  # of its length
    median: float  # of the vertices: a few that are far off do not show in it
    motions: float  # along shifts, a scaling and a turn of the whole image: who in an edge moves does not show in it


def gradient_gap(scene: Scene, ours: torch.Tensor, theirs: torch.Tensor) -> GradientGap:
    """Of gradients [N, V, 4] of a scene's positions."""
    ours, theirs = ours.detach().double(), theirs.detach().double()
    gap, length = (theirs - ours).norm(dim=-1), ours.norm(dim=-1)
    moved, moved_gap = (_along_motions(scene, gradient) for gradient in (ours, theirs - ours))
    seen = length > 0
    median = (gap[seen] / length[seen]).median() if seen.any() else gap.new_zeros(())
    return GradientGap(*(float(x) for x in (gap.norm() / length.norm(), median, moved_gap.norm() / moved.norm())))


def _along_motions(scene: Scene, gradient: torch.Tensor) -> torch.Tensor:
    x, y, _, w = scene.positions.detach().double().unbind(-1)
    for_x, for_y = gradient[..., 0], gradient[..., 1]
    changes = (for_x * w, for_y * w, for_x * x + for_y * y, for_y * x - for_x * y)
    return torch.stack([change.sum() for change in changes])


def differences(ours: Images, theirs: Images) -> tuple[float, float]:
    """The largest and the mean difference of two renderings."""
    pairs = zip(ours, theirs, strict=True)
    gaps = torch.cat([(one.detach() - other.detach()).abs().flatten() for one, other in pairs])
    return float(gaps.max()), float(gaps.mean())
