"""What the page shows: a mesh seen by a camera, rendered softly, and the gradient of a loss for its vertices."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import slangrast as sr
from slangrast.formulas import KINDS, TensorField, choose_formula, describe

from .subject import Subject

SHAPES = {
    "sphere": lambda: sr.icosphere(3),
    "cube": sr.cube,
    "torus": lambda: sr.torus(0.85, 0.38, 48, 24),
    "plane": lambda: sr.plane(columns=8, rows=8),
}
_BACKGROUND = 0.07
_TURN = 14.0  # as large a part of the image as the target is moved by is one in this many

# What a fragment shader finds in each of its attributes, by name; by size where the name says nothing.
_BY_NAME = {"position": "vertices", "normal": "normals", "uv": "uv", "albedo": "colors", "color": "colors"}
_BY_SIZE = {2: "uv", 3: "colors"}


@dataclass(frozen=True)
class Slider:
    """One number that the page can change."""

    name: str
    label: str
    lowest: float
    highest: float
    value: float
    logarithmic: bool = False
    group: str = "renderer"  # or "shader", or "camera"


@dataclass(frozen=True)
class Rendering:
    """One rendering of the scene, forward and backward."""

    color: torch.Tensor  # [H, W, C]
    silhouette: torch.Tensor  # [H, W]
    depth: torch.Tensor  # [H, W]
    corners: torch.Tensor  # [F, 3, 2], the triangles in pixels, far ones first
    pull: torch.Tensor  # [F, 2], where each triangle is drawn to on the screen: x right, y up
    loss: float
    gradients: Mapping[str, float]  # of the loss, by slider
    forward_ms: float
    backward_ms: float
    not_finite: int  # numbers in images and gradients that are NaN or infinite


class Scene:
    """A mesh of about unit size around the origin, and how it is rendered."""

    def __init__(self, subject: Subject, shape: str = "sphere", size: int = 256) -> None:
        if not 16 <= size <= 1024:
            raise ValueError(f"watch: size must be from 16 to 1024 pixels, got {size}")
        self.subject = subject
        self.size = size
        mesh = _in_unit_size(SHAPES[shape]() if shape in SHAPES else sr.load_mesh(Path(shape)))
        self.triangles = mesh.triangles
        normals = mesh.vertex_normals()
        colors = 0.5 + 0.5 * normals if mesh.vertex_colors is None else mesh.vertex_colors[:, :3]
        uv = _around(mesh.vertices) if mesh.uv is None else mesh.uv
        self.attributes = {"vertices": mesh.vertices, "normals": normals, "colors": colors, "uv": uv}
        # Without a fragment shader to do it, the light is in the colours.
        facing = normals @ torch.nn.functional.normalize(torch.tensor([0.4, 0.8, -0.5]), dim=0)
        self.shaded = colors * (0.35 + 0.65 * facing.clamp(min=0))[:, None]

    def sliders(self) -> list[Slider]:
        """Those of the renderer and the camera, and one for each number of the formula.

        Raises:
            ShaderError: the formula does not compile.
            ValueError: it has a field that no slider can stand for.
        """
        return [
            Slider("sigma", "sigma: softness of coverage", 1e-7, 1.0, 1e-3, logarithmic=True),
            Slider("gamma", "gamma: softness of depth", 1e-6, 1.0, 1e-3, logarithmic=True),
            *self._own_sliders(),
            Slider("azimuth", "azimuth", -180, 180, 30, group="camera"),
            Slider("elevation", "elevation", -85, 85, 25, group="camera"),
        ]

    def _own_sliders(self) -> list[Slider]:
        sliders: list[Slider] = []
        for field in self._fields():
            if isinstance(field, TensorField):
                if self._default(field.name) is None:
                    raise ValueError(
                        f"watch: field {field.name} of {self.subject.struct} is a tensor, which the page cannot make "
                        "up: use slangrast.watch in a program of your own"
                    )
                continue
            default = self._default(field.name)
            values = torch.as_tensor(1.0 if default is None else default).expand(field.shape).reshape(-1)
            for index, value in enumerate(values.tolist()):
                suffix = f"[{index}]" if field.shape else ""
                highest = 4.0 * max(abs(value), 0.25)
                lowest = -highest if field.shape or value < 0 else 0.0
                name = f"{field.name}{suffix}"
                sliders.append(Slider(f"own.{name}", name, lowest, highest, value, group="shader"))
        return sliders

    def render(self, values: Mapping[str, float]) -> Rendering:
        """Render with the values of all sliders.

        The loss compares the image with itself moved a little to the right: a gradient of the right sign draws every
        edge in it rightwards, if not along itself.
        """
        leaves = {name: torch.tensor(float(value), requires_grad=True) for name, value in values.items()}
        formulas: dict[str, Any] = {self.subject.kind: self._formula(leaves)} if self.subject.kind else {}
        camera = sr.Camera.orbit(4.0, values["elevation"], values["azimuth"], fov_degrees=35, near=1.0, far=10.0)
        positions = camera.project(self.attributes["vertices"]).detach().requires_grad_()
        started = time.perf_counter()
        image = sr.soft_rasterize(
            positions, self.triangles, self._inputs(), (self.size, self.size), sigma=leaves["sigma"],
            gamma=leaves["gamma"], near=1.0, far=10.0, background=_BACKGROUND, **formulas,
        )  # fmt: skip
        forward = time.perf_counter()
        loss = sum(_distance_to_moved(one) for one in (image.color, image.silhouette[..., None]))
        assert isinstance(loss, torch.Tensor)
        inputs = [positions, *leaves.values()]
        gradients = torch.autograd.grad(loss, inputs, allow_unused=True)
        backward = time.perf_counter()
        grad_positions = torch.zeros_like(positions) if gradients[0] is None else gradients[0]
        found = [image.color, image.silhouette, image.depth, *(one for one in gradients if one is not None)]
        corners, pull = self._on_screen(positions.detach()[0], grad_positions[0])
        return Rendering(
            color=image.color.detach()[0],
            silhouette=image.silhouette.detach()[0],
            depth=image.depth.detach()[0],
            corners=corners,
            pull=pull,
            loss=float(loss.detach()),
            gradients={
                name: float(gradient)
                for name, gradient in zip(leaves, gradients[1:], strict=True)
                if gradient is not None and math.isfinite(gradient)
            },
            forward_ms=1e3 * (forward - started),
            backward_ms=1e3 * (backward - forward),
            not_finite=sum(int((~one.isfinite()).sum()) for one in found),
        )

    def _fields(self) -> list[Any]:
        if not self.subject.kind:
            return []
        choice, _ = choose_formula("watch", self.subject.kind, self.subject.formula_name)
        return describe((choice,)).fields_of(self.subject.kind)

    def _default(self, field: str) -> Any:
        """What a field holds to begin with, where that is known."""
        for shipped in KINDS[self.subject.kind].shipped.values():
            if shipped.struct == self.subject.struct and field in shipped.defaults:
                return shipped.defaults[field]
        known = {
            "light": (0.4, 0.8, -0.5), "eye": (2.0, 1.7, -3.0), "ambient": 0.3, "diffuse": 0.7, "specular": 0.5,
            "shininess": 20.0, "texture": _checkerboard(),
        }  # fmt: skip
        return known.get(field) if self.subject.kind == "fragment" else None

    def _formula(self, leaves: Mapping[str, torch.Tensor]) -> sr.Formula:
        parameters = {}
        for field in self._fields():
            if isinstance(field, TensorField):
                parameters[field.name] = self._default(field.name)
            elif field.shape:
                parts = [leaves[f"own.{field.name}[{index}]"] for index in range(field.size)]
                parameters[field.name] = torch.stack(parts).reshape(field.shape)
            else:
                parameters[field.name] = leaves[f"own.{field.name}"]
        return sr.Formula(self.subject.formula_name, **parameters)

    def _inputs(self) -> torch.Tensor:
        """[V, C]: colours, or what the fragment shader takes."""
        if self.subject.kind != "fragment":
            return self.shaded
        choice, _ = choose_formula("watch", "fragment", self.subject.formula_name)
        parts = []
        for name, size in describe((choice,)).inputs:
            known = self.attributes.get(_BY_NAME.get(name) or _BY_SIZE.get(size, ""))
            if known is None or known.shape[1] != size:
                known = torch.ones(len(self.shaded), size)
            parts.append(known)
        return torch.cat(parts, dim=1)

    def _on_screen(self, positions: torch.Tensor, gradient: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Corners of the triangles in pixels, and the mean of minus their vertices' gradients; far ones first."""
        depth = positions[:, 3:].clamp(min=1e-6)
        screen = positions[:, :2] / depth * torch.tensor([0.5, -0.5]) + 0.5
        order = depth[self.triangles, 0].mean(dim=1).argsort(descending=True)
        faces = self.triangles[order]
        pull = torch.nan_to_num(-gradient[:, :2] * depth, posinf=0.0, neginf=0.0)
        return screen[faces] * self.size, pull[faces].mean(dim=1)


