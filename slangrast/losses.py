"""Losses for fitting: image differences, and regularisers that keep a mesh smooth.

Image losses are means. Mesh losses are sums over the elements of a mesh, as in the papers they come from, and
means over a batch of meshes. They take `triangles` as a tensor, whose edges are worked out once per tensor
object (keep passing the same one, such as `mesh.triangles`), or as a `Topology`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from slangrast import surface
from slangrast.topology import Topology, check_triangles, check_vertices, describe, topology_of


def _check_images(function: str, prediction: Tensor, target: Tensor) -> None:
    # Without this check broadcasting would accept [N, H, W] against [N, H, W, 1] and give a meaningless
    # number.
    if prediction.shape != target.shape:
        shape = list(prediction.shape)
        raise ValueError(f"{function}: target must have prediction's shape {shape}, got {describe(target)}")
    if prediction.device != target.device:
        raise ValueError(f"{function}: target must be on prediction's device {prediction.device}, got {target.device}")


def mse(prediction: Tensor, target: Tensor) -> Tensor:
    """Mean squared difference: mean (P - T)^2.

    Args:
        prediction: [...] float. Differentiable.
        target: [...] float, the same shape. Differentiable.

    Returns:
        A scalar.

    Raises:
        ValueError: shapes or devices differ.
    """
    _check_images("mse", prediction, target)
    return (prediction - target).square().mean()


def l1(prediction: Tensor, target: Tensor) -> Tensor:
    """Mean absolute difference: mean |P - T|.

    Args:
        prediction: [...] float. Differentiable.
        target: [...] float, the same shape. Differentiable.

    Returns:
        A scalar. The gradient of an element that is already equal is 0.

    Raises:
        ValueError: shapes or devices differ.
    """
    _check_images("l1", prediction, target)
    return (prediction - target).abs().mean()


def silhouette_iou(prediction: Tensor, target: Tensor) -> Tensor:
    """One minus the soft intersection over union of silhouettes, per image, then the mean over images.

    1 - |P * T| / |P + T - P * T|, sums over the pixels of an image (the silhouette loss of Liu et al., "Soft
    Rasterizer", ICCV 2019).

    Args:
        prediction: [N, H, W] or [H, W] float in [0, 1], coverage. Differentiable.
        target: [N, H, W] or [H, W] float in [0, 1], the same shape. Differentiable.

    Returns:
        A scalar in [0, 1]. Two empty images agree: 0, without a gradient.

    Raises:
        ValueError: shapes or devices differ, or they are not images.
    """
    _check_images("silhouette_iou", prediction, target)
    if prediction.ndim not in (2, 3):
        raise ValueError(f"silhouette_iou: prediction must be [N, H, W] or [H, W], got {describe(prediction)}")
    intersection = (prediction * target).sum(dim=(-2, -1))
    # Sums of images rather than an image of sums, forward and backward: half the memory to walk through.
    union = prediction.sum(dim=(-2, -1)) + target.sum(dim=(-2, -1)) - intersection
    empty = union == 0
    ratio = intersection / torch.where(empty, 1.0, union)
    return (1 - torch.where(empty, 1.0, ratio)).mean()


def _checked(function: str, vertices: Tensor, triangles: Tensor | Topology) -> Topology:
    """The topology of `triangles`, once it is known to fit `vertices`."""
    check_vertices(function, vertices)
    if not isinstance(triangles, Topology):
        check_triangles(function, triangles)
    topology = triangles if isinstance(triangles, Topology) else topology_of(triangles)
    device = topology.triangles.device
    if device != vertices.device:
        raise ValueError(f"{function}: triangles must be on the device of vertices, {vertices.device}, got {device}")
    if topology.vertex_bound > vertices.shape[-2]:
        count, largest = vertices.shape[-2], topology.vertex_bound - 1
        raise ValueError(f"{function}: triangles must index the {count} vertices, got index {largest}")
    return topology


def laplacian(vertices: Tensor, triangles: Tensor | Topology) -> Tensor:
    """How far each vertex is from the mean of its neighbours: sum over i of |delta_i|^2.

    delta_i = (1 / |N(i)|) sum over j in N(i) of (v_j - v_i), the umbrella operator (Desbrun et al., "Implicit
    Fairing of Irregular Meshes using Diffusion and Curvature Flow", SIGGRAPH 1999), squared and summed as in
    Liu et al. 2019.

    Args:
        vertices: [V, 3] or [N, V, 3] float, world units. Differentiable.
        triangles: [F, 3] int32 or int64, or a `Topology`.

    Returns:
        A scalar, the mean over the batch, in squared world units. A vertex on a boundary is drawn inwards
        along the surface; a vertex without neighbours counts 0. The gradient is finite everywhere, for it is
        linear.

    Raises:
        TypeError, ValueError: a wrong dtype, shape or device, or an index out of range.
    """
    topology = _checked("laplacian", vertices, triangles)
    components = surface.components(vertices)
    first, second = topology.edges.unbind(1)
    along = (surface.gather(components, second) - surface.gather(components, first)).flatten(0, 1)
    none = torch.zeros_like(components).flatten(0, 1)
    sums = none.index_add(1, first, along) - none.index_add(1, second, along)
    delta = sums / topology.degrees(components.shape[2]).clamp(min=1).to(sums.dtype)
    return delta.square().sum() / components.shape[1]


def flatten(vertices: Tensor, triangles: Tensor | Topology) -> Tensor:
    """How much the surface bends at its edges: sum over interior edges of (cos theta + 1)^2.

    theta is the angle between the two faces at their shared edge, pi where they are coplanar (the flattening
    loss of Liu et al., "Soft Rasterizer", ICCV 2019). It does not depend on the winding. An edge of more than
    two faces counts once for each pair of them, a boundary edge not at all.

    Args:
        vertices: [V, 3] or [N, V, 3] float, world units. Differentiable.
        triangles: [F, 3] int32 or int64, or a `Topology`.

    Returns:
        A scalar, the mean over the batch: 0 for a flat mesh, 4 for an edge folded shut. A pair in which a
        face has no area has no angle: it counts 0 and sends back no gradient. The gradient grows like
        1 / height as a face becomes a sliver.

    Raises:
        TypeError, ValueError: a wrong dtype, shape or device, or an index out of range.
    """
    topology = _checked("flatten", vertices, triangles)
    components = surface.at_unit_size(surface.components(vertices))
    normals, shaped = surface.unit(*surface.face_normals(components, topology.triangles))
    left, right = topology.hinges.unbind(1)
    # Coplanar faces that are wound alike have equal normals where theta is pi: hence the minus.
    cosine = -topology.hinge_signs.to(normals.dtype) * surface.dot(
        surface.gather(normals, left).unbind(), surface.gather(normals, right).unbind()
    )
    bend = torch.where(shaped[:, left] & shaped[:, right], (cosine + 1).square(), 0.0)
    return bend.sum() / components.shape[1]


def edge_length(vertices: Tensor, triangles: Tensor | Topology, target_length: float | Tensor | str = 0.0) -> Tensor:
    """How far edges are from a wanted length: sum over edges of (|e| - target_length)^2.

    Args:
        vertices: [V, 3] or [N, V, 3] float, world units. Differentiable.
        triangles: [F, 3] int32 or int64, or a `Topology`.
        target_length: number or scalar tensor, world units, at least 0 (Differentiable), or "mean" for the
            mean length of each mesh, which evens edges out without shrinking them.

    Returns:
        A scalar, the mean over the batch, in squared world units. An edge of length 0 has no direction to
        grow in and sends back no gradient.

    Raises:
        TypeError, ValueError: a wrong dtype, shape or device, an index out of range, or another
            `target_length`.
    """
    topology = _checked("edge_length", vertices, triangles)
    if isinstance(target_length, str) and target_length != "mean":
        raise ValueError(
            f'edge_length: target_length must be a number, a scalar tensor or "mean", got "{target_length}"'
        )
    if isinstance(target_length, float | int) and not target_length >= 0:
        raise ValueError(f"edge_length: target_length must be at least 0, got {target_length}")
    components = surface.components(vertices)
    first, second = topology.edges.unbind(1)
    along = (surface.gather(components, second) - surface.gather(components, first)).unbind()
    square = surface.dot(along, along)
    # The derivative of a square root is infinite at 0: put 1 there, and take it back.
    lengths = torch.where(square > 0, torch.where(square > 0, square, 1.0).sqrt(), 0.0)
    wanted = lengths.mean(dim=1, keepdim=True) if isinstance(target_length, str) else target_length
    return (lengths - wanted).square().sum() / components.shape[1]
