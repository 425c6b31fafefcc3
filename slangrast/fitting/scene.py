"""The scene of a fit: target images, their cameras, and where in the world the object is."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from slangrast.camera import Camera
from slangrast.mesh import Mesh
from slangrast.soft_rasterizer import soft_rasterize, soft_silhouette
from slangrast.topology import describe

# So many views are rendered at once where all are: enough to keep the cores busy, few enough to fit in memory.
_CHUNK = 24
_NEEDS_MASK = "a silhouette needs pixels above one half"


@dataclass(frozen=True)
class Scene:
    """Checked targets, with cameras that see the object around the origin with a radius of about 1.

    masks: [N, H, W] float, 0 to 1.     colors: [N, H, W, 3] float, multiplied by the mask, or None.
    cameras: of N views, from the object's own unit.
    centre: [3] float and radius, of the object in the world.
    near, far, depth: for the rasterizer, in world units.
    """

    masks: Tensor
    colors: Tensor | None
    cameras: Camera
    centre: Tensor
    radius: float
    near: float
    far: float
    depth: str

    def __len__(self) -> int:
        return len(self.masks)

    def to_world(self, vertices: Tensor) -> Tensor:
        """World positions of vertices in the object's unit."""
        return vertices * self.radius + self.centre

    def from_world(self, vertices: Tensor) -> Tensor:
        """Vertices in the object's unit, from world positions."""
        return (vertices - self.centre) / self.radius

    def reduced(self, size: tuple[int, int]) -> tuple[Tensor, Tensor | None]:
        """Masks and colours at (height, width) `size`, each pixel the mean of those it covers."""
        if size == tuple(self.masks.shape[1:]):
            return self.masks, self.colors
        pool = torch.nn.functional.adaptive_avg_pool2d
        colors = None if self.colors is None else pool(self.colors.movedim(3, 1), size).movedim(1, 3)
        return pool(self.masks, size), colors

    def silhouettes(
        self, vertices: Tensor, triangles: Tensor, views: Tensor, size: tuple[int, int], sigma: float
    ) -> Tensor:
        """[len(views), H, W] soft silhouettes of a mesh in the object's unit."""
        clip = self.cameras[views].project(vertices)
        return soft_silhouette(clip, triangles, size, sigma=sigma, **self.depth_range())

    def images(
        self, vertices: Tensor, triangles: Tensor, colors: Tensor, views: Tensor, size: tuple[int, int], sigma: float
    ) -> tuple[Tensor, Tensor]:
        """Silhouettes [M, H, W], and colours [M, H, W, 3] multiplied by them, as the targets' are."""
        clip = self.cameras[views].project(vertices)
        image = soft_rasterize(clip, triangles, colors, size, sigma=sigma, **self.depth_range())
        return image.silhouette, image.color * image.silhouette[..., None]

    @property
    def resolution(self) -> tuple[int, int]:
        """(height, width) of the images."""
        return self.masks.shape[1], self.masks.shape[2]

    def depth_range(self) -> dict[str, Any]:
        """What the rasterizer is told of depth, in world units."""
        return {"near": self.near, "far": self.far, "depth": self.depth}

    @torch.no_grad()
    def covered(
        self, vertices: Tensor, triangles: Tensor, views: Tensor, size: tuple[int, int] | None = None
    ) -> Tensor:
        """[len(views), H, W] bool: where a mesh in the object's unit covers the pixel centre."""
        clip = self.cameras[views].project(vertices)
        drawn = soft_silhouette(clip, triangles, size or self.resolution, coverage="hard", **self.depth_range())
        return drawn > 0.5

    @torch.no_grad()
    def ious(self, vertices: Tensor, triangles: Tensor, masks: Tensor | None = None) -> Tensor:
        """[N] float: intersection over union of each view, of the mask above one half and the mesh drawn hard. `masks`
        may be those of `reduced`."""
        masks = self.masks if masks is None else masks
        size = masks.shape[1], masks.shape[2]
        found = []
        for views in torch.arange(len(self), device=masks.device).split(_CHUNK):
            drawn, target = self.covered(vertices, triangles, views, size), masks[views] > 0.5
            union = (drawn | target).sum((1, 2))
            found.append((drawn & target).sum((1, 2)) / union.clamp(min=1))
        return torch.cat(found)


