"""Fits that end early: few steps, Ctrl-C before the first check, Ctrl-C while a shader compiles."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageSequence
from torch import Tensor

import slangrast
from slangrast.camera import Camera
from slangrast.demo import bumpy_mesh, render_views, run_demo, views_around
from slangrast.fitting import FitProgress, FitSettings, fit
from slangrast.fitting.loop import Loop
from slangrast.fitting.pictures import Film, draw_mesh
from slangrast.fitting.scene import make_scene
from slangrast.mesh import icosphere
from slangrast.runtime import ShaderError
from slangrast.soft_rasterizer import soft_silhouette

VIEWS, SIZE = 6, 24


@pytest.fixture(scope="module")
def cameras() -> Camera:
    return views_around(VIEWS)


@pytest.fixture(scope="module")
def images(cameras: Camera) -> Tensor:
    return render_views(bumpy_mesh(3), cameras, SIZE)


@pytest.fixture
def ctrl_c() -> Iterator[None]:
    """SIGINT as in a terminal, also where the tests themselves run in the background."""
    previous = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, previous)


@pytest.mark.parametrize("steps, levels, expected", [(1, 2, [1]), (2, 3, [1, 1]), (3, 2, [2, 1]), (300, 2, [200, 100])])
def test_a_level_without_a_step_is_left_out(steps: int, levels: int, expected: list[int]) -> None:
    assert FitSettings(steps=steps).level_steps(levels) == expected


def test_one_step_is_enough(images: Tensor, cameras: Camera) -> None:
    result = fit(images, cameras, settings=FitSettings(steps=1))
    assert result.steps == 1
    assert len(result.mesh.vertices) == 642


def test_ctrl_c_before_the_first_check_keeps_the_steps_done(images: Tensor, cameras: Camera, ctrl_c: None) -> None:
    def stop(progress: FitProgress) -> None:
        if progress.step == 12:
            signal.raise_signal(signal.SIGINT)

    settings = FitSettings(levels=1, check_every=50, views_per_step=4)
    sphere = icosphere(2, 1.3)
    result = fit(images, cameras, template=sphere, settings=settings, on_progress=stop)
    assert result.interrupted
    assert result.history == []
    before = float(make_scene(images, cameras, False).ious(_local(images, cameras, sphere), sphere.triangles).mean())
    assert result.iou > before + 0.05


def _local(images: Tensor, cameras: Camera, mesh: slangrast.Mesh) -> Tensor:
    return make_scene(images, cameras, False).from_world(mesh.vertices)


def test_ctrl_c_keeps_an_earlier_mesh_that_is_better(images: Tensor, cameras: Camera, ctrl_c: None) -> None:
    def stop(progress: FitProgress) -> None:
        if progress.step == 11:
            signal.raise_signal(signal.SIGINT)

    # The rate grows, so that the steps after the check do harm.
    wild = FitSettings(levels=1, steps=14, check_every=6, views_per_step=4, learning_rate=0.1, final_learning_rate=3.0)
    result = fit(images, cameras, template=icosphere(2), settings=wild, on_progress=stop)
    assert result.steps == 11
    assert result.iou == pytest.approx(result.history[0]["iou"], abs=1e-4)


@pytest.mark.parametrize("asked", [True, False])
def test_a_compiler_ended_by_ctrl_c_is_not_an_error(
    images: Tensor, cameras: Camera, ctrl_c: None, monkeypatch: pytest.MonkeyPatch, asked: bool
) -> None:
    def compile_under_ctrl_c(loop: Loop) -> float:
        if asked:
            signal.raise_signal(signal.SIGINT)
        raise ShaderError("the C++ compiler ended by signal 2")

    monkeypatch.setattr(Loop, "run_step", compile_under_ctrl_c)
    with pytest.raises(KeyboardInterrupt if asked else ShaderError):
        fit(images, cameras, settings=FitSettings(steps=2))


@pytest.mark.slow
def test_ctrl_c_while_shaders_compile(images: Tensor, cameras: Camera, ctrl_c: None, tmp_path: Path) -> None:
    """The whole process group gets the signal, as from a terminal, compilers included."""
    torch.save((images, cameras.view, cameras.projection), tmp_path / "scene.pt")
    program = (
        "import sys, torch, slangrast as sr; from slangrast import cli\n"
        "images, view, projection = torch.load('scene.pt')\n"
        "def fit(options):\n"
        "    print('ready', flush=True)\n"
        "    return cli._report(sr.fit(images, sr.Camera(view, projection)), options.out)\n"
        "cli._demo = fit\n"
        "sys.exit(cli.main(['demo']))\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(slangrast.__file__).parents[1])}
    environment["SLANGRAST_CACHE"] = str(tmp_path / "cache")
    running = subprocess.Popen(
        [sys.executable, "-c", program], cwd=tmp_path, env=environment, text=True, start_new_session=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert running.stdout is not None
    assert running.stdout.readline() == "ready\n"
    try:
        with pytest.raises(subprocess.TimeoutExpired):  # it compiles for longer than that
            running.wait(timeout=0.7)
        os.killpg(running.pid, signal.SIGINT)
        _, said = running.communicate(timeout=60)
    finally:
        running.kill()
        running.communicate()
    # Whether a compiler was ended, and the fit with it, or the fit itself at its first step.
    assert running.returncode == 130 and said.startswith("slangrast: interrupted") and said.count("\n") == 1


def test_parallel_cameras_must_have_the_object_in_their_range(cameras: Camera) -> None:
    near = cameras.orthographic(height=3.0, near=1.0, far=2.0)  # the object is 4.2 away
    seen = cameras.orthographic(height=3.0)
    sphere = icosphere(2)
    masks = soft_silhouette(seen.project(sphere.vertices), sphere.triangles, (SIZE, SIZE), coverage="hard", depth="ndc")
    message = r"fit: cameras must have the object between their near and far planes, got it outside in view 0, 1, 2"
    with pytest.raises(ValueError, match=message):
        fit(masks.round(), near)


def test_the_demo_finds_the_shape_and_not_its_silhouettes_alone(tmp_path: Path) -> None:
    result = run_demo(tmp_path)
    assert result.iou > 0.99
    # Nearest vertices of the two meshes, some 0.05 apart. Where a dent has folded it is 0.3.
    assert torch.cdist(result.mesh.vertices, bumpy_mesh().vertices).amin(1).max() < 0.12


def test_the_target_does_not_flicker_in_a_film(images: Tensor, cameras: Camera, tmp_path: Path) -> None:
    film = Film(make_scene(images, cameras, True))
    wanted = []
    for radius in (0.5, 0.8, 1.1):
        film.add(slangrast.Mesh(icosphere(2, radius).vertices, icosphere(2).triangles, vertex_colors=_rainbow()))
        wanted.append(film._frames[-1])
    film.save(tmp_path / "film.gif")
    with Image.open(tmp_path / "film.gif") as film_file:
        frames = [np.asarray(frame.convert("RGB")) for frame in ImageSequence.Iterator(film_file)]
    assert len(frames) == 3
    middle = frames[0].shape[1] // 2
    for frame, drawn in zip(frames, wanted, strict=True):
        assert np.array_equal(frame[:, :middle], frames[0][:, :middle])
        assert np.abs(frame.astype(int) - drawn).mean() < 3
    assert not np.array_equal(frames[0][:, middle:], frames[2][:, middle:])


def _rainbow() -> Tensor:
    return 0.5 + 0.5 * icosphere(2).vertices


@pytest.mark.parametrize("size, expected", [((16, 24), (192, 288)), ((250, 300), (250, 300))])
def test_meshes_are_drawn_large_enough_to_be_seen(
    cameras: Camera, size: tuple[int, int], expected: tuple[int, int]
) -> None:
    masks = torch.zeros(VIEWS, *size)
    masks[:, size[0] // 4 : -size[0] // 4, size[1] // 4 : -size[1] // 4] = 1
    scene = make_scene(masks, cameras, False)
    assert draw_mesh(scene, icosphere(2), torch.tensor([0, 1])).shape == (2, *expected, 3)
