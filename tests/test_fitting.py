"""`fit`, its settings and its checkpoints, and what reads images and cameras for it."""

from __future__ import annotations

import dataclasses
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from slangrast.camera import Camera
from slangrast.demo import bumpy_mesh, render_views, views_around
from slangrast.fitting import FitProgress, FitResult, FitSettings, fit
from slangrast.fitting.descent import SmoothDescent
from slangrast.mesh import Mesh, icosphere

SIZE = 32
VIEWS = 8
QUICK = FitSettings(levels=1, steps=6, views_per_step=4, check_every=3)


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


def small_sphere(radius: float = 1.0) -> Mesh:
    return icosphere(2, radius)


def changed(settings: FitSettings, **values: Any) -> FitSettings:
    return dataclasses.replace(settings, **values)


@pytest.fixture
def one_thread() -> Iterator[None]:
    """No rounding that depends on which thread comes first."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def colors_of(result: FitResult) -> Tensor:
    return torch.zeros(0, 3) if result.mesh.vertex_colors is None else result.mesh.vertex_colors


def same_outcome(a: FitResult, b: FitResult) -> bool:
    """Alike up to what a few steps make of rounding in several threads, which is some 1e-6."""
    if a.mesh.vertices.shape != b.mesh.vertices.shape:
        return False
    near = torch.allclose(a.mesh.vertices, b.mesh.vertices, rtol=0, atol=1e-3)
    near = near and torch.allclose(colors_of(a), colors_of(b), rtol=0, atol=1e-3)
    return near and [entry["step"] for entry in a.history] == [entry["step"] for entry in b.history]


# What a fit finds


def test_a_fit_finds_the_shape(images: Tensor, cameras: Camera) -> None:
    settings = FitSettings(levels=1, steps=40, views_per_step=4, check_every=10)
    result = fit(images, cameras, settings=settings)
    start = fit(images, cameras, settings=changed(settings, steps=1, learning_rate=1e-9, final_learning_rate=1e-9))
    assert start.iou < 0.85
    assert result.iou > 0.95
    assert result.ious.shape == (VIEWS,)
    assert result.iou == pytest.approx(float(result.ious.mean()))
    assert result.steps == 40
    assert result.seconds > 0
    assert not result.interrupted
    assert [entry["step"] for entry in result.history] == [10, 20, 30, 40]
    assert result.mesh.vertex_colors is None
    # In world units: as far as the object reaches, which is not a unit sphere.
    expected = bumpy_mesh(3).vertices.abs().amax(0)
    torch.testing.assert_close(result.mesh.vertices.abs().amax(0), expected, atol=0.15, rtol=0)


def test_masks_alone_are_enough(images: Tensor, cameras: Camera) -> None:
    from_masks = fit(images[..., 3], cameras, template=small_sphere(), settings=QUICK)
    assert same_outcome(from_masks, fit(images, cameras, template=small_sphere(), settings=QUICK))


def test_a_fit_finds_colours(images: Tensor, cameras: Camera) -> None:
    settings = FitSettings(levels=1, steps=40, views_per_step=4, check_every=20)
    result = fit(images, cameras, with_colors=True, settings=settings)
    colors = result.mesh.vertex_colors
    assert colors is not None and colors.shape == result.mesh.vertices.shape
    assert float(colors.min()) >= 0 and float(colors.max()) <= 1
    assert result.iou > 0.93
    drawn = render_views(result.mesh, cameras, SIZE)
    both = (drawn[..., 3] > 0.5) & (images[..., 3] > 0.5)
    error = (drawn[..., :3] - images[..., :3])[both].abs().mean()
    from_grey = (0.5 - images[..., :3])[both].abs().mean()
    assert error < 0.5 * from_grey


def test_a_template_keeps_its_triangles_and_colours(images: Tensor, cameras: Camera) -> None:
    sphere = small_sphere()
    red = Mesh(sphere.vertices, sphere.triangles, vertex_colors=torch.tensor([[1.0, 0.0, 0.0]]).expand(162, 3))
    slow = changed(QUICK, color_rate=1e-4)
    result = fit(images, cameras, template=red, with_colors=True, settings=slow)
    assert torch.equal(result.mesh.triangles, sphere.triangles)
    assert result.mesh.vertex_colors is not None
    torch.testing.assert_close(result.mesh.vertex_colors, red.vertex_colors, atol=0.01, rtol=0)


def test_the_world_may_have_any_unit_and_origin(images: Tensor, cameras: Camera) -> None:
    offset, scale = torch.tensor([300.0, -20.0, 50.0]), 100.0
    move = torch.eye(4)
    move[:3, :3] /= scale
    move[:3, 3] = -offset / scale
    moved = fit(images, Camera(cameras.view @ move, cameras.projection), settings=changed(QUICK, steps=20))
    here = fit(images, cameras, settings=changed(QUICK, steps=20))
    assert moved.iou == pytest.approx(here.iou, abs=0.01)
    torch.testing.assert_close((moved.mesh.vertices - offset) / scale, here.mesh.vertices, atol=0.03, rtol=0)


def test_orthographic_cameras(cameras: Camera) -> None:
    parallel = cameras.orthographic(height=3.0)
    images = render_views_of_parallel(bumpy_mesh(3), parallel)
    result = fit(images, parallel, settings=FitSettings(levels=1, steps=30, views_per_step=4))
    assert result.iou > 0.93


def render_views_of_parallel(mesh: Mesh, cameras: Camera) -> Tensor:
    """Masks; `render_views` is for perspective cameras."""
    from slangrast.soft_rasterizer import soft_silhouette

    clip = cameras.project(mesh.vertices)
    return soft_silhouette(clip, mesh.triangles, (SIZE, SIZE), coverage="hard", depth="ndc").round()


def test_levels_refine_the_mesh(images: Tensor, cameras: Camera) -> None:
    seen: list[FitProgress] = []
    settings = changed(QUICK, levels=2, coarse_size=16)
    result = fit(images, cameras, template=small_sphere(), settings=settings, on_progress=seen.append)
    assert len(result.mesh.triangles) == 4 * len(small_sphere().triangles)
    assert len(result.mesh.vertices) == 642
    assert [progress.step for progress in seen] == [1, 2, 3, 4, 5, 6]
    assert {progress.steps for progress in seen} == {6}
    assert seen[0].level == 0 and seen[-1].level == 1
    assert seen[-1].iou == result.history[-1]["iou"] > 0
    assert seen[-1].mesh().triangles.shape == result.mesh.triangles.shape


def test_the_same_seed_gives_the_same_mesh(images: Tensor, cameras: Camera, one_thread: None) -> None:
    settings = changed(QUICK, steps=30)
    first, second = (fit(images, cameras, template=small_sphere(), settings=settings) for _ in range(2))
    assert torch.equal(first.mesh.vertices, second.mesh.vertices)
    assert first.history == second.history


def test_nothing_of_a_result_drags_a_graph_along(images: Tensor, cameras: Camera) -> None:
    seen: list[Mesh] = []
    early = changed(QUICK, learning_rate=0.3, final_learning_rate=3.0)  # the best mesh is not the last
    result = fit(images, cameras, template=small_sphere(), with_colors=True, settings=early,
                 on_progress=lambda progress: seen.append(progress.mesh()))  # fmt: skip
    assert seen
    for mesh in (result.mesh, *seen):
        assert not mesh.vertices.requires_grad
        assert mesh.vertex_colors is not None and not mesh.vertex_colors.requires_grad


def test_a_fit_ends_when_it_no_longer_improves(images: Tensor, cameras: Camera) -> None:
    settings = changed(QUICK, steps=200, check_every=5, patience=2, tolerance=0.2)
    result = fit(images, cameras, template=small_sphere(), settings=settings)
    assert result.converged
    assert result.steps == 15  # the first check gains, the next two do not
    patient = fit(images, cameras, template=small_sphere(), settings=changed(settings, steps=16, patience=0))
    assert patient.steps == 16
    assert not patient.converged


def test_a_result_is_the_best_mesh_checked_not_the_last(images: Tensor, cameras: Camera) -> None:
    wild = changed(QUICK, steps=12, check_every=1, learning_rate=0.3, final_learning_rate=0.9)
    result = fit(images, cameras, template=small_sphere(), settings=wild)
    found = [entry["iou"] for entry in result.history]
    assert found[-1] < max(found) - 0.01
    assert result.iou == pytest.approx(max(found), abs=1e-4)


@pytest.mark.parametrize(
    "name, value",
    [
        ("steps", 3),
        ("levels", 2),
        ("views_per_step", 2),
        ("learning_rate", 0.1),
        ("final_learning_rate", 0.1),
        ("smoothness", 5.0),
        ("softness", 1.0),
        ("final_softness", 0.5),
        ("laplacian_weight", 1.0),
        ("flatten_weight", 0.1),
        ("coarse_size", 16),
        ("most_pixels", 16),
        ("check_every", 2),
        ("patience", 1),
        ("tolerance", 2.0),
        ("seed", 1),
    ],
)
def test_every_setting_changes_the_result(images: Tensor, cameras: Camera, name: str, value: float) -> None:
    base = changed(QUICK, patience=2, **({"tolerance": 1.0} if name == "patience" else {}))
    # Two checks before the end, so that patience=2 has something to lose to a tolerance out of reach.
    base = changed(base, steps=8)
    a, b = (fit(images, cameras, template=small_sphere(), settings=s) for s in (base, changed(base, **{name: value})))
    assert not same_outcome(a, b)


@pytest.mark.parametrize("name, value", [("color_weight", 5.0), ("color_rate", 0.01)])
def test_every_setting_of_colours_changes_the_result(images: Tensor, cameras: Camera, name: str, value: float) -> None:
    kinds = QUICK, changed(QUICK, **{name: value})
    a, b = (fit(images, cameras, template=small_sphere(), with_colors=True, settings=s) for s in kinds)
    assert (colors_of(a) - colors_of(b)).abs().max() > 1e-3
    assert fit(images, cameras, template=small_sphere(), settings=kinds[1]).mesh.vertex_colors is None


# Stopping and going on


@pytest.mark.parametrize("with_colors", [False, True])
def test_a_resumed_fit_is_the_one_that_was_never_stopped(
    images: Tensor, cameras: Camera, tmp_path: Path, ctrl_c: None, one_thread: None, with_colors: bool
) -> None:
    arguments: dict[str, Any] = {"template": small_sphere(), "with_colors": with_colors}
    arguments["settings"] = changed(QUICK, steps=12, levels=2, coarse_size=16)
    whole = fit(images, cameras, **arguments)
    stop_at = iter((2, 9))  # one in each level, neither at a check

    for steps in stop_at:

        def stop(progress: FitProgress, steps: int = steps) -> None:
            if progress.step == steps:
                os.kill(os.getpid(), signal.SIGINT)

        path = tmp_path / "checkpoint.pt"
        part = fit(images, cameras, checkpoint=path, resume=path.exists(), on_progress=stop, **arguments)
        assert part.interrupted
        assert part.steps == steps
    rest = fit(images, cameras, checkpoint=path, resume=True, **arguments)
    assert not rest.interrupted
    assert rest.steps == whole.steps == 12
    torch.testing.assert_close(rest.mesh.vertices, whole.mesh.vertices, atol=1e-5, rtol=0)
    torch.testing.assert_close(colors_of(rest), colors_of(whole), atol=1e-5, rtol=0)
    assert rest.history == whole.history
    again = fit(images, cameras, checkpoint=path, resume=True, **arguments)
    assert again.steps == 12
    assert torch.equal(again.mesh.vertices, rest.mesh.vertices)


def test_ctrl_c_twice_ends_at_once(images: Tensor, cameras: Camera, ctrl_c: None) -> None:
    def stop(progress: FitProgress) -> None:
        for _ in range(2):
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        fit(images, cameras, template=small_sphere(), settings=QUICK, on_progress=stop)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.fixture
def finished(images: Tensor, cameras: Camera, tmp_path: Path) -> Path:
    path = tmp_path / "checkpoint.pt"
    fit(images, cameras, template=small_sphere(), settings=changed(QUICK, steps=1), checkpoint=path)
    assert os.listdir(tmp_path) == ["checkpoint.pt"]
    return path


def test_checkpoints_that_do_not_fit_are_refused(images: Tensor, cameras: Camera, finished: Path) -> None:
    arguments: dict[str, Any] = {"template": small_sphere(), "checkpoint": finished, "resume": True}
    one = changed(QUICK, steps=1)
    assert fit(images, cameras, settings=one, **arguments).steps == 1
    with pytest.raises(ValueError, match=r"fit: checkpoint must be of the same settings, got one with steps=1, seed=0"):
        fit(images, cameras, settings=changed(QUICK, seed=3), **arguments)
    others = r"fit: checkpoint must be of the same images, cameras and template"
    with pytest.raises(ValueError, match=others):
        fit(images.flip(0), cameras, settings=one, **arguments)
    with pytest.raises(ValueError, match=others):
        fit(images, cameras[torch.arange(VIEWS).flip(0)], settings=one, **arguments)
    with pytest.raises(ValueError, match=others):
        fit(images, cameras, settings=one, **{**arguments, "template": small_sphere(0.9)})


@pytest.mark.parametrize("damage", ["cut", "text", "empty", "other"])
def test_damaged_checkpoints_are_refused(images: Tensor, cameras: Camera, finished: Path, damage: str) -> None:
    if damage == "other":
        torch.save({"weights": torch.zeros(3)}, finished)
    else:
        data = finished.read_bytes()
        finished.write_bytes({"cut": data[: len(data) // 2], "text": b"not a checkpoint", "empty": b""}[damage])
    with pytest.raises(ValueError, match=r"fit: checkpoint must be a file that fit wrote, got .*unreadable"):
        fit(images, cameras, checkpoint=finished, resume=True)


def test_checkpoints_of_another_version_are_refused(images: Tensor, cameras: Camera, finished: Path) -> None:
    torch.save({"format": "slangrast fit 0"}, finished)
    with pytest.raises(ValueError, match="fit: checkpoint must be of this version of slangrast, got 'slangrast fit 0'"):
        fit(images, cameras, checkpoint=finished, resume=True)


def test_a_checkpoint_must_exist_to_resume(images: Tensor, cameras: Camera, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="fit: checkpoint must be an existing file to resume from"):
        fit(images, cameras, checkpoint=tmp_path / "none.pt", resume=True)
    with pytest.raises(ValueError, match="fit: resume must come with the checkpoint to go on from"):
        fit(images, cameras, resume=True)
    with pytest.raises(ValueError, match="fit: checkpoint must be a file in an existing folder"):
        fit(images, cameras, checkpoint=tmp_path / "none" / "checkpoint.pt")


# What is refused


@pytest.mark.parametrize(
    "name, value, error, message",
    [
        ("steps", 0, ValueError, "FitSettings: steps must be at least 1, got 0"),
        ("steps", 2.5, TypeError, "FitSettings: steps must be a whole number, got 2.5"),
        ("steps", True, TypeError, "FitSettings: steps must be a whole number, got True"),
        ("levels", 0, ValueError, "FitSettings: levels must be at least 1, got 0"),
        ("views_per_step", 0, ValueError, "FitSettings: views_per_step must be at least 1, got 0"),
        ("check_every", 0, ValueError, "FitSettings: check_every must be at least 1, got 0"),
        ("coarse_size", 0, ValueError, "FitSettings: coarse_size must be at least 1, got 0"),
        ("most_pixels", 0, ValueError, "FitSettings: most_pixels must be at least 1, got 0"),
        ("patience", -1, ValueError, "FitSettings: patience must be at least 0, got -1"),
        ("seed", -1, ValueError, "FitSettings: seed must be at least 0, got -1"),
        ("learning_rate", 0.0, ValueError, "FitSettings: learning_rate must be above 0 and finite, got 0.0"),
        ("final_learning_rate", 0.0, ValueError, "FitSettings: final_learning_rate must be above 0"),
        ("softness", float("inf"), ValueError, "FitSettings: softness must be above 0 and finite, got inf"),
        ("final_softness", 0.0, ValueError, "FitSettings: final_softness must be above 0"),
        ("color_rate", 0.0, ValueError, "FitSettings: color_rate must be above 0"),
        ("smoothness", -1.0, ValueError, "FitSettings: smoothness must be at least 0 and finite, got -1.0"),
        ("laplacian_weight", float("nan"), ValueError, "FitSettings: laplacian_weight must be at least 0 and finite"),
        ("tolerance", "small", TypeError, "FitSettings: tolerance must be a number, got 'small'"),
        ("color_weight", True, TypeError, "FitSettings: color_weight must be a number, got True"),
    ],
)
def test_settings_out_of_range(name: str, value: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error) as raised:
        FitSettings(**{name: value})
    assert str(raised.value).startswith(message)


def with_pixel(images: Tensor, view: int, value: float) -> Tensor:
    images = images.clone()
    images[view, 3, 4, 1] = value
    return images


def with_silhouette(images: Tensor, views: int | slice, value: float) -> Tensor:
    images = images.clone()
    images[views, ..., 3] = value
    return images


REFUSED_IMAGES = {
    "no tensor": (lambda i: i.numpy(), TypeError, r"images must be \[N, H, W, 4\] RGBA or .*, got ndarray"),
    "integers": (lambda i: (i * 255).byte(), TypeError, r"images must be .*, got \[8, 32, 32, 4\] uint8"),
    "RGB": (lambda i: i[..., :3], ValueError, r"images must be .*, got \[8, 32, 32, 3\] float32"),
    "one image": (lambda i: i[0, ..., 3], ValueError, r"images must be .*, got \[32, 32\] float32"),
    "none": (lambda i: i[:0], ValueError, r"images must be .*, got \[0, 32, 32, 4\] float32"),
    "NaN": (lambda i: with_pixel(i, 2, float("nan")), ValueError, r"images must be finite and .* in view 2$"),
    "too bright": (lambda i: with_pixel(i, 5, 1.5), ValueError, r"images must be finite and in \[0, 1\].* in view 5$"),
    "0 to 255": (lambda i: i * 255, ValueError, r"in \[0, 1\], got other values in view 0, 1, 2, 3, 4 and 3 more$"),
    "one empty": (lambda i: with_silhouette(i, 6, 0.4), ValueError, r"got an empty silhouette in view 6"),
    "all empty": (lambda i: with_silhouette(i, slice(None), 0), ValueError, r"got 8 empty silhouettes"),
    "all full": (lambda i: with_silhouette(i, slice(None), 1), ValueError, r"images must show where the object ends"),
    "too few": (lambda i: i[:7], ValueError, r"cameras must be one for each of the 7 images, got 8$"),
}


@pytest.mark.parametrize("case", REFUSED_IMAGES)
def test_images_that_are_refused(images: Tensor, cameras: Camera, case: str) -> None:
    change, error, message = REFUSED_IMAGES[case]
    with pytest.raises(error, match="^fit: .*" + message):
        fit(change(images), cameras)


def test_colours_need_rgb(images: Tensor, cameras: Camera) -> None:
    with pytest.raises(ValueError, match=r"fit: images must be \[N, H, W, 4\] RGBA, float in \[0, 1\], got"):
        fit(images[..., 3], cameras, with_colors=True)


def test_cameras_that_are_refused(images: Tensor, cameras: Camera) -> None:
    with pytest.raises(TypeError, match=r"fit: cameras must be a Camera of 8 views, got \[8, 4, 4\] float32"):
        fit(images, cameras.view)  # type: ignore[arg-type]
    view = cameras.view.clone()
    view[3, 0, 0] = float("nan")
    with pytest.raises(ValueError, match="fit: cameras must be finite, got NaN or inf in view 3"):
        fit(images, Camera(view, cameras.projection))
    turned = torch.diag(torch.tensor([-1.0, 1.0, -1.0, 1.0])) @ cameras.view
    with pytest.raises(ValueError, match="fit: cameras must look at the object, got it behind the eye in view 0, 1"):
        fit(images, Camera(turned, cameras.projection))
    mixed = cameras.projection.clone()
    mixed[1] = cameras.orthographic().projection[1]
    with pytest.raises(ValueError, match="fit: cameras must be all perspective or all orthographic, got both"):
        fit(images, Camera(cameras.view, mixed))


def test_templates_and_settings_that_are_refused(images: Tensor, cameras: Camera) -> None:
    with pytest.raises(TypeError, match="fit: template must be a Mesh or None, got str"):
        fit(images, cameras, template="sphere.obj")  # type: ignore[arg-type]
    sphere = small_sphere()
    with pytest.raises(ValueError, match=r"fit: template must overlap .* with a radius of 1\.\d"):
        fit(images, cameras, template=Mesh(sphere.vertices + 100, sphere.triangles))
    with pytest.raises(ValueError, match="fit: template must have finite vertices, got NaN or inf"):
        fit(images, cameras, template=Mesh(sphere.vertices / 0, sphere.triangles))
    with pytest.raises(TypeError, match="fit: settings must be a FitSettings or None, got dict"):
        fit(images, cameras, settings={"steps": 3})  # type: ignore[arg-type]


# The step


@pytest.mark.parametrize("smoothness", [0.0, 1.0, 20.0])
def test_smoothing_solves_the_linear_system(smoothness: float) -> None:
    mesh = small_sphere()
    edges, count = mesh.edges(), len(mesh.vertices)
    adjacency = torch.zeros(count, count, dtype=torch.float64)
    adjacency[edges[:, 0], edges[:, 1]] = adjacency[edges[:, 1], edges[:, 0]] = 1
    system = torch.eye(count, dtype=torch.float64) + smoothness * (adjacency.sum(1).diag() - adjacency)
    right = torch.randn(count, 3)
    expected = torch.linalg.solve(system, right.double())
    found = SmoothDescent(edges, right, smoothness).smooth(right)
    assert (found - expected).norm() < 1e-3 * expected.norm()


def test_smoothing_takes_any_layout_and_leaves_its_argument_alone() -> None:
    mesh = small_sphere()
    right = torch.randn(3, len(mesh.vertices)).T
    kept = right.clone()
    descent = SmoothDescent(mesh.edges(), right, 1.0)
    assert torch.equal(descent.smooth(right), descent.smooth(right.contiguous()))
    assert torch.equal(right, kept)


def test_a_vertex_without_edges_is_not_smoothed() -> None:
    right = torch.tensor([[1.0], [2.0], [5.0]])
    found = SmoothDescent(torch.tensor([[0, 2]]), right, 1.0).smooth(right)
    torch.testing.assert_close(found, torch.tensor([[7 / 3], [2.0], [11 / 3]]), rtol=1e-3, atol=0)


def test_a_step_moves_the_fastest_vertex_by_the_rate() -> None:
    mesh = small_sphere()
    gradient = torch.randn_like(mesh.vertices)
    moved = SmoothDescent(mesh.edges(), mesh.vertices, 0.0).step(mesh.vertices, gradient, 0.1)
    torch.testing.assert_close(moved, mesh.vertices - 0.1 * gradient / gradient.abs().max())
    still = SmoothDescent(mesh.edges(), mesh.vertices, 1.0).step(mesh.vertices, 0 * gradient, 0.1)
    assert torch.equal(still, mesh.vertices)


def test_a_gradient_that_overflowed_is_left_out() -> None:
    mesh = small_sphere()
    gradient = torch.ones_like(mesh.vertices)
    gradient[0, 0], gradient[1, 1] = float("nan"), float("inf")
    moved = SmoothDescent(mesh.edges(), mesh.vertices, 1.0).step(mesh.vertices, gradient, 0.1)
    assert torch.isfinite(moved).all()
    assert not torch.equal(moved, mesh.vertices)
