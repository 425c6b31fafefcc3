"""Normals, lights and reflection models: small pure functions on tensors of any leading shape.

They work per vertex (shade, then rasterize the colours) or per pixel (interpolate normals and positions, then
shade). A picture is a sum of terms::

    normals = shading.vertex_normals(vertices, triangles)
    light = shading.directional_light((0.0, 1.0, 1.0))
    color = shading.ambient(albedo, 0.2) + shading.lambert(normals, light, albedo)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from slangrast import surface
from slangrast.topology import check_triangles, check_vertices, describe, index_range

Color = float | Sequence[float] | Tensor


class Light(NamedTuple):
    """What a surface point sees of a light.

    direction: [..., 3] float, unit vectors from the surface towards the light.
    radiance: [..., C] float, the light that arrives, in the units of colour.
    """

    direction: Tensor
    radiance: Tensor


def normalize(vectors: Tensor, floor: float | Tensor = 1e-12) -> Tensor:
    """Scale vectors to length 1, safely: v / |v|, and 0 where |v| is not above `floor`.

    Args:
        vectors: [..., D] float, any unit. Differentiable.
        floor: number or [..., 1] float, in the unit of `vectors`, at least 0. The direction of a shorter
            vector is noise.

    Returns:
        [..., D] float. The gradient is at most 1 / floor times the incoming one; it is exactly 0 where the
        result is 0, and so is the result of a vector that holds inf or NaN.

    Raises:
        TypeError: `vectors` is not a floating-point tensor.
    """
    if not isinstance(vectors, Tensor) or not vectors.dtype.is_floating_point:
        raise TypeError(f"normalize: vectors must be a [..., D] float tensor, got {describe(vectors)}")
    # Divide by the largest component first: the square of a very short or long vector would leave float32's
    # range. The result does not depend on this factor, so that no gradient has to flow through it.
    largest = vectors.detach().abs().amax(dim=-1, keepdim=True)
    sound = (largest > 0) & torch.isfinite(largest)
    scaled = vectors / torch.where(sound, largest, 1.0)
    # Ones stand in for unusable vectors, since the derivative of the square root below is infinite at 0.
    scaled = torch.where(sound, scaled, 1.0)
    length = torch.linalg.vector_norm(scaled, dim=-1, keepdim=True)
    long_enough = sound & (length.detach() * largest > floor)
    return torch.where(long_enough, scaled / length, 0.0)


def _face_normals(function: str, vertices: Tensor, triangles: Tensor) -> surface.FaceNormals:
    check_vertices(function, vertices)
    check_triangles(function, triangles)
    device = triangles.device
    if device != vertices.device:
        raise ValueError(f"{function}: triangles must be on the device of vertices, {vertices.device}, got {device}")
    # Only on the CPU: elsewhere reading the range would make every step wait for the device.
    smallest, largest = index_range(triangles) if device.type == "cpu" else (0, -1)
    if smallest < 0 or largest >= vertices.shape[-2]:
        count = vertices.shape[-2]
        raise ValueError(f"{function}: triangles must lie in [0, {count}), got {smallest} to {largest}")
    return surface.face_normals(surface.at_unit_size(surface.components(vertices)), triangles.long())


def _like(vertices: Tensor, normals: Tensor) -> Tensor:
    """[3, N, K] as [K, 3] or [N, K, 3], whichever `vertices` is like."""
    return normals.permute(1, 2, 0).reshape(*vertices.shape[:-2], -1, 3)


def face_normals(vertices: Tensor, triangles: Tensor) -> Tensor:
    """Unit normal of each face, on the side from which its vertices run counter-clockwise.

    Args:
        vertices: [V, 3] or [N, V, 3] float, world units. Differentiable.
        triangles: [F, 3] int32 or int64.

    Returns:
        [F, 3] or [N, F, 3] float. A face without area, or with a corner at inf or NaN, has normal 0 and sends
        back no gradient.

    Raises:
        TypeError, ValueError: a wrong dtype, shape or device, or an index out of range (checked on the CPU).
    """
    normals, _ = surface.unit(*_face_normals("face_normals", vertices, triangles))
    return _like(vertices, normals)


def vertex_normals(vertices: Tensor, triangles: Tensor) -> Tensor:
    """Unit normal of each vertex: the mean of the normals of its faces, weighted by their areas.

    Args:
        vertices: [V, 3] or [N, V, 3] float, world units. Differentiable.
        triangles: [F, 3] int32 or int64.

    Returns:
        [V, 3] or [N, V, 3] float. A vertex of no face, or whose faces have no area or cancel out, has normal
        0 and sends back no gradient.

    Raises:
        TypeError, ValueError: a wrong dtype, shape or device, or an index out of range (checked on the CPU).
    """
    cross, noise = _face_normals("vertex_normals", vertices, triangles)
    # The length of a cross product is twice the area, so that a plain sum weighs by area.
    sums = torch.cat((*cross, noise))
    total = sums.new_zeros(len(sums), vertices.shape[-2])
    for corner in triangles.long().unbind(1):
        total = total.index_add(1, corner, sums)
    x, y, z, noise = total.chunk(4)
    normals, _ = surface.unit((x, y, z), noise)
    return _like(vertices, normals)


def _color(color: Color, like: Tensor) -> Tensor:
    return color if isinstance(color, Tensor) else torch.as_tensor(color, dtype=like.dtype, device=like.device)


def _vector(function: str, argument: str, value: Tensor) -> Tensor:
    if not isinstance(value, Tensor) or value.ndim == 0 or value.shape[-1] != 3:
        raise ValueError(f"{function}: {argument} must be [..., 3] float, got {describe(value)}")
    return value


def directional_light(
    direction: Sequence[float] | Tensor,
    color: Color = 1.0,
    *,
    device: torch.device | str | None = None,
    dtype: torch.dtype = torch.float32,
) -> Light:
    """A light so far away, like the sun, that it comes from one direction everywhere.

    Args:
        direction: three numbers or [..., 3] float, from the surface towards the light, any length.
            Differentiable.
        color: number, C numbers or [..., C] float, its radiance. Differentiable.
        device: of a direction given as numbers.
        dtype: of a direction given as numbers.

    Returns:
        The `Light`, its direction at unit length (0 for a zero vector: no light).

    Raises:
        ValueError: `direction` does not end in 3 components.
    """
    if not isinstance(direction, Tensor):
        direction = torch.tensor(direction, dtype=dtype, device=device)
    towards = normalize(_vector("directional_light", "direction", direction))
    return Light(towards, _color(color, towards))


def point_light(
    points: Tensor,
    position: Sequence[float] | Tensor,
    color: Color = 1.0,
    reference_distance: float | None = None,
) -> Light:
    """A light at a point in space.

    Args:
        points: [..., 3] float, the surface points it shines on, world units. Differentiable.
        position: three numbers or [..., 3] float, where the light is, world units. Differentiable.
        color: number, C numbers or [..., C] float, its radiance. Differentiable.
        reference_distance: world units, above 0. The light has `color` at this distance and falls off with
            the inverse square of the distance beyond it; nearer it stays at `color`, so that it is bounded.
            None: no falloff.

    Returns:
        The `Light` at each point; at a point where the light itself is, the direction and its gradient are 0.

    Raises:
        ValueError: `points` or `position` does not end in 3 components, or `reference_distance` is not above
            0.
    """
    points = _vector("point_light", "points", points)
    if not isinstance(position, Tensor):
        position = torch.tensor(position, dtype=points.dtype, device=points.device)
    offset = _vector("point_light", "position", position) - points
    radiance = _color(color, points)
    if reference_distance is not None:
        if not reference_distance > 0:
            raise ValueError(f"point_light: reference_distance must be above 0, got {reference_distance}")
        square = offset.square().sum(-1, keepdim=True) / reference_distance**2
        radiance = radiance / square.clamp(min=1.0)
    return Light(normalize(offset), radiance)


def ambient(albedo: Tensor, color: Color = 1.0) -> Tensor:
    """Light from everywhere at once: albedo * color.

    Args:
        albedo: [..., C] float, the share of light that the surface sends back, per channel. Differentiable.
        color: number, C numbers or [..., C] float, the ambient radiance. Differentiable.

    Returns:
        [..., C] float.
    """
    return albedo * _color(color, albedo)


def _cosine(function: str, normals: Tensor, light: Light) -> Tensor:
    normals, direction = _vector(function, "normals", normals), _vector(function, "light", light.direction)
    if normals.device != direction.device:
        raise ValueError(
            f"{function}: light must be on the device of normals, {normals.device}, got {direction.device}"
        )
    return (normals * direction).sum(-1, keepdim=True)


def lambert(normals: Tensor, light: Light, albedo: Color = 1.0, *, two_sided: bool = False) -> Tensor:
    """Matt reflection (Lambert 1760): albedo * radiance * max(0, n . l).

    Args:
        normals: [..., 3] float, unit vectors. Differentiable.
        light: from `directional_light` or `point_light`. Differentiable.
        albedo: number, C numbers or [..., C] float, per channel. Differentiable.
        two_sided: take |n . l| instead, so that the back of a face is lit like its front.

    Returns:
        [..., C] float. Where the light is behind the surface the value and the gradient are 0.

    Raises:
        ValueError: `normals` does not end in 3 components, or `light` is on another device.
    """
    cosine = _cosine("lambert", normals, light)
    return _color(albedo, normals) * light.radiance * (cosine.abs() if two_sided else torch.relu(cosine))


def phong(
    normals: Tensor, light: Light, to_eye: Tensor, specular: Color = 1.0, shininess: float | Tensor = 32.0
) -> Tensor:
    """Glossy highlight (Phong 1975): specular * radiance * max(0, r . e)^shininess, r = 2 (n . l) n - l,
    where n . l > 0.

    Args:
        normals: [..., 3] float, unit vectors. Differentiable.
        light: from `directional_light` or `point_light`. Differentiable.
        to_eye: [..., 3] float, from the surface towards the eye, any length. Differentiable.
        specular: number, C numbers or [..., C] float, strength per channel. Differentiable.
        shininess: number or [..., 1] float, at least 1: higher is smaller and sharper. Differentiable.

    Returns:
        [..., C] float, the highlight alone: add it to `lambert` and `ambient`. The value and the gradient are
        0 where the light is behind the surface.

    Raises:
        ValueError: a last dimension is not 3, `light` is on another device, or a `shininess` below 1 (its
            gradient would be infinite at r . e = 0).
    """
    if not isinstance(shininess, Tensor) and not shininess >= 1:
        raise ValueError(f"phong: shininess must be at least 1, got {shininess}")
    cosine = _cosine("phong", normals, light)
    mirrored = 2 * cosine * normals - light.direction
    along = (mirrored * normalize(_vector("phong", "to_eye", to_eye))).sum(-1, keepdim=True)
    highlight = torch.relu(along) ** shininess * (cosine > 0)
    return _color(specular, normals) * light.radiance * highlight
