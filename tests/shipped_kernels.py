"""Small scenes that together launch every shipped kernel and every derivative: for engines that check as they run.

`python -m tests.shipped_kernels FOLDER` runs them all, and prints the kernels that ran. What slangc writes is kept in
FOLDER, and taken from there the next time.
"""

from __future__ import annotations

import os
import pickle
import re
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

import slangrast as sr
from slangrast import edge_rings, soft_rasterizer
from slangrast.runtime import cpu_engine
from slangrast.runtime.cache import digest
from slangrast.runtime.cpu_engine import CpuModule
from slangrast.runtime.shader_paths import shader_folder

RESOLUTION = (19, 37)
_KERNEL = re.compile(
    r"((?:^\[\w+(?:\(\w+\))?\]\s+)*^\[CUDAKernel\]\s+(?:^\[\w+(?:\(\w+\))?\]\s+)*)^void (\w+)\(", re.MULTILINE
)


def soft_color() -> list[torch.Tensor]:
    """Two views of a sphere: soft colour, depth and silhouette."""
    vertices, colors = _mesh()
    sigma = torch.tensor(2e-3, requires_grad=True)
    image = sr.soft_rasterize(_project(vertices), _SPHERE.triangles, colors, RESOLUTION, sigma=sigma)
    return _with_gradients([image.color, image.silhouette, image.depth], [vertices, colors, sigma])


def nearest_color() -> list[torch.Tensor]:
    """Aggregations that keep a winner for each pixel."""
    vertices, colors = _mesh()
    image = sr.soft_rasterize(
        _project(vertices), _SPHERE.triangles, colors, RESOLUTION, sigma=2e-3, aggregation="hard", silhouette="max"
    )
    return _with_gradients([image.color, image.silhouette, image.depth], [vertices, colors])


def binned_in_steps() -> list[torch.Tensor]:
    """A scene as small as the others, by the launches that large ones need."""
    vertices, _ = _mesh()
    is_one_threads, soft_rasterizer.is_one_threads = soft_rasterizer.is_one_threads, lambda *scene: False
    try:
        image = sr.soft_silhouette(_project(vertices), _SPHERE.triangles, RESOLUTION, sigma=2e-3)
    finally:
        soft_rasterizer.is_one_threads = is_one_threads
    return _with_gradients([image], [vertices])


def textured() -> list[torch.Tensor]:
    """Rasterize, interpolate with derivatives, look up a texture in its mip stack, blend edges."""
    vertices, _ = _mesh()
    generator = torch.Generator().manual_seed(5)
    uv = torch.rand(len(vertices), 2, generator=generator).requires_grad_()
    image = torch.rand(16, 8, 3, generator=generator).requires_grad_()
    geometry = sr.rasterize(_project(vertices), _SPHERE.triangles, RESOLUTION)
    at, slopes = sr.interpolate(geometry, uv, derivatives=True)
    color = sr.texture(image, at, uv_derivatives=slopes, filter="linear_mipmap_linear")
    blended = sr.antialias(color, geometry)
    behind = sr.peel(geometry)
    edged = sr.edge_gradients(color, geometry)
    outputs = [blended, edged, geometry.depth, geometry.barycentric_derivatives, behind.depth]
    return _with_gradients(outputs, [vertices, uv, image])


def drawn_by_size() -> list[torch.Tensor]:
    """Small triangles apart from large ones, as where threads come in warps."""
    op = sys.modules["slangrast.rasterize"]
    vertices, _ = _mesh()
    small_box, op._small_box = op._small_box, lambda positions: 20
    try:
        geometry = sr.rasterize(_project(vertices), _SPHERE.triangles, RESOLUTION)
        behind = sr.peel(geometry)
    finally:
        op._small_box = small_box
    return _with_gradients([geometry.depth, geometry.barycentrics, behind.depth], [vertices])