def make_scene(images: Tensor, cameras: Camera, with_colors: bool) -> Scene:
    """Check the arguments of `fit`, and find the object; errors are those of `fit`."""
    masks, colors = _check_images(images, with_colors)
    if not isinstance(cameras, Camera):
        raise TypeError(f"fit: cameras must be a Camera of {len(masks)} views, got {describe(cameras)}")
    if len(cameras) != len(masks):
        raise ValueError(f"fit: cameras must be one for each of the {len(masks)} images, got {len(cameras)}")
    cameras = Camera(*(matrix.detach().to(masks) for matrix in (cameras.view, cameras.projection)))
    if not torch.isfinite(cameras.matrix).all():
        bad = _list(~torch.isfinite(cameras.matrix).flatten(1).all(1))
        raise ValueError(f"fit: cameras must be finite, got NaN or inf in view {bad}")
    parallel = (cameras.matrix[:, 3, :3] == 0).all(1)
    if bool(parallel.any()) and not bool(parallel.all()):
        raise ValueError("fit: cameras must be all perspective or all orthographic, got both")
    centre, radius = _locate(masks, cameras)
    placed = torch.eye(4, dtype=masks.dtype, device=masks.device)
    placed[:3, :3] *= radius
    placed[:3, 3] = centre
    near, far, depth = _depth_range(cameras, centre, radius, bool(parallel.all()))
    return Scene(masks, colors, Camera(cameras.view @ placed, cameras.projection), centre, radius, near, far, depth)


def _check_images(images: object, with_colors: bool) -> tuple[Tensor, Tensor | None]:
    wanted = "[N, H, W, 4] RGBA" if with_colors else "[N, H, W, 4] RGBA or [N, H, W] masks"
    if not isinstance(images, Tensor) or not images.dtype.is_floating_point:
        raise TypeError(f"fit: images must be {wanted}, float in [0, 1], got {describe(images)}")
    shaped = (images.ndim == 4 and images.shape[3] == 4) or (images.ndim == 3 and not with_colors)
    if not shaped or not images.numel():
        raise ValueError(f"fit: images must be {wanted}, float in [0, 1], got {describe(images)}")
    images = images.detach().to(torch.float32)
    sound = (torch.isfinite(images) & (images >= 0) & (images <= 1)).flatten(1).all(1)
    if not sound.all():
        raise ValueError(f"fit: images must be finite and in [0, 1], got other values in view {_list(~sound)}")
    masks = (images if images.ndim == 3 else images[..., 3]).contiguous()
    inside = (masks > 0.5).flatten(1)
    empty = ~inside.any(1)
    if empty.all():
        raise ValueError(f"fit: images must show the object, got {len(masks)} empty silhouettes: {_NEEDS_MASK}")
    if empty.any():
        raise ValueError(
            f"fit: images must all show the object, got an empty silhouette in view {_list(empty)}: {_NEEDS_MASK}"
        )
    if inside.all():
        raise ValueError("fit: images must show where the object ends, got an alpha above one half everywhere")
    return masks, (images[..., :3] * masks[..., None]).contiguous() if with_colors else None


def _list(chosen: Tensor) -> str:
    """Numbers of the views chosen, the first few of many."""
    numbers = torch.nonzero(chosen).flatten().tolist()
    return ", ".join(map(str, numbers[:5])) + (f" and {len(numbers) - 5} more" if len(numbers) > 5 else "")


