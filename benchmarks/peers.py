"""Other differentiable rasterizers, where they can be imported: each renders a `Scene` by a function of its own.

Settings are those under which a peer draws the image that slangrast draws; what stays different is said here and found
by the comparison of images before anything is timed. The peers' conventions are from their documentation.

- PyTorch3D (CPU and CUDA): its 50 nearest faces at each pixel, or the nearest alone beside the hard path; barycentrics
  of soft faces clipped after the perspective correction.
- SoftRas, GenDR (CUDA): attributes linear on the screen; square images; a background weighed by 2 epsilon.
- nvdiffrast (CUDA): the hard path, and with blended edges beside our `antialias`. It gets the scene upside down, since
  its row 0 is at the bottom, and the edges of the mesh, which we keep too, beforehand.
- DRTK (CPU and CUDA): the hard path, and with an estimator of edge gradients beside our `edge_gradients`.

Gradients are compared too. Where a peer's are known to be others than ours, `_APART` says why.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch

from .cases import Scene
from .contenders import Contender, GradientGap, Images, differentiable

_NEAREST_FACES = 50
_CUTOFF = math.log(1 / 1e-4 - 1)  # where the logistic falloff reaches the default cutoff
_GAMMA, _NEAR, _FAR = 1e-4, 1.0, 100.0

Renderer = Callable[..., Images]  # (scene, mode=...)


def _view_space(scene: Scene) -> torch.Tensor:
    """[N, V, 3] x and y in NDC, depth along the view axis."""
    w = scene.positions[..., 3:]
    return torch.cat([scene.positions[..., :2] / w, w], dim=-1)


def _soft(rgba: torch.Tensor, mode: str) -> Images:
    """From [N, H, W, 4]."""
    return (rgba[..., 3],) if mode == "silhouette" else (rgba[..., :3], rgba[..., 3])


def _pytorch3d(device: str) -> Renderer:
    from pytorch3d.ops import interpolate_face_attributes
    from pytorch3d.renderer.blending import BlendParams, sigmoid_alpha_blend, softmax_rgb_blend
    from pytorch3d.renderer.mesh.rasterize_meshes import rasterize_meshes
    from pytorch3d.renderer.mesh.rasterizer import Fragments
    from pytorch3d.structures import Meshes

    def render(scene: Scene, mode: str) -> Images:
        corners = _view_space(scene) * scene.positions.new_tensor([-1.0, 1.0, 1.0])  # +x points left
        triangles = scene.triangles.long()
        meshes = Meshes(list(corners), [triangles] * len(corners))
        soft = mode != "interior"
        found = rasterize_meshes(
            meshes, scene.resolution, blur_radius=_CUTOFF * scene.sigma if soft else 0.0,
            faces_per_pixel=_NEAREST_FACES if soft else 1, perspective_correct=True, clip_barycentric_coords=soft,
        )  # fmt: skip
        fragments = Fragments(*found)
        settings = BlendParams(sigma=scene.sigma, gamma=_GAMMA, background_color=(0.0, 0.0, 0.0))
        if mode == "silhouette":
            return (sigmoid_alpha_blend(torch.ones_like(found[2]), fragments, settings)[..., 3],)
        colors = scene.colors[triangles].repeat(len(corners), 1, 1)
        texels = interpolate_face_attributes(found[0], found[2], colors)
        if mode == "interior":
            return (texels[..., 0, :],)
        return _soft(softmax_rgb_blend(texels, fragments, settings, _NEAR, _FAR), mode)

    return render


def _softras(device: str) -> Renderer:
    from soft_renderer.functional import soft_rasterize

    def render(scene: Scene, mode: str) -> Images:
        rgba = soft_rasterize(
            *_faces(scene), scene.resolution[0], [0, 0, 0], _NEAR, _FAR, True, 1e-3, scene.sigma, "euclidean", 1e-4,
            _GAMMA, "softmax", "prod", "vertex",
        )  # fmt: skip
        return _soft(rgba.permute(0, 2, 3, 1), mode)

    return render


def _gendr(device: str) -> Renderer:
    from gendr.functional.renderer import render as render_gendr

    def render(scene: Scene, mode: str) -> Images:
        rgba = render_gendr(
            *_faces(scene), image_size=scene.resolution[0], dist_func="logistic", dist_scale=scene.sigma,
            dist_squared=True, dist_shape=0.0, dist_shift=0.0, dist_eps=_CUTOFF, aggr_alpha_t_conorm_p=0.0,
            aggr_rgb_gamma=_GAMMA, near=_NEAR, far=_FAR, texture_type="vertex",
        )  # fmt: skip
        return _soft(rgba.permute(0, 2, 3, 1), mode)

    return render


def _faces(scene: Scene) -> tuple[torch.Tensor, torch.Tensor]:
    """[N, F, 3, 3] corners and colours."""
    triangles = scene.triangles.long()
    corners = _view_space(scene)[:, triangles]
    return corners, scene.colors[triangles].expand(len(corners), -1, -1, -1)


def _nvdiffrast(device: str) -> Renderer:
    import nvdiffrast.torch as dr

    context = dr.RasterizeCudaContext(device=device)
    edges: dict[int, torch.Tensor] = {}  # by the triangles that they are of

    def render(scene: Scene, mode: str) -> Images:
        triangles = scene.triangles.int()
        found, _ = dr.rasterize(context, scene.positions, triangles, resolution=scene.resolution, grad_db=False)
        colors, _ = dr.interpolate(scene.colors[None], found, triangles)
        if mode == "interior":
            return (colors,)
        key = scene.triangles.data_ptr()
        if key not in edges:
            edges[key] = dr.antialias_construct_topology_hash(triangles)
        return (dr.antialias(colors, found, scene.positions, triangles, topology_hash=edges[key]),)

    return render


def _drtk(device: str) -> Renderer:
    import drtk

    def render(scene: Scene, mode: str) -> Images:
        height, width = scene.resolution
        ndc = _view_space(scene)
        shorter = min(height, width)
        x = ndc[..., 0] * shorter / 2 + (width - 1) / 2  # the left border of the image is at -0.5
        y = (height - 1) / 2 - ndc[..., 1] * shorter / 2
        pixels = torch.stack([x, y, ndc[..., 2]], -1)
        triangles = scene.triangles.int()
        ids = drtk.rasterize(pixels, triangles, height, width)
        _, barycentrics = drtk.render(pixels, triangles, ids)
        image = drtk.interpolate(scene.colors.expand(len(pixels), -1, -1), triangles, ids, barycentrics)
        # Before the estimator, which takes what it is given for the picture: outside of all faces that is noise.
        image = image * (ids >= 0)[:, None]
        if mode == "edges":
            image = drtk.edge_grad_estimator(pixels, triangles, barycentrics, image, ids)
        return (image.permute(0, 2, 3, 1),)

    return render


_FACTORIES: dict[str, Callable[[str], Renderer]] = {
    "pytorch3d": _pytorch3d,
    "softras": _softras,
    "gendr": _gendr,
    "nvdiffrast": _nvdiffrast,
    "drtk": _drtk,
}
_CUDA_ONLY = ("softras", "gendr", "nvdiffrast")
_MIRRORS = {"nvdiffrast": (1.0, -1.0, 1.0, 1.0)}  # of the scene's positions, before anything is timed
PEERS = {  # by mode
    "silhouette": ("pytorch3d", "softras", "gendr"),
    "color": ("pytorch3d", "softras", "gendr"),
    "interior": ("pytorch3d", "nvdiffrast", "drtk"),
    "antialias": ("nvdiffrast",),
    "edges": ("drtk",),
}


@dataclass(frozen=True)
class _Apart:
    """Why a peer's gradient is not ours, and how near they are along motions of the whole image all the same."""

    why: str
    motions: float = math.inf