def many_vertices() -> list[torch.Tensor]:
    """Vertices are compared by the launches that large meshes need."""
    vertices, _ = _mesh()
    few, edge_rings._FEW_VERTICES = edge_rings._FEW_VERTICES, 0
    try:
        geometry = sr.rasterize(_project(vertices), _SPHERE.triangles, RESOLUTION)
        blended = sr.antialias(geometry.mask[..., None].float(), geometry)
    finally:
        edge_rings._FEW_VERTICES = few
    return _with_gradients([blended], [vertices])


SCENES: dict[str, Callable[[], list[torch.Tensor]]] = {
    scene.__name__: scene
    for scene in (soft_color, nearest_color, binned_in_steps, textured, drawn_by_size, many_vertices)
}

_SPHERE = sr.icosphere(1)
_CAMERA = sr.Camera.orbit(3.0, 20.0, torch.tensor([10.0, 100.0]), fov_degrees=45)


def all_kernels() -> set[str]:
    """Every kernel of the shipped shaders, and each again with .bwd where it has a derivative."""
    found = set()
    for path in shader_folder().glob("*.slang"):
        for attributes, name in _KERNEL.findall(path.read_text()):
            found |= {name} | (
                {f"{name}.bwd"} if "Differentiable" in attributes or "Derivative" in attributes else set()
            )
    return found


def check_all_ran(launched: set[str]) -> None:
    missing = all_kernels() - launched
    assert not missing, f"no scene of tests/shipped_kernels.py launches {sorted(missing)}: add one"


@contextmanager
def recorded_kernels() -> Iterator[set[str]]:
    """The names of the kernels that are launched meanwhile, with .bwd behind those of their derivatives."""
    launched: set[str] = set()
    launch = CpuModule.launch

    def record(self: CpuModule, entry: object, *arguments: object) -> None:
        for name, family in self.families.items():
            launched.update({name} if entry is family.primal else ())
            launched.update({f"{name}.bwd"} if entry is family.backward_derivative else ())
        launch(self, entry, *arguments)

    CpuModule.launch = record
    try:
        yield launched
    finally:
        CpuModule.launch = launch


@contextmanager
def slangc_once(folder: Path) -> Iterator[None]:
    """Meanwhile, run slangc once for all builds of one text: precisions, engines and sanitizers do not change it."""
    compile_slang = cpu_engine.compile_slang

    def remembered(*arguments: object) -> object:
        kept = folder / digest(str(arguments))
        if not kept.exists():
            aside = kept.with_suffix(f".{os.getpid()}.{threading.get_ident()}")  # others may be at it too
            aside.write_bytes(pickle.dumps(compile_slang(*arguments)))
            os.replace(aside, kept)
        return pickle.loads(kept.read_bytes())

    cpu_engine.compile_slang = remembered
    try:
        yield
    finally:
        cpu_engine.compile_slang = compile_slang


def _mesh() -> tuple[torch.Tensor, torch.Tensor]:
    vertices = _SPHERE.vertices.clone().requires_grad_()
    colors = torch.rand(len(vertices), 3, generator=torch.Generator().manual_seed(3)).requires_grad_()
    return vertices, colors


def _project(vertices: torch.Tensor) -> torch.Tensor:
    return _CAMERA.project(vertices)


def _with_gradients(outputs: list[torch.Tensor], inputs: list[torch.Tensor]) -> list[torch.Tensor]:
    """The outputs, and the gradients of a weighted sum of them."""
    generator = torch.Generator().manual_seed(7)
    weights = [torch.rand(output.shape, generator=generator) for output in outputs]
    sum((output * weight).sum() for output, weight in zip(outputs, weights, strict=True)).backward()
    return [tensor.detach() for tensor in outputs] + [tensor.grad for tensor in inputs]


if __name__ == "__main__":
    with slangc_once(Path(sys.argv[1])), recorded_kernels() as launched:
        for scene in SCENES.values():
            for tensor in scene():
                assert tensor.isfinite().all(), scene.__name__
        check_all_ran(launched)
    print(*sorted(launched))
