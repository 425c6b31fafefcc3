"""Matrices between world, view and clip space, and their application to points.

camera.py states the conventions and documents the arguments of the matrices.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from slangrast.shading import normalize
from slangrast.topology import check_vertices, describe

Value = float | Sequence[Any] | Tensor


def _to_tensor(function: str, name: str, value: Any) -> tuple[Tensor, bool]:
    """The value as a float32 or float64 tensor, and whether it was (made of) tensors."""
    if isinstance(value, Tensor):
        return (value if value.dtype in (torch.float32, torch.float64) else value.to(torch.float32)), True
    if isinstance(value, list | tuple) and any(isinstance(item, Tensor) for item in value):
        # Reading the numbers out of tensors inside a list would cut their gradient.
        return torch.stack([_to_tensor(function, name, item)[0] for item in value]), True
    try:
        return torch.from_numpy(np.array(value, dtype=np.float64)), False
    except (TypeError, ValueError):
        raise TypeError(f"{function}: {name} must hold numbers, got {value!r}") from None


def together(function: str, **values: Any) -> list[Tensor]:
    """The values as float tensors of one dtype on one device."""
    converted = {name: _to_tensor(function, name, value) for name, value in values.items()}
    devices = {name: tensor.device for name, (tensor, given) in converted.items() if given}
    if len(set(devices.values())) > 1:
        raise ValueError(f"{function}: {', '.join(devices)} must be on one device, got {[*map(str, devices.values())]}")
    double = any(given and tensor.dtype == torch.float64 for tensor, given in converted.values())
    dtype = torch.float64 if double else torch.float32
    return [tensor.to(device=next(iter(devices.values()), None), dtype=dtype) for tensor, _ in converted.values()]


def check_last_dimensions(function: str, name: str, tensor: Tensor, shape: str, dimensions: tuple[int, ...]) -> None:
    """Raise unless the last dimensions fit and at most one dimension, the batch, comes before them."""
    leading = tensor.ndim - len(dimensions)
    if leading not in (0, 1) or tuple(tensor.shape[leading:]) != dimensions:
        raise ValueError(f"{function}: {name} must be {shape}, got {describe(tensor)}")


def holds(condition: Tensor) -> bool:
    """Whether a condition on values holds everywhere; taken for granted away from the CPU."""
    # Looking at values on a GPU would make every optimisation step wait for it.
    return condition.device.type != "cpu" or bool(condition.all())


def broadcast(function: str, *tensors: Tensor) -> tuple[Tensor, ...]:
    """The tensors, each with a batch dimension in front, at one batch size."""
    sizes = {len(tensor) for tensor in tensors} - {1}
    if len(sizes) > 1:
        raise ValueError(f"{function}: batch sizes must be equal or 1, got {[len(tensor) for tensor in tensors]}")
    count = sizes.pop() if sizes else 1
    return tuple(tensor.expand(count, *tensor.shape[1:]) for tensor in tensors)


def _matrix(rows: list[list[Tensor]]) -> Tensor:
    """[N, 4, 4] from its elements, each [N]."""
    return torch.stack([torch.stack(row, dim=-1) for row in rows], dim=-2)


def transform(vertices: Tensor, matrix: Tensor) -> Tensor:
    """Apply 4 x 4 matrices to points: matrix @ (x, y, z, 1).

    Args:
        vertices: [V, 3] or [N, V, 3] float, points; a batch of 1 serves every matrix. Differentiable.
        matrix: [4, 4] or [N, 4, 4] float of the dtype of `vertices`, for column vectors; one serves every
            batch. Differentiable.

    Returns:
        [N, V, 4] float, homogeneous points.

    Raises:
        TypeError, ValueError: wrong shapes, dtypes that differ, batch sizes that do not fit, or two devices.
    """
    check_vertices("transform", vertices)
    if not isinstance(matrix, Tensor) or matrix.dtype != vertices.dtype:
        raise TypeError(f"transform: matrix must be {vertices.dtype} like vertices, got {describe(matrix)}")
    check_last_dimensions("transform", "matrix", matrix, "[4, 4] or [N, 4, 4]", (4, 4))
    if matrix.device != vertices.device:
        raise ValueError(f"transform: matrix must be on the device of vertices, {vertices.device}, got {matrix.device}")
    points, matrices = broadcast("transform", vertices.reshape(-1, *vertices.shape[-2:]), matrix.reshape(-1, 4, 4))
    return points @ matrices[:, :, :3].mT + matrices[:, None, :, 3]


def look_at_matrix(
    eye: Value, target: Value = (0.0, 0.0, 0.0), up: Value = (0.0, 1.0, 0.0), handedness: str = "right"
) -> Tensor:
    """View matrix of a camera at `eye` that looks at `target`; the arguments are those of
    `Camera.look_at`."""
    points = dict(zip(("eye", "target", "up"), together("look_at", eye=eye, target=target, up=up), strict=True))
    for name, value in points.items():
        check_last_dimensions("look_at", name, value, "[3] or [N, 3]", (3,))
    eye, target, up = broadcast("look_at", *(value.reshape(-1, 3) for value in points.values()))
    if not holds((eye != target).any(-1)):
        raise ValueError("look_at: eye must differ from target, got the same point")
    backward = normalize(eye - target)
    up = normalize(up)
    # With `up` along the view axis no direction is upwards in the image: take the world axis most across it
    # instead.
    spare = torch.nn.functional.one_hot(backward.detach().abs().argmin(-1), 3).to(up.dtype)
    across = torch.linalg.cross(up, backward)
    lost = across.detach().norm(dim=-1, keepdim=True) < 100 * torch.finfo(up.dtype).eps
    right = normalize(torch.where(lost, torch.linalg.cross(spare, backward), across))
    return _view_matrix("look_at", eye, right, torch.linalg.cross(backward, right), backward, handedness)


def _view_matrix(function: str, eye: Tensor, right: Tensor, up: Tensor, backward: Tensor, handedness: str) -> Tensor:
    if handedness not in ("right", "left"):
        raise ValueError(f'{function}: handedness must be "right" or "left", got {handedness!r}')
    rotation = torch.stack((right if handedness == "right" else -right, up, backward), dim=1)
    top = torch.cat((rotation, -(rotation @ eye[:, :, None])), dim=2)
    return _with_bottom_row(top)


def _with_bottom_row(top: Tensor) -> Tensor:
    """[N, 4, 4] from its first three rows, [N, 3, 4]."""
    return torch.cat((top, top.new_tensor([0.0, 0.0, 0.0, 1.0]).expand(len(top), 1, 4)), dim=1)


def orbit_matrix(
    distance: Value,
    elevation_degrees: Value,
    azimuth_degrees: Value,
    target: Value = (0.0, 0.0, 0.0),
    handedness: str = "right",
) -> Tensor:
    """View matrix of a camera on a sphere around `target`; the arguments are those of `Camera.orbit`."""
    *angles, target = together(
        "orbit", distance=distance, elevation=elevation_degrees, azimuth=azimuth_degrees, target=target
    )
    check_last_dimensions("orbit", "target", target, "[3] or [N, 3]", (3,))
    for name, value in zip(("distance", "elevation_degrees", "azimuth_degrees"), angles, strict=True):
        check_last_dimensions("orbit", name, value, "a number or [N]", ())
    if not holds(angles[0] > 0):
        raise ValueError(f"orbit: distance must be above 0, got {angles[0].min().item()}")
    *angles, target = broadcast("orbit", *(value.reshape(-1) for value in angles), target.reshape(-1, 3))
    distance, elevation, azimuth = angles[0], torch.deg2rad(angles[1]), torch.deg2rad(angles[2])
    sin_e, cos_e, sin_a, cos_a = elevation.sin(), elevation.cos(), azimuth.sin(), azimuth.cos()
    # look_at's axes for this eye with the length cos(elevation) cancelled, so that nothing is lost at the
    # poles.
    backward = torch.stack((cos_e * sin_a, sin_e, -cos_e * cos_a), dim=-1)
    right = torch.stack((-cos_a, torch.zeros_like(cos_a), -sin_a), dim=-1)
    up = torch.stack((-sin_e * sin_a, cos_e, sin_e * cos_a), dim=-1)
    return _view_matrix("orbit", target + distance[:, None] * backward, right, up, backward, handedness)


def _check_range(function: str, near: Tensor, far: Tensor, *, positive: bool) -> None:
    if not holds(near < far) or (positive and not holds(near > 0)):
        wanted = "0 < near < far" if positive else "near < far"
        raise ValueError(f"{function}: near and far must satisfy {wanted}, got {near.tolist()} and {far.tolist()}")


def perspective_matrix(fov_degrees: Value = 30.0, aspect: Value = 1.0, near: Value = 1.0, far: Value = 100.0) -> Tensor:
    """Projection matrix of a pinhole camera; the arguments are those of `Camera.perspective`."""
    values = together("perspective", fov_degrees=fov_degrees, aspect=aspect, near=near, far=far)
    for name, value in zip(("fov_degrees", "aspect", "near", "far"), values, strict=True):
        check_last_dimensions("perspective", name, value, "a number or [N]", ())
    fov, aspect, near, far = broadcast("perspective", *(value.reshape(-1) for value in values))
    _check_range("perspective", near, far, positive=True)
    if not holds((fov > 0) & (fov < 180)):
        raise ValueError(f"perspective: fov_degrees must lie between 0 and 180, got {fov.tolist()}")
    if not holds(aspect > 0):
        raise ValueError(f"perspective: aspect must be above 0, got {aspect.tolist()}")
    scale, zero = 1 / torch.tan(torch.deg2rad(fov) / 2), torch.zeros_like(fov)
    z_scale, z_offset = (near + far) / (near - far), 2 * near * far / (near - far)
    return _matrix([[scale / aspect, zero, zero, zero], [zero, scale, zero, zero],
                    [zero, zero, z_scale, z_offset], [zero, zero, zero - 1, zero]])  # fmt: skip


def orthographic_matrix(height: Value = 2.0, aspect: Value = 1.0, near: Value = 1.0, far: Value = 100.0) -> Tensor:
    """Projection matrix of a camera with parallel rays; the arguments are those of `Camera.orthographic`."""
    values = together("orthographic", height=height, aspect=aspect, near=near, far=far)
    for name, value in zip(("height", "aspect", "near", "far"), values, strict=True):
        check_last_dimensions("orthographic", name, value, "a number or [N]", ())
    height, aspect, near, far = broadcast("orthographic", *(value.reshape(-1) for value in values))
    _check_range("orthographic", near, far, positive=False)
    if not holds((height > 0) & (aspect > 0)):
        raise ValueError("orthographic: height and aspect must be above 0, got a value that is not")
    zero, one = torch.zeros_like(height), torch.ones_like(height)
    z_scale, z_offset = 2 / (near - far), (near + far) / (near - far)
    return _matrix([[2 / (height * aspect), zero, zero, zero], [zero, 2 / height, zero, zero],
                    [zero, zero, z_scale, z_offset], [zero, zero, zero, one]])  # fmt: skip


def opencv_matrices(
    K: Value, R: Value, t: Value, resolution: tuple[int, int], near: Value, far: Value, pixel_center: float
) -> tuple[Tensor, Tensor]:
    """View and projection matrix of a calibrated camera; the arguments are those of `Camera.from_opencv`."""
    K, R, t, near, far = together("from_opencv", K=K, R=R, t=t, near=near, far=far)
    for name, value, shape, dimensions in (
        ("K", K, "[3, 3] or [N, 3, 3]", (3, 3)),
        ("R", R, "[3, 3] or [N, 3, 3]", (3, 3)),
        ("t", t, "[3] or [N, 3]", (3,)),
        ("near", near, "a number or [N]", ()),
        ("far", far, "a number or [N]", ()),
    ):
        check_last_dimensions("from_opencv", name, value, shape, dimensions)
    if len(resolution) != 2 or not min(resolution) > 0:
        raise ValueError(f"from_opencv: resolution must be (height, width) above 0, got {resolution}")
    if not holds(K[..., 2, :] == K.new_tensor([0.0, 0.0, 1.0])):
        raise ValueError(f"from_opencv: K must have the last row (0, 0, 1), got {K[..., 2, :].tolist()}")
    _check_range("from_opencv", near, far, positive=True)
    K, R, t = K.reshape(-1, 3, 3), R.reshape(-1, 3, 3), t.reshape(-1, 3, 1)
    K, R, t, near, far = broadcast("from_opencv", K, R, t, near.reshape(-1), far.reshape(-1))
    # OpenCV's camera has y down and looks along +z: turn it by 180 degrees about x.
    flip = K.new_tensor([1.0, -1.0, -1.0])
    view = _with_bottom_row(torch.cat((R, t), dim=2) * flip[:, None])
    x_row, y_row, w_row = torch.nn.functional.pad(
        _pixels_to_ndc(K, resolution, pixel_center) @ K * flip, (0, 1)
    ).unbind(1)
    zero, z_scale, z_offset = (
        torch.zeros_like(near),
        (near + far) / (near - far),
        2 * near * far / (near - far),
    )
    z_row = torch.stack((zero, zero, z_scale, z_offset), dim=-1)
    return view, torch.stack((x_row, y_row, z_row, w_row), dim=1)


def _pixels_to_ndc(like: Tensor, resolution: tuple[int, int], pixel_center: float) -> Tensor:
    """[3, 3]: from pixels, y down, to [-1, 1], y up. Our pixel centres lie at +0.5, theirs at
    `pixel_center`."""
    height, width = resolution
    shift = 0.5 - pixel_center
    rows = [[2 / width, 0, 2 * shift / width - 1], [0, -2 / height, 1 - 2 * shift / height], [0, 0, 1]]
    return like.new_tensor(rows)