_APART = {
    # Both were found by changing them: with no clip at 1 in our reference, and its C++ in double, gradients agree to
    # 3e-6; its float32 agrees with its double to 1e-4 once that denominator's derivative is 0 where it is held.
    ("pytorch3d", "color"): _Apart(
        "it clips barycentrics at 0 only, we at 1 too, which colours pixels beside a corner otherwise; and in the "
        "reverse of its perspective correction a denominator that the forward holds at 1e-8 counts as if it moved: "
        "rounding errors of faces seen edge-on are divided by 1e-16"
    ),
    ("softras", "color"): _Apart("it leaves out the derivative of the barycentrics"),
    # Estimates may give the gradient of an edge to these or those vertices, but not more or less of it to all of them.
    ("drtk", "edges"): _Apart("it moves the triangle that is seen beside an edge, we the vertices of the edge", 0.25),
}


@functools.cache
def load_peer(name: str, device: str) -> Renderer | None:
    """The function that renders with a peer, or None where it is not installed or not for this device."""
    if device == "cpu" and name in _CUDA_ONLY:
        return None
    try:
        return _FACTORIES[name](device)
    except Exception:  # not there, or built for another torch or Python, which shows in many ways
        return None


def peer_contender(name: str, device: str, mode: str, scene: Scene, upstream: Images) -> Contender | None:
    """A peer on a scene, or None where it cannot be imported or is not for this device."""
    render = load_peer(name, device)
    if render is None:
        return None
    mirror = _MIRRORS.get(name, Contender.mirror)
    if mirror != Contender.mirror:
        positions = scene.positions.detach() * scene.positions.new_tensor(mirror)
        scene = replace(scene, positions=positions.requires_grad_())
    return differentiable(name, partial(render, mode=mode), scene, upstream, mirror)


def why_apart(name: str, mode: str, gap: GradientGap) -> str:
    """Why a peer's gradient is not ours."""
    known = _APART.get((name, mode))
    if known is None:
        return "not explained"
    if gap.motions <= known.motions:
        return known.why
    return f"not explained ({known.why}, but along motions of the whole image they should agree to {known.motions:g})"
