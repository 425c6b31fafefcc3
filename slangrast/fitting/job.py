"""A fit with everything around it that a command line wants: progress bar, checkpoint, pictures, files."""

from __future__ import annotations

import json
import platform
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor

from slangrast.camera import Camera
from slangrast.fitting.checkpoint import write_atomically
from slangrast.fitting.loop import FitProgress
from slangrast.fitting.pictures import Film, save_comparison
from slangrast.fitting.run import FitResult, fit
from slangrast.fitting.scene import check_template, make_scene
from slangrast.fitting.settings import FitSettings
from slangrast.mesh import Mesh, save_mesh

CHECKPOINT = "checkpoint.pt"
_FRAMES = 50


def make_folder(out: Path) -> None:
    """Create the folder for results, and see that it can be written, before any work is done for it."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        probe = out / ".slangrast-writable"
        probe.write_bytes(b"")
        probe.unlink()
    except OSError as error:
        raise ValueError(f"out: {out} must be a folder that can be written, got {error}") from None


def run_job(
    images: Tensor,
    cameras: Camera,
    out: Path,
    *,
    template: Mesh | None = None,
    with_colors: bool = False,
    settings: FitSettings | None = None,
    resume: bool = False,
) -> FitResult:
    """`fit`, leaving result.obj, result.png, progress.gif, metrics.json and checkpoint.pt in the folder `out`."""
    from tqdm import tqdm

    settings = settings or FitSettings()
    scene = make_scene(images, cameras, with_colors)
    if template is not None:
        check_template(scene, template)
    if resume and not (out / CHECKPOINT).is_file():
        raise FileNotFoundError(f"resume: {out / CHECKPOINT} does not exist: run without --resume first")
    make_folder(out)
    film = Film(scene)
    every = max(1, settings.steps // _FRAMES)
    with tqdm(total=settings.steps, unit="step", desc="fit") as bar:

        def show(progress: FitProgress) -> None:
            bar.update(progress.step - bar.n)
            bar.set_postfix(loss=f"{progress.loss:.4f}", iou=f"{progress.iou:.4f}")
            if progress.step % every == 0:
                film.add(progress.mesh())

        result = fit(
            images,
            cameras,
            template=template,
            with_colors=with_colors,
            settings=settings,
            checkpoint=out / CHECKPOINT,
            resume=resume,
            on_progress=show,
        )
    film.add(result.mesh)
    save_mesh(out / "result.obj", result.mesh)
    save_comparison(out / "result.png", scene, result.mesh, result.ious)
    film.save(out / "progress.gif")
    write_atomically(out / "metrics.json", (json.dumps(_metrics(result, settings), indent=1) + "\n").encode())
    return result


def _metrics(result: FitResult, settings: FitSettings) -> dict:
    return {
        "mean_iou": result.iou,
        "lowest_iou": float(result.ious.min()),
        "ious": [round(value, 5) for value in result.ious.tolist()],
        "steps": result.steps,
        "seconds": round(result.seconds, 2),
        "converged": result.converged,
        "interrupted": result.interrupted,
        "vertices": len(result.mesh.vertices),
        "triangles": len(result.mesh.triangles),
        "settings": asdict(settings),
        "history": result.history,
        "machine": {"processor": platform.machine(), "threads": torch.get_num_threads(), "torch": torch.__version__},
    }
