"""A soft rasterizer written by hand for vector instructions, timed beside ours: the bar for generated code.

Its source is not part of this repository: `--prototype` names it. It is one C++ file with two functions,

    soft_forward(triangles, colors, F, parameters, out_image, out_state, out_times)
    soft_backward(triangles, colors, F, parameters, image, state, grad_image, grad_triangles, grad_colors, out_times)

over triangles [F, 3, 3] (x, y in NDC, depth along the view axis), colours [F, 3, 3], images [S, S, 4] (red, green,
blue, silhouette), state [S, S, 2] and the structure below, all float32. It knows square images of the default formulas.
"""

from __future__ import annotations

import ctypes
import math
import shutil
import subprocess
from pathlib import Path

import torch

from .cases import Case, Scene
from .contenders import Contender, Images

FLAGS = ("-std=c++20", "-O3", "-march=native", "-mprefer-vector-width=512", "-ffast-math", "-fopenmp")


class _Parameters(ctypes.Structure):
    _fields_ = (
        ("size", ctypes.c_int),
        *((name, ctypes.c_float) for name in ("sigma", "gamma", "near", "far", "epsilon", "cut")),
        ("threads", ctypes.c_int),
        ("color", ctypes.c_int),
    )


def why_not(source: Path | None) -> str:
    """Why the prototype cannot be timed; empty where it can."""
    if source is None:
        return "no --prototype was given"
    if not source.is_file():
        return f"{source} is not there"
    return "" if shutil.which("g++") else "g++ is not there to build it"


def build(source: Path, folder: Path) -> Path:
    library = folder / "prototype.so"
    subprocess.run(["g++", *FLAGS, "-shared", "-fPIC", str(source), "-o", str(library)], check=True)
    return library


def can_render(case: Case) -> bool:
    return case.images == 1


def contender(library: Path, scene: Scene, mode: str, threads: int, upstream: Images) -> Contender:
    """The prototype on a scene. Projection, and gathering the corners of each face, are done before it is timed."""
    program = ctypes.CDLL(str(library))
    size = scene.resolution[0]
    faces = len(scene.triangles)
    cut = math.log(1 / 1e-4 - 1)
    color = int(mode == "color")
    parameters = _Parameters(size, scene.sigma, 1e-4, 1.0, 100.0, 1e-3, cut, threads, color)
    corners = scene.positions.detach()[0, scene.triangles.long()]
    triangles = torch.cat([corners[..., :2] / corners[..., 3:], corners[..., 3:]], -1).contiguous()
    colors = scene.colors.detach()[scene.triangles.long()].contiguous()
    image, state = torch.empty(size, size, 4), torch.empty(size, size, 2)
    grad_image = torch.zeros(size, size, 4)
    grad_image[..., 3] = upstream[-1][0]
    if color:
        grad_image[..., :3] = upstream[0][0]
    grad_triangles, grad_colors = torch.empty(faces, 9), torch.empty(faces, 9)

    def call(name: str, *tensors: torch.Tensor) -> None:
        pointers = [ctypes.c_void_p(tensor.data_ptr()) for tensor in tensors]
        getattr(program, name)(*pointers[:2], faces, ctypes.byref(parameters), *pointers[2:], None)

    def forward() -> Images:
        call("soft_forward", triangles, colors, image, state)
        return (image[None, ..., :3], image[None, ..., 3]) if color else (image[None, ..., 3],)

    def step() -> Images:
        images = forward()
        call("soft_backward", triangles, colors, image, state, grad_image, grad_triangles, grad_colors)
        return images

    return Contender("prototype", forward, step)
