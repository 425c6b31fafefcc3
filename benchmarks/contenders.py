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


@dataclass(frozen=True)
class Contender:
    name: str
    forward: Callable[[], Images]
    step: Callable[[], object]  # forward, and the gradient of the images weighted by an upstream gradient
    scene: Scene | None = None  # where autograd leaves the gradients


def differentiable(name: str, render: Callable[[Scene], Images], scene: Scene, upstream: Images) -> Contender:
    """A contender that autograd differentiates."""

    def forward() -> Images:
        with torch.no_grad():
            return render(scene)

    def step() -> None:
        scene.forget_gradients()
        torch.autograd.backward(render(scene), upstream)

    return Contender(name, forward, step, scene)


def upstream_gradient(images: Images) -> Images:
    """Fixed random weights, the same for every contender."""
    generator = torch.Generator().manual_seed(1)
    return tuple(torch.randn(image.shape, generator=generator).to(image.device) for image in images)


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


def differences(ours: Images, theirs: Images) -> tuple[float, float]:
    """The largest and the mean difference of two renderings."""
    pairs = zip(ours, theirs, strict=True)
    gaps = torch.cat([(one.detach() - other.detach()).abs().flatten() for one, other in pairs])
    return float(gaps.max()), float(gaps.mean())
