"""Texture lookup in plain torch: the twin of `texture.slang`, which weighs **all** texels of all levels.

A linear filter is a hat function around each texel centre, a mip level is an average by overlaps, and blending between
levels is one more hat: no index is ever computed. Cube maps get a border of one texel from the faces next to them.
"""

from __future__ import annotations

import torch
from torch import Tensor

# Table 8.19 of the OpenGL 4.6 specification: for each face sc, tc and ma, as (component, sign).
FACES = [
    ((2, -1), (1, -1), (0, 1)),
    ((2, 1), (1, -1), (0, -1)),
    ((0, 1), (2, 1), (1, 1)),
    ((0, 1), (2, -1), (1, -1)),
    ((0, 1), (1, -1), (2, 1)),
    ((0, -1), (1, -1), (2, -1)),
]


def hat(distance: Tensor) -> Tensor:
    return (1 - distance.abs()).clamp(min=0)


# Mip levels


def halving(size: int) -> Tensor:
    """[max(1, size // 2), size] The share of each coarse texel that each fine one covers."""
    coarse = max(1, size // 2)
    ends = torch.arange(coarse + 1, dtype=torch.float64) * size / coarse
    texels = torch.arange(size, dtype=torch.float64)
    first, last = torch.maximum(ends[:-1, None], texels), torch.minimum(ends[1:, None], texels + 1)
    return (last - first).clamp(min=0) * coarse / size


def mip_levels(image: Tensor) -> list[Tensor]:
    """Of an image [..., H, W, C], down to one texel."""
    levels = [image]
    while max(levels[-1].shape[-3:-1]) > 1:
        fine = levels[-1]
        down, across = halving(fine.shape[-3]).to(fine), halving(fine.shape[-2]).to(fine)
        levels.append(torch.einsum("ij,kl,...jlc->...ikc", down, across, fine))
    return levels


# One level


def axis_weights(coordinate: Tensor, size: int, wrap: str, nearest: bool) -> Tensor:
    """[..., size] How much each texel along an axis counts at coordinates in [0, 1]."""
    texels = torch.arange(size, dtype=coordinate.dtype)
    if wrap == "repeat":
        position = (coordinate.remainder(1) * size - 0.5)[..., None]
        copies = [position - texels + shift * size for shift in (-1, 0, 1)]
        if nearest:
            return sum((copy.abs() <= 0.5).to(coordinate) for copy in copies)
        return sum(hat(copy) for copy in copies)
    position = (coordinate * size - 0.5)[..., None]
    if wrap == "clamp":
        position = position.clamp(0, size - 1)
    distance = position - texels
    return (distance.abs() <= 0.5).to(coordinate) if nearest else hat(distance)


def sample_image(image: Tensor, point: Tensor, wrap: str, nearest: bool) -> Tensor:
    """[N, H, W, C] from [N, h, w, C] at points [N, H, W, 2], right and down from the upper left corner."""
    across = axis_weights(point[..., 0], image.shape[2], wrap, nearest)
    down = axis_weights(point[..., 1], image.shape[1], wrap, nearest)
    return torch.einsum("nhwy,nhwx,nyxc->nhwc", down, across, image)


# Cubes


def face_of(direction: Tensor) -> Tensor:
    """[...] of [..., 3]"""
    axis = direction.abs().argmax(dim=-1)
    return 2 * axis + (direction.gather(-1, axis[..., None])[..., 0] < 0)


def components(direction: Tensor, face: Tensor) -> Tensor:
    """[..., 3] sc, tc and ma of directions on given faces."""
    each = [torch.stack([direction[..., k] * sign for k, sign in row], dim=-1) for row in FACES]
    chosen = torch.nn.functional.one_hot(face, 6).to(direction)
    return torch.einsum("f...k,...f->...k", torch.stack(each), chosen)


def point_on_face(direction: Tensor, face: Tensor) -> Tensor:
    """[..., 2] in [0, 1], right and down."""
    sc, tc, ma = components(direction, face).unbind(dim=-1)
    return torch.stack([sc / ma, tc / ma], dim=-1) / 2 + 0.5


def direction_to(face: int, right: Tensor, down: Tensor) -> Tensor:
    """[..., 3] to the plane of a face, where its own square is from -1 to 1."""
    direction = torch.zeros(*right.shape, 3, dtype=right.dtype)
    for value, (component, sign) in zip((right, down, 1.0), FACES[face], strict=True):
        direction[..., component] = sign * value
    return direction


def step_on_face(direction: Tensor, step: Tensor, face: Tensor) -> Tensor:
    """[..., 2] The change of `point_on_face`, by the quotient rule."""
    place, change = components(direction, face), components(step, face)
    return (change[..., :2] * place[..., 2:] - place[..., :2] * change[..., 2:]) / (2 * place[..., 2:] ** 2)


def with_borders(cube: Tensor) -> Tensor:
    """[N, 6, S + 2, S + 2, C] Faces and the texels around them; at a corner the mean of the three that meet there."""
    size = cube.shape[2]
    places = torch.arange(-1, size + 1, dtype=torch.float64)
    padded = []
    for index in range(6):
        down, right = torch.meshgrid(places, places, indexing="ij")
        grid = direction_to(index, (2 * right + 1) / size - 1, (2 * down + 1) / size - 1)
        face = face_of(grid)
        face[1:-1, 1:-1] = index
        texel = (point_on_face(grid, face) * size).long().clamp(0, size - 1)
        full = cube[:, face, texel[..., 1], texel[..., 0]]
        for y, beside_y in ((0, 1), (-1, -2)):
            for x, beside_x in ((0, 1), (-1, -2)):
                three = full[:, beside_y, beside_x] + full[:, y, beside_x] + full[:, beside_y, x]
                full[:, y, x] = three / 3
        padded.append(full)
    return torch.stack(padded, dim=1)


def sample_cube(cube: Tensor, point: Tensor, face: Tensor, nearest: bool) -> Tensor:
    size = cube.shape[2]
    if nearest:
        weights = [axis_weights(point[..., k], size, "clamp", True) for k in (0, 1)]
    else:
        cube = with_borders(cube)
        texels = torch.arange(-1, size + 1, dtype=point.dtype)
        weights = [hat((point[..., k] * size - 0.5)[..., None] - texels) for k in (0, 1)]
    faces = torch.nn.functional.one_hot(face, 6).to(point)
    return torch.einsum("nhwf,nhwy,nhwx,nfyxc->nhwc", faces, weights[1], weights[0], cube)


# All of it


def texture(
    image: Tensor,
    uv: Tensor,
    uv_derivatives: Tensor | None = None,
    filter: str = "linear",
    wrap: str = "repeat",
    mip_bias: Tensor | float | None = None,
) -> Tensor:
    """[N, H, W, C] Colours of an image [N, h, w, C] or a cube map [N, 6, s, s, C], as `slangrast.texture` has them."""
    images = max(len(image), len(uv))
    image, uv = image.expand(images, *image.shape[1:]), uv.expand(images, *uv.shape[1:])
    face = face_of(uv.detach()) if wrap == "cube" else torch.zeros(uv.shape[:3], dtype=torch.int64)

    def sample(level: Tensor, nearest: bool = False) -> Tensor:
        if wrap == "cube":
            return sample_cube(level, point_on_face(uv, face), face, nearest)
        return sample_image(level, torch.stack([uv[..., 0], 1 - uv[..., 1]], dim=-1), wrap, nearest)

    if filter in ("nearest", "linear"):
        return sample(image, nearest=filter == "nearest")
    levels = mip_levels(image)
    detail = torch.zeros(uv.shape[:3], dtype=uv.dtype) if mip_bias is None else mip_bias
    if uv_derivatives is not None:
        size = torch.tensor([image.shape[-2], image.shape[-3]], dtype=uv.dtype)
        steps = uv_derivatives.expand(images, *uv_derivatives.shape[1:]).unflatten(3, (-1, 2))
        moves = [step_on_face(uv, steps[..., k], face) if wrap == "cube" else steps[..., k] for k in (0, 1)]
        lengths = [(move * size).norm(dim=-1) for move in moves]
        detail = detail + torch.maximum(*lengths).log2()
    detail = torch.as_tensor(detail).expand(uv.shape[:3]).clamp(0, len(levels) - 1)
    if filter == "linear_mipmap_nearest":
        detail = (detail + 0.5).floor()
    return sum(hat(detail - index)[..., None] * sample(level) for index, level in enumerate(levels))