def _distance_to_moved(image: torch.Tensor) -> torch.Tensor:
    """The mean squared difference between an image [N, H, W, C] and itself moved to the right."""
    target = image.detach().roll(max(1, round(image.shape[2] / _TURN)), dims=2)
    return ((image - target) ** 2).mean()


def _in_unit_size(mesh: sr.Mesh) -> sr.Mesh:
    low, high = mesh.vertices.amin(dim=0), mesh.vertices.amax(dim=0)
    radius = (mesh.vertices - (low + high) / 2).norm(dim=1).max().clamp(min=1e-12)
    return mesh.with_vertices((mesh.vertices - (low + high) / 2) / radius)


def _around(vertices: torch.Tensor) -> torch.Tensor:
    """[V, 2]: longitude and height, as texture coordinates for a mesh that has none."""
    x, y, z = vertices.unbind(dim=1)
    height = (y - y.amin()) / (y.amax() - y.amin()).clamp(min=1e-12)
    return torch.stack((0.5 + torch.atan2(x, z) / (2 * math.pi), height), dim=1)


def _checkerboard() -> torch.Tensor:
    """[8, 16, 3]"""
    cells = (torch.arange(8)[:, None] + torch.arange(16)) % 2
    return torch.where(cells[..., None].bool(), torch.tensor([0.95, 0.75, 0.3]), torch.tensor([0.15, 0.35, 0.6]))
