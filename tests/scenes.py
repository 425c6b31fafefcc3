"""Small scenes, named by the branch that they take. Float64, deterministic, depths between `NEAR` and `FAR`.

Most are drawn in screen coordinates (y up, half of the shorter side is 1) at given view depths, then brought
to clip space, so that a scene says where its pixels fall. Pixel centres of a 9 x 9 image are
at multiples of 2/9, the middle one at (0, 0).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

NEAR, FAR = 1.0, 10.0


class Scene(NamedTuple):
    positions: Tensor  # [V, 4]
    triangles: Tensor  # [F, 3] int64
    attributes: Tensor  # [V, 3]
    resolution: tuple[int, int]


def clip_space(points, view_depth, resolution: tuple[int, int]) -> Tensor:
    """[V, 4] Clip positions that a perspective camera would give to screen points [V, 2] at depths [V]."""
    height, width = resolution
    points = torch.as_tensor(points, dtype=torch.float64).reshape(-1, 2)
    w = torch.as_tensor(view_depth, dtype=torch.float64).expand(len(points))
    scale = torch.tensor([min(resolution) / width, min(resolution) / height], dtype=torch.float64)
    z = ((FAR + NEAR) * w - 2 * FAR * NEAR) / (FAR - NEAR)
    return torch.cat([points * scale * w[:, None], z[:, None], w[:, None]], dim=1)


def scene(points, view_depth, triangles, resolution: tuple[int, int] = (9, 9)) -> Scene:
    positions = clip_space(points, view_depth, resolution)
    triangles = torch.as_tensor(triangles, dtype=torch.int64).reshape(-1, 3)
    return Scene(positions, triangles, colours(len(positions)), resolution)


def colours(count: int, channels: int = 3) -> Tensor:
    return torch.rand(count, channels, generator=torch.Generator().manual_seed(count), dtype=torch.float64)


# One face


def pixel_nearest_to_a_vertex() -> Scene:
    """The middle pixel is left of the face's left corner, in the wedge that is nearest to it."""
    return scene([[0.31, 0.04], [0.93, -0.42], [0.87, 0.55]], [3.0, 4.0, 5.0], [[0, 1, 2]])


def pixel_nearest_to_an_edge() -> Scene:
    """The middle pixel is left of the face's upright left side."""
    return scene([[0.21, -0.83], [0.91, 0.02], [0.19, 0.87]], [3.0, 4.0, 5.0], [[0, 1, 2]])


def pixel_inside() -> Scene:
    return scene([[-0.71, -0.63], [0.82, -0.44], [-0.05, 0.79]], [3.0, 4.0, 5.0], [[0, 1, 2]])


def pixel_on_a_vertex() -> Scene:
    """A corner at the centre of the middle pixel."""
    return scene([[0.0, 0.0], [0.9, -0.4], [0.8, 0.6]], [3.0, 4.0, 5.0], [[0, 1, 2]])


def pixel_on_an_edge() -> Scene:
    """A side through the centres of the middle column."""
    return scene([[0.0, -0.8], [0.9, 0.0], [0.0, 0.8]], [3.0, 4.0, 5.0], [[0, 1, 2]])


def clockwise() -> Scene:
    one = pixel_inside()
    return one._replace(triangles=one.triangles.flip(1))


def sliver() -> Scene:
    """A thousandth as high as long."""
    return scene([[-0.81, 0.013], [0.83, 0.017], [0.11, 0.0165]], [3.0, 4.0, 3.6], [[0, 1, 2]])


def zero_area() -> Scene:
    """A point, a segment whose corners are in line, a segment with two corners equal, and one good face."""
    points = [[-0.5, -0.5], [0.1, 0.1], [0.5, 0.5], [-0.6, 0.5], [0.6, -0.5], [0.5, 0.7]]
    faces = [[0, 0, 0], [0, 1, 2], [0, 2, 2], [3, 4, 5]]
    return scene(points, [3.0, 3.0, 3.0, 4.0, 5.0, 6.0], faces)


def off_screen() -> Scene:
    """One face far to the right, one far above, one that reaches in from the left."""
    points = [[7, 0], [9, 0], [8, 1], [0, 7], [1, 9], [-1, 8], [-4, -0.3], [-0.4, 0.1], [-3, 0.8]]
    return scene(points, [3.0] * 3 + [4.0] * 3 + [5.0] * 3, [[0, 1, 2], [3, 4, 5], [6, 7, 8]])


def behind_the_eye() -> Scene:
    """A face with a vertex behind the eye, one with a vertex at the eye, one wholly behind, a good one."""
    one = scene(
        [[-0.7, -0.6], [0.8, -0.4], [0.0, 0.8], [0.3, 0.3], [0.4, 0.6]],
        [3.0, 4.0, 5.0, -2.0, 2.0],
        [[0, 1, 3], [0, 1, 4], [3, 3, 3], [0, 1, 2]],
    )
    one.positions[4, 3] = 0.0
    return one