def _locate(masks: Tensor, cameras: Camera) -> tuple[Tensor, float]:
    """Where the object is, in the world: the point that the rays through the middles of all masks pass closest to, and
    the radius that reaches to the furthest mask pixel of a typical view."""
    count, height, width = masks.shape
    inside = masks > 0.5
    x = ((torch.arange(width, device=masks.device) + 0.5) * 2 / width - 1).expand(height, width)
    y = (1 - (torch.arange(height, device=masks.device) + 0.5) * 2 / height)[:, None].expand(height, width)
    ndc = torch.stack((x, y), dim=2).to(torch.float64)
    middle = torch.stack([ndc[mask].mean(0) for mask in inside])
    matrix = cameras.matrix.double()
    # x / w = middle: one linear equation in the point, for each of x and y of each view.
    rows = matrix[:, :2] - middle[:, :, None] * matrix[:, 3:]
    rows = (rows / rows[:, :, :3].norm(dim=2, keepdim=True).clamp(min=1e-12)).flatten(0, 1)
    # The little weight on the world's origin decides where views leave the point open, as a single view does.
    system = torch.cat((rows[:, :3], 1e-3 * torch.eye(3, dtype=rows.dtype, device=rows.device)))
    right = torch.cat((-rows[:, 3], rows.new_zeros(3)))
    centre = torch.linalg.lstsq(system, right[:, None], driver="gels").solution.flatten()
    clip = matrix[:, :, :3] @ centre + matrix[:, :, 3]
    if not (clip[:, 3] > 0).all():
        behind = _list(clip[:, 3] <= 0)
        raise ValueError(f"fit: cameras must look at the object, got it behind the eye in view {behind}")
    projected = clip[:, :2] / clip[:, 3:]
    # How far a step in the world moves a point in the image, at the object.
    slopes = (matrix[:, :2, :3] - projected[:, :, None] * matrix[:, 3:, :3]) / clip[:, 3, None, None]
    per_axis = slopes.norm(dim=2)
    reach = torch.stack([((ndc[inside[k]] - projected[k]) / per_axis[k]).norm(dim=1).max() for k in range(count)])
    return centre.to(masks), float(reach.median())


def _depth_range(cameras: Camera, centre: Tensor, radius: float, parallel: bool) -> tuple[float, float, str]:
    """near, far and depth for the rasterizer: room for the object to grow, and no more, so that its parts differ in
    depth score."""
    along = cameras.matrix[:, 3, :3] @ centre + cameras.matrix[:, 3, 3]
    if parallel:
        # Only z/w tells depth here, and what lies outside the range of the user's own matrices is not drawn.
        outside = (cameras.matrix[:, 2, :3] @ centre + cameras.matrix[:, 2, 3]).abs() > along
        if outside.any():
            raise ValueError(
                f"fit: cameras must have the object between their near and far planes, got it outside in view "
                f"{_list(outside)}"
            )
        return 1.0, 100.0, "ndc"
    nearest, furthest = float(along.min()), float(along.max())
    near = max(nearest - 4 * radius, 0.01 * nearest)
    return near, furthest + 4 * radius, "view"


def sphere_radius() -> float:
    """(radius) of the sphere that a fit starts from: it should hold the object, for silhouettes pull inwards better
    than they push outwards."""
    return 1.0


def check_template(scene: Scene, template: Mesh) -> None:
    """Raise where no view shows the template where its object is: such a fit would have nothing to follow."""
    if not torch.isfinite(template.vertices).all():
        raise ValueError("fit: template must have finite vertices, got NaN or inf")
    ious = scene.ious(scene.from_world(template.vertices), template.triangles)
    if not math.fsum(ious.tolist()) > 0:
        where = ", ".join(f"{value:.3g}" for value in scene.centre.tolist())
        raise ValueError(
            f"fit: template must overlap the object in the images, got a mesh that no mask touches: the object is "
            f"around ({where}) with a radius of {scene.radius:.3g}"
        )
