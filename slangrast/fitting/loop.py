"""The loop of a fit: forward, loss, gradient, update, check; and what it needs to stop and go on anywhere."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from slangrast import losses
from slangrast.fitting.descent import SmoothDescent
from slangrast.fitting.scene import Scene
from slangrast.fitting.settings import FitSettings
from slangrast.mesh import Mesh


@dataclass(frozen=True)
class FitProgress:
    """What a callback of `fit` is told after each step."""

    step: int  # steps done, of all levels
    steps: int  # steps at most
    level: int  # of the mesh, from 0
    loss: float  # of this step's views, without regularisers
    iou: float  # mean intersection over union of all views at the last check; 0 before the first
    mesh: Callable[[], Mesh]  # the mesh as it is now, in the world; costs nothing unless called


@dataclass
class Record:
    """The best mesh so far, and how the measured quality went."""

    vertices: Tensor
    triangles: Tensor
    colors: Tensor | None
    iou: float = 0.0
    history: list[dict[str, float]] = field(default_factory=list)


class Loop:
    """A fit under way: everything that changes while it runs, with `run_step` to take it on by one."""

    def __init__(self, scene: Scene, template: Mesh, colors: Tensor | None, settings: FitSettings, levels: int) -> None:
        self.scene, self.settings = scene, settings
        self.level_steps = settings.level_steps(levels)
        self.step = self.level = self.level_step = self.stale_checks = 0
        self.level_best = 0.0
        self.seconds = 0.0
        self.converged = False
        self._begin_level(template.vertices, template.triangles, colors)
        self.record = Record(self.vertices, self.triangles, self.colors)

    def _begin_level(self, vertices: Tensor, triangles: Tensor, colors: Tensor | None) -> None:
        """Set out from a mesh, with no momentum."""
        self.vertices, self.triangles, self.colors = vertices.detach(), triangles, colors
        self.level_best, self.stale_checks = 0.0, 0
        self.size = self.settings.level_size(self.level, tuple(self.scene.masks.shape[1:]))  # type: ignore[arg-type]
        self.masks, self.target_colors = self.scene.reduced(self.size)
        edges = Mesh(self.vertices, triangles).edges()
        self.descent = SmoothDescent(edges, self.vertices, self.settings.smoothness)
        self.color_descent = None if colors is None else SmoothDescent(edges, colors, self.settings.smoothness)

    @property
    def finished(self) -> bool:
        return self.level >= len(self.level_steps)

    def run_step(self) -> float:
        """One step: forward, loss, gradient, update; then, where it is time, a check. Returns the loss."""
        started = time.perf_counter()
        settings = self.settings
        progress = self.level_step / self.level_steps[self.level]
        views = settings.views(self.step, len(self.scene)).to(self.masks.device)
        # Not in place: the record and the callback's mesh may hold these very tensors.
        vertices = self.vertices.detach().requires_grad_()
        colors = None if self.colors is None else self.colors.detach().requires_grad_()
        data_loss = self._image_loss(vertices, colors, views, settings.sigma(progress, self.size))
        loss = data_loss + self._regularisers(vertices)
        if colors is None:
            (grad_vertices,) = torch.autograd.grad(loss, vertices)
        else:
            grad_vertices, grad_colors = torch.autograd.grad(loss, (vertices, colors))
        rate = settings.rate(progress)
        self.vertices = self.descent.step(vertices, grad_vertices, rate)
        if self.color_descent is not None and colors is not None:
            color_rate = settings.color_rate * rate / settings.learning_rate
            self.colors = self.color_descent.step(colors, grad_colors, color_rate).clamp(0, 1)
        self.step += 1
        self.level_step += 1
        level_ends = self.level_step >= self.level_steps[self.level]
        if level_ends or self.level_step % settings.check_every == 0:
            self._check(float(data_loss.detach()))
            if level_ends or self.converged:
                self._end_level()
        self.seconds += time.perf_counter() - started
        return float(data_loss.detach())

    def progress(self, loss: float) -> FitProgress:
        """What to tell a callback after a step."""
        history = self.record.history
        vertices, triangles, colors = self.vertices, self.triangles, self.colors
        return FitProgress(
            step=self.step,
            steps=sum(self.level_steps),
            level=min(self.level, len(self.level_steps) - 1),
            loss=loss,
            iou=history[-1]["iou"] if history else 0.0,
            mesh=lambda: Mesh(self.scene.to_world(vertices.detach()), triangles, vertex_colors=colors),
        )

    def _image_loss(self, vertices: Tensor, colors: Tensor | None, views: Tensor, sigma: float) -> Tensor:
        masks = self.masks[views]
        if colors is None or self.target_colors is None:
            silhouettes = self.scene.silhouettes(vertices, self.triangles, views, self.size, sigma)
            return losses.silhouette_iou(silhouettes, masks)
        silhouettes, images = self.scene.images(vertices, self.triangles, colors, views, self.size, sigma)
        # Per pixel of the object rather than of the image, or a small object would have no colour loss.
        difference = losses.l1(images, self.target_colors[views]) / masks.mean()
        return losses.silhouette_iou(silhouettes, masks) + self.settings.color_weight * difference

    def _regularisers(self, vertices: Tensor) -> Tensor:
        total = vertices.new_zeros(())
        if self.settings.laplacian_weight:
            total = total + self.settings.laplacian_weight * losses.laplacian(vertices, self.triangles)
        if self.settings.flatten_weight:
            total = total + self.settings.flatten_weight * losses.flatten(vertices, self.triangles)
        return total

    def _check(self, loss: float) -> None:
        """Measure all views, keep the best mesh, and see whether the level has converged."""
        iou = float(self.scene.ious(self.vertices, self.triangles, self.masks).mean())
        record = self.record
        record.history.append({"step": self.step, "level": self.level, "loss": loss, "iou": iou})
        # A finer level always wins over a coarser one: their images differ, and so would their measure.
        if iou > record.iou or len(self.vertices) > len(record.vertices):
            record.vertices, record.triangles, record.colors = self.vertices, self.triangles, self.colors
            record.iou = iou
        if iou > self.level_best + self.settings.tolerance:
            self.level_best, self.stale_checks = iou, 0
        else:
            self.stale_checks += 1
        self.converged = 0 < self.settings.patience <= self.stale_checks

    def best(self) -> Record:
        """The best mesh so far, the present one included, which no check may have seen yet."""
        iou, best_iou = (float(self.scene.ious(mesh.vertices, mesh.triangles).mean()) for mesh in (self, self.record))
        if iou <= best_iou:
            return self.record
        return replace(self.record, vertices=self.vertices, triangles=self.triangles, colors=self.colors, iou=iou)

    def _end_level(self) -> None:
        self.level += 1
        self.level_step = 0
        if self.finished:
            return
        self.converged = False
        self._begin_level(*_cut_in_four(self.vertices, self.triangles, self.colors))

    def state(self) -> dict[str, Any]:
        """What a checkpoint holds: tensors, numbers and lists alone."""
        names = ("step", "level", "level_step", "stale_checks", "level_best", "seconds", "converged")
        return {
            **{name: getattr(self, name) for name in names},
            **{name: getattr(self, name) for name in ("vertices", "triangles", "colors")},
            "descent": self.descent.state(),
            "color_descent": None if self.color_descent is None else self.color_descent.state(),
            "record": vars(self.record),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from what `state` gave."""
        device = self.vertices.device

        def here(value: Any) -> Any:
            return value.to(device) if isinstance(value, Tensor) else value

        self.level = state["level"]
        if not self.finished:
            self._begin_level(here(state["vertices"]), here(state["triangles"]), here(state["colors"]))
            self.descent.restore(state["descent"])
            if self.color_descent is not None:
                self.color_descent.restore(state["color_descent"])
        for name in ("step", "level_step", "stale_checks", "level_best", "seconds", "converged"):
            setattr(self, name, state[name])
        self.record = Record(**{name: here(value) for name, value in state["record"].items()})


def _cut_in_four(vertices: Tensor, triangles: Tensor, colors: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
    """Put a vertex in the middle of every edge; the old vertices keep their numbers."""
    edges = Mesh(vertices, triangles).edges()
    bound = len(vertices)
    keys = edges[:, 0] * bound + edges[:, 1]  # ascending, as the edges are

    def middle(a: Tensor, b: Tensor) -> Tensor:
        return bound + torch.searchsorted(keys, torch.minimum(a, b) * bound + torch.maximum(a, b))

    # A triangle that names a vertex twice has no area, and no edges in the list: leave it out.
    a, b, c = triangles.unbind(1)
    a, b, c = triangles[(a != b) & (b != c) & (c != a)].unbind(1)
    ab, bc, ca = middle(a, b), middle(b, c), middle(c, a)
    corners = ((a, ab, ca), (ab, b, bc), (ca, bc, c), (ab, bc, ca))
    quarters = torch.cat([torch.stack(three, dim=1) for three in corners])

    def refined(values: Tensor) -> Tensor:
        return torch.cat((values, values[edges].mean(dim=1)))

    return refined(vertices), quarters, None if colors is None else refined(colors)