def covers_everything() -> Scene:
    return scene([[-9.0, -7.0], [11.0, -8.0], [0.5, 14.0]], [3.0, 4.0, 5.0], [[0, 1, 2]], (7, 11))


def one_pixel() -> Scene:
    return scene(
        [[-0.7, -0.6], [0.3, -0.4], [0.1, 0.8], [0.9, 0.5]],
        [3.0, 4.0, 5.0, 2.0],
        [[0, 1, 2], [1, 2, 3]],
        (1, 1),
    )


def no_faces() -> Scene:
    return scene([[-0.7, -0.6], [0.8, -0.4], [0.0, 0.8]], [3.0, 4.0, 5.0], [], (5, 7))


def outside_the_range() -> Scene:
    """Faces nearer than `NEAR`, beyond `FAR`, crossing `NEAR`, crossing `FAR`, and between the two."""
    corner = torch.tensor([[-0.8, -0.7], [0.8, -0.5], [0.1, 0.9]], dtype=torch.float64)
    points = torch.cat([corner * (0.6 + 0.1 * k) + 0.03 * k for k in range(5)])
    depths = [0.4, 0.5, 0.6, 12.0, 13.0, 11.0, 0.5, 2.0, 3.0, 8.0, 13.0, 9.0, 4.0, 5.0, 6.0]
    return scene(points, depths, torch.arange(15))


def small_face(x: float, y: float, resolution: tuple[int, int], size: float = 0.2) -> Scene:
    """A counter-clockwise face around a screen point."""
    corners = [[x - size, y - size], [x + size, y - size], [x, y + size]]
    return scene(corners, 4.0, [[0, 1, 2]], resolution)


# Several faces


def shared_edge() -> Scene:
    """Two faces of a quadrilateral, no pixel centre on the diagonal."""
    points = [[-0.75, -0.62], [0.69, -0.71], [0.81, 0.67], [-0.66, 0.78]]
    return scene(points, [3.0, 4.0, 5.0, 3.5], [[0, 1, 2], [0, 2, 3]], (11, 9))


def three_faces() -> Scene:
    """Three overlapping faces that share vertices, small enough for finite differences, without kinks."""
    points = [[-0.93, -0.62], [0.89, -0.75], [0.71, 0.64], [-0.66, 0.78], [0.13, 0.95], [-0.31, -0.11]]
    return scene(points, [5.0, 4.0, 6.0, 3.0, 2.5, 5.5], [[0, 1, 2], [5, 2, 3], [4, 1, 3]], (5, 6))


def equal_depths() -> Scene:
    """Three overlapping faces, all of them at the same view depth, one of them twice."""
    points = [[-0.7, -0.6], [0.8, -0.4], [0.0, 0.8], [-0.8, 0.5], [0.7, 0.6], [0.1, -0.8]]
    return scene(points, 4.0, [[0, 1, 2], [3, 5, 4], [0, 1, 2]])


def strong_perspective() -> Scene:
    """A quadrilateral from depth 1.2 to 9, so that screen-linear attributes are far from the true ones."""
    points = [[-0.95, -0.85], [0.88, -0.93], [0.42, 0.71], [-0.37, 0.64]]
    return scene(points, [1.2, 1.5, 9.0, 7.0], [[0, 1, 2], [0, 2, 3]], (13, 17))


def soup(faces: int = 40, resolution: tuple[int, int] = (37, 53), size: float = 0.5, seed: int = 0) -> Scene:
    """Random faces of either winding, some of them partly off screen."""
    generator = torch.Generator().manual_seed(seed)
    half = torch.tensor([resolution[1], resolution[0]], dtype=torch.float64) / min(resolution)
    centres = (2 * torch.rand(faces, 1, 2, generator=generator, dtype=torch.float64) - 1) * half
    offsets = size * torch.randn(faces, 3, 2, generator=generator, dtype=torch.float64)
    depths = 2 + 6 * torch.rand(faces, 3, generator=generator, dtype=torch.float64)
    return scene(centres + offsets, depths.reshape(-1), torch.arange(3 * faces), resolution)


