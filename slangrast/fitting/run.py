"""`fit`: from images and cameras to a mesh."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from slangrast.camera import Camera
from slangrast.fitting.checkpoint import fingerprint, load_checkpoint, save_checkpoint
from slangrast.fitting.interruption import Interruption
from slangrast.fitting.loop import FitProgress, Loop
from slangrast.fitting.scene import Scene, check_template, make_scene, sphere_radius
from slangrast.fitting.settings import FitSettings
from slangrast.mesh import Mesh, icosphere
from slangrast.topology import describe

_SPHERE_SUBDIVISIONS = 3  # 642 vertices
_SPHERE_LEVELS = 2  # and 2,562 at the end
_GREY = 0.5


@dataclass(frozen=True)
class FitResult:
    """What `fit` found.

    mesh: in world units, with vertex colours where colours were fitted.
    ious: [N] float, intersection over union of each view: its mask above one half, and the mesh drawn hard.
    history: what each check found: step, level, loss and mean iou.
    steps, seconds: taken in all, resumed runs included.
    converged: the last level ended because it no longer improved.
    interrupted: Ctrl-C ended the fit; the mesh is the best until then.
    """

    mesh: Mesh
    ious: Tensor
    history: list[dict[str, float]]
    steps: int
    seconds: float
    converged: bool
    interrupted: bool

    @property
    def iou(self) -> float:
        """The mean over all views."""
        return float(self.ious.mean())


def fit(
    images: Tensor,
    cameras: Camera,
    *,
    template: Mesh | None = None,
    with_colors: bool = False,
    settings: FitSettings | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    resume: bool = False,
    on_progress: Callable[[FitProgress], None] | None = None,
) -> FitResult:
    """Deform a mesh until it looks like an object in several images.

    Each step renders some views softly, compares silhouettes (1 - IoU, Liu et al., "Soft Rasterizer", 2019) and
    colours (mean absolute difference), adds the regularisers of `FitSettings`, and moves the vertices along the
    gradient, spread smoothly over the mesh (`SmoothDescent`). Every `check_every` steps all views are measured and the
    best mesh is kept; a level of detail ends when it no longer improves.

    Args:
        images: [N, H, W, 4] float RGBA in [0, 1], alpha the silhouette; or [N, H, W] masks. Row 0 is the top.
        cameras: the camera of each image, in world units.
        template: the mesh to start from, in world units, around the object. None: a sphere of 642 vertices around it,
            cut to 2,562 half-way.
        with_colors: fit a colour for each vertex too, from the images' RGB where alpha says that the object is.
        settings: how to go about it; None for the defaults.
        checkpoint: file to write the state to at each check, so that a run that was killed can go on.
        resume: go on from `checkpoint`. The result is the one that an uninterrupted run would have given, up to
            rounding: several threads add up gradients in any order, so that even two runs alike differ a little.
        on_progress: called after each step.

    Returns:
        A `FitResult`. After Ctrl-C it holds the best mesh so far, and `interrupted` is True.

    Raises:
        TypeError, ValueError: images, cameras, template or settings that do not fit, before any work starts.
        FileNotFoundError: `resume` without a checkpoint.
    """
    scene = make_scene(images, cameras, with_colors)
    settings = FitSettings() if settings is None else settings
    if not isinstance(settings, FitSettings):
        raise TypeError(f"fit: settings must be a FitSettings or None, got {describe(settings)}")
    start, colors, levels = _start(scene, template, with_colors, settings)
    if resume and checkpoint is None:
        raise ValueError("fit: resume must come with the checkpoint to go on from, got checkpoint=None")
    loop = Loop(scene, start, colors, settings, levels)
    problem = fingerprint(scene, start)
    path = None if checkpoint is None else Path(checkpoint)
    if path is not None and not path.parent.is_dir():
        raise ValueError(f"fit: checkpoint must be a file in an existing folder, got {str(path)!r}")
    if resume and path is not None:
        load_checkpoint(path, loop, problem)
    interrupted = _run(loop, path, problem, on_progress)
    return _result(loop, interrupted)


def _start(
    scene: Scene, template: Mesh | None, with_colors: bool, settings: FitSettings
) -> tuple[Mesh, Tensor | None, int]:
    """The mesh to start from in the object's unit, its colours, and the number of levels."""
    if template is None:
        mesh = icosphere(_SPHERE_SUBDIVISIONS, sphere_radius()).to(scene.masks.device)
        levels = settings.levels or _SPHERE_LEVELS
    else:
        if not isinstance(template, Mesh):
            raise TypeError(f"fit: template must be a Mesh or None, got {describe(template)}")
        template = template.to(scene.masks.device, scene.masks.dtype)
        check_template(scene, template)
        mesh = Mesh(scene.from_world(template.vertices), template.triangles, vertex_colors=template.vertex_colors)
        levels = settings.levels or 1
    if not with_colors:
        return mesh, None, levels
    colors = mesh.vertex_colors
    return mesh, torch.full_like(mesh.vertices, _GREY) if colors is None else colors[:, :3].clone(), levels


def _run(loop: Loop, path: Path | None, problem: str, on_progress: Callable[[FitProgress], None] | None) -> bool:
    """Step until the loop has finished or Ctrl-C asks to stop; True for the latter."""
    with Interruption() as interruption:
        while not loop.finished and not interruption.requested:
            checks = len(loop.record.history)
            try:
                loss = loop.run_step()
            except Exception:
                # Ctrl-C in a terminal ends the compilers under way as well: what they complain of is no fault.
                if interruption.requested:
                    raise KeyboardInterrupt from None
                raise
            if path is not None and len(loop.record.history) > checks:
                save_checkpoint(path, loop, problem)
            if on_progress is not None:
                on_progress(loop.progress(loss))
        if interruption.requested and path is not None:
            save_checkpoint(path, loop, problem)
        return interruption.requested


def _result(loop: Loop, interrupted: bool) -> FitResult:
    record, scene = loop.best() if interrupted else loop.record, loop.scene
    return FitResult(
        mesh=Mesh(scene.to_world(record.vertices), record.triangles, vertex_colors=record.colors),
        ious=scene.ious(record.vertices, record.triangles),
        history=list(record.history),
        steps=loop.step,
        seconds=loop.seconds,
        converged=loop.converged,
        interrupted=interrupted,
    )