def icosahedron() -> tuple[Tensor, Tensor]:
    """Vertices [12, 3] on the unit sphere, faces [20, 3] counter-clockwise from outside."""
    a, b = 1.0, (1 + 5**0.5) / 2
    vertices = torch.tensor(
        [
            [-a, b, 0],
            [a, b, 0],
            [-a, -b, 0],
            [a, -b, 0],
            [0, -a, b],
            [0, a, b],
            [0, -a, -b],
            [0, a, -b],
            [b, 0, -a],
            [b, 0, a],
            [-b, 0, -a],
            [-b, 0, a],
        ],
        dtype=torch.float64,
    )
    edge = (vertices[:, None] - vertices).norm(dim=-1).sub(2).abs() < 1e-9
    faces = [(i, j, k) for i in range(12) for j in range(i) for k in range(j) if edge[i, j] & edge[j, k] & edge[i, k]]
    triangles = torch.tensor(faces)
    corners = vertices[triangles]
    outward = torch.linalg.det(corners) > 0
    triangles[~outward] = triangles[~outward].flip(1)
    return vertices / vertices[0].norm(), triangles


def subdivided(vertices: Tensor, triangles: Tensor) -> tuple[Tensor, Tensor]:
    """Each face into four, the new vertices pushed out to the sphere."""
    sides = torch.stack([triangles, triangles.roll(-1, dims=1)], dim=2).reshape(-1, 2).sort(dim=1).values
    unique, middle = sides.unique(dim=0, return_inverse=True)
    added = vertices[unique].mean(dim=1)
    middle = middle.reshape(-1, 3) + len(vertices)
    a, b, c = triangles.unbind(1)
    ab, bc, ca = middle.unbind(1)
    parts = [torch.stack(part, dim=1) for part in ((a, ab, ca), (ab, b, bc), (ca, bc, c), (ab, bc, ca))]
    return torch.cat([vertices, added / added.norm(dim=1, keepdim=True)]), torch.cat(parts)


def sphere(subdivisions: int = 1, resolution: tuple[int, int] = (37, 53)) -> Scene:
    """An icosphere of radius 1, tilted, its centre at view depth 3; focal length 2."""
    vertices, triangles = icosahedron()
    for _ in range(subdivisions):
        vertices, triangles = subdivided(vertices, triangles)
    tilt = torch.tensor([[0.36, 0.48, -0.8], [-0.8, 0.6, 0.0], [0.48, 0.64, 0.6]], dtype=torch.float64)
    turned = vertices @ tilt.T
    depth = 3 - turned[:, 2]  # the camera looks along -z
    points = 2 * turned[:, :2] / depth[:, None]
    return scene(points, depth, triangles, resolution)._replace(attributes=(vertices + 1) / 2)


def twenty_thousand_faces(resolution: tuple[int, int] = (64, 48)) -> Scene:
    return soup(20_000, resolution, size=0.03, seed=7)


BRANCHES = [
    pixel_nearest_to_a_vertex,
    pixel_nearest_to_an_edge,
    pixel_inside,
    pixel_on_a_vertex,
    pixel_on_an_edge,
    clockwise,
    sliver,
    zero_area,
    off_screen,
    behind_the_eye,
    covers_everything,
    one_pixel,
    no_faces,
    outside_the_range,
    shared_edge,
    three_faces,
    equal_depths,
    strong_perspective,
    soup,
    sphere,
]


# Around the eye, which the hard path alone draws


def soup_of_both_signs(faces: int = 30, resolution: tuple[int, int] = (37, 53), seed: int = 0) -> Scene:
    """Faces whose vertices lie before and behind the eye, through which many of them pass; none nearly edge-on."""
    numbers = torch.Generator().manual_seed(seed)
    corners = torch.randn(40 * faces, 3, 4, generator=numbers, dtype=torch.float64)
    corners[..., 3] += 0.4
    corners[..., 2] *= 0.5
    volume = torch.linalg.det(torch.nn.functional.normalize(corners[..., [0, 1, 3]], dim=-1)).abs()
    signs = (corners[..., 3] > 0).sum(1)
    # As many with one and two vertices before the eye as with three.
    chosen = torch.cat([corners[(volume > 0.3) & (signs == k)][: faces // 3] for k in (1, 2, 3)])
    assert len(chosen) == faces // 3 * 3
    positions = chosen.reshape(-1, 4)
    return Scene(positions, torch.arange(len(positions)).reshape(-1, 3), colours(len(positions)), resolution)


def across_the_near_plane() -> Scene:
    """A floor that begins behind the eye, and ends beyond the far plane."""
    # View space, the camera looking along -z, near plane at 0.5 and far plane at 6.
    x, z = torch.tensor([[-3.0, -3.0, 3.0, 3.0], [4.0, -9.0, -9.0, 4.0]], dtype=torch.float64)
    positions = torch.stack([1.2 * x, torch.full_like(x, -0.3), (-6.5 * z - 6) / 5.5, -z], dim=1)
    return Scene(positions, torch.tensor([[0, 1, 2], [0, 2, 3]]), colours(4), (37, 53))
