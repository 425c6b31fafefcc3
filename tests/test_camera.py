"""Cameras: conventions with single points, poses and lenses in closed form, gradients of every parameter."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck

from slangrast.camera import Camera

DOUBLE = torch.float64
CAMERAS = Path(__file__).parents[2] / "shared" / "data" / "deform" / "camera.npy"


def ndc(camera: Camera, point) -> Tensor:
    """[N, 3] of one world point."""
    clip = camera.project(torch.tensor([point], dtype=camera.view.dtype))[:, 0]
    return clip[:, :3] / clip[:, 3:]


def pixels(camera: Camera, points: Tensor, resolution: tuple[int, int]) -> Tensor:
    """[N, V, 2] (x, y) in pixels, y down, pixel centres at +0.5."""
    clip = camera.project(points)
    height, width = resolution
    x, y = clip[..., 0] / clip[..., 3], clip[..., 1] / clip[..., 3]
    return torch.stack(((x + 1) / 2 * width, (1 - y) / 2 * height), dim=-1)


def orbit_eye(distance: float, elevation: float, azimuth: float) -> list[float]:
    el, az = math.radians(elevation), math.radians(azimuth)
    return [
        distance * math.cos(el) * math.sin(az),
        distance * math.sin(el),
        -distance * math.cos(el) * math.cos(az),
    ]


# Conventions


def test_a_point_above_the_target_is_in_the_upper_rows() -> None:
    camera = Camera.look_at((0.0, 0.0, 5.0))
    assert ndc(camera, (0.0, 0.5, 0.0))[0, 1] > 0.1
    assert pixels(camera, torch.tensor([[0.0, 0.5, 0.0]]), (37, 53))[0, 0, 1] < 37 / 2


def test_a_point_to_the_right_is_in_the_right_columns() -> None:
    # From +z looking along -z, +x is on the right: a right-handed world.
    assert ndc(Camera.look_at((0.0, 0.0, 5.0)), (0.5, 0.0, 0.0))[0, 0] > 0.1
    assert ndc(Camera.look_at((0.0, 0.0, -5.0)), (0.5, 0.0, 0.0))[0, 0] < -0.1


def test_nearer_is_smaller_and_w_is_the_distance_along_the_axis() -> None:
    camera = Camera.look_at((0.0, 0.0, 5.0), near=2.0, far=9.0)
    clip = camera.project(torch.tensor([[0.3, 0.2, 3.0], [0.3, 0.2, 0.0], [0.3, 0.2, -4.0]]))[0]
    torch.testing.assert_close(clip[:, 3], torch.tensor([2.0, 5.0, 9.0]))
    depth = clip[:, 2] / clip[:, 3]
    torch.testing.assert_close(depth[[0, 2]], torch.tensor([-1.0, 1.0]))
    assert depth[0] < depth[1] < depth[2]


def test_the_field_of_view_is_vertical_whatever_the_aspect() -> None:
    for aspect in (0.5, 1.0, 2.0):
        camera = Camera.look_at((0.0, 0.0, 4.0), fov_degrees=60.0, aspect=aspect)
        half = 4 * math.tan(math.radians(30))
        torch.testing.assert_close(ndc(camera, (0.0, half, 0.0))[0, 1], torch.tensor(1.0))
        torch.testing.assert_close(ndc(camera, (half * aspect, 0.0, 0.0))[0, 0], torch.tensor(1.0))


def test_orthographic_shows_its_height_at_every_distance() -> None:
    camera = Camera.look_at((0.0, 0.0, 5.0)).orthographic(height=3.0, aspect=2.0, near=-1.0, far=11.0)
    for z in (4.0, 0.0):
        torch.testing.assert_close(ndc(camera, (3.0, 1.5, z))[0, :2], torch.tensor([1.0, 1.0]))
    assert ndc(camera, (0.0, 0.0, 6.0))[0, 2].item() == pytest.approx(-1)
    assert ndc(camera, (0.0, 0.0, -6.0))[0, 2].item() == pytest.approx(1)
    assert camera.project(torch.zeros(1, 3))[0, 0, 3] == 1


# Poses


@pytest.mark.parametrize(("elevation", "azimuth"), [(0, 0), (30, 0), (-60, 75), (10, 200), (89.9, -30)])
def test_orbit_is_look_at_from_its_formula(elevation: float, azimuth: float) -> None:
    expected = torch.tensor(orbit_eye(2.732, elevation, azimuth), dtype=DOUBLE)
    camera = Camera.orbit(torch.tensor(2.732, dtype=DOUBLE), elevation, azimuth)
    torch.testing.assert_close(camera.eye[0], expected)
    torch.testing.assert_close(camera.matrix, Camera.look_at(expected).matrix, atol=1e-9, rtol=1e-9)


def test_orbit_moves_with_its_target() -> None:
    moved = Camera.orbit(2.0, 20.0, 40.0, target=(1.0, 2.0, 3.0))
    torch.testing.assert_close(ndc(moved, (1.0, 2.0, 3.0))[0, :2], torch.zeros(2))
    torch.testing.assert_close(moved.eye - Camera.orbit(2.0, 20.0, 40.0).eye, torch.tensor([[1.0, 2.0, 3.0]]))


@pytest.mark.parametrize("pole", [90.0, -90.0])
def test_orbit_is_smooth_over_the_poles(pole: float) -> None:
    elevation = torch.tensor([pole - 1e-4, pole, pole + 1e-4], dtype=DOUBLE)
    views = Camera.orbit(3.0, elevation, 35.0).view
    torch.testing.assert_close(views[1], (views[0] + views[2]) / 2, atol=1e-9, rtol=0)
    rotation = views[1, :3, :3]
    torch.testing.assert_close(rotation @ rotation.mT, torch.eye(3, dtype=DOUBLE))


def test_a_handed_view_is_mirrored_left_to_right() -> None:
    points = torch.tensor([[0.1, 0.2, 0.3], [-0.3, 0.1, 0.2]])
    mirror = torch.tensor([-1.0, 1.0, 1.0, 1.0])
    for make in (
        lambda **k: Camera.orbit(3.0, 20.0, 50.0, **k),
        lambda **k: Camera.look_at((1.0, 2.0, 3.0), **k),
    ):
        right, left = make(handedness="right"), make(handedness="left")
        torch.testing.assert_close(left.project(points), right.project(points) * mirror)
        torch.testing.assert_close(left.eye, right.eye)
        assert torch.linalg.det(right.view)[0] == pytest.approx(1)
        assert torch.linalg.det(left.view)[0] == pytest.approx(-1)


def test_up_turns_the_image() -> None:
    camera = Camera.look_at((0.0, 0.0, 5.0), up=(2.0, 0.0, 0.0))
    assert ndc(camera, (0.5, 0.0, 0.0))[0, 1] > 0.1


@pytest.mark.parametrize("up", [(0.0, 1.0, 0.0), (0.0, -3.0, 0.0), (0.0, 0.0, 0.0)])
def test_up_along_the_view_axis_is_replaced(up) -> None:
    eye = torch.tensor([0.0, 4.0, 0.0], requires_grad=True)
    camera = Camera.look_at(eye, up=up)
    rotation = camera.view[0, :3, :3]
    torch.testing.assert_close(rotation @ rotation.mT, torch.eye(3))
    torch.testing.assert_close(ndc(camera, (0.0, 0.0, 0.0))[0, :2], torch.zeros(2))
    camera.matrix.square().sum().backward()
    assert eye.grad is not None and torch.isfinite(eye.grad).all()


def test_target_moves_the_centre_of_the_image() -> None:
    camera = Camera.look_at((0.0, 0.0, 5.0), target=(1.0, 0.5, 0.0))
    torch.testing.assert_close(ndc(camera, (1.0, 0.5, 0.0))[0, :2], torch.zeros(2))


# Calibrated cameras


def calibrated(seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    rotation, _ = torch.linalg.qr(torch.randn(3, 3, generator=generator, dtype=DOUBLE))
    rotation = rotation * torch.linalg.det(rotation)
    intrinsics = torch.tensor([[80.0, 1.5, 25.0], [0.0, 90.0, 17.5], [0.0, 0.0, 1.0]], dtype=DOUBLE)
    return intrinsics, rotation, torch.tensor([0.1, -0.2, 4.0], dtype=DOUBLE)


@pytest.mark.parametrize("pixel_center", [0.0, 0.5])
def test_from_opencv_lands_on_the_same_pixel(pixel_center: float) -> None:
    K, R, t = calibrated()
    points = torch.randn(20, 3, generator=torch.Generator().manual_seed(1), dtype=DOUBLE)
    camera = Camera.from_opencv(K, R, t, (37, 53), near=0.5, far=20.0, pixel_center=pixel_center)
    in_camera = points @ R.T + t
    expected = in_camera @ K.T
    expected = expected[:, :2] / expected[:, 2:] + (0.5 - pixel_center)
    torch.testing.assert_close(pixels(camera, points, (37, 53))[0], expected)
    clip = camera.project(points)[0]
    torch.testing.assert_close(clip[:, 3], in_camera[:, 2])
    torch.testing.assert_close(camera.eye[0], -R.T @ t)
    at_near = R.T @ (torch.tensor([0.0, 0.0, 0.5], dtype=DOUBLE) - t)
    assert ndc(camera, at_near.tolist())[0, 2].item() == pytest.approx(-1)


def test_from_opencv_top_left_pixel_centre() -> None:
    K = [[50.0, 0.0, 0.0], [0.0, 50.0, 0.0], [0.0, 0.0, 1.0]]
    camera = Camera.from_opencv(K, np.eye(3), (0.0, 0.0, 0.0), (10, 20))
    # Straight ahead is pixel (0, 0) of this camera: its centre is half a pixel from the upper left corner.
    torch.testing.assert_close(ndc(camera, (0.0, 0.0, 5.0))[0, :2], torch.tensor([-0.95, 0.9]))


def test_from_opencv_agrees_with_look_at() -> None:
    eye, focal = torch.tensor([1.0, 2.0, 3.0], dtype=DOUBLE), 40 / math.tan(math.radians(20))
    camera = Camera.look_at(eye, fov_degrees=40.0, aspect=1.5)
    turn = torch.tensor([1.0, -1.0, -1.0], dtype=DOUBLE)[:, None] * camera.view[0, :3]
    K = torch.tensor([[focal, 0.0, 59.5], [0.0, focal, 39.5], [0.0, 0.0, 1.0]], dtype=DOUBLE)
    other = Camera.from_opencv(K, turn[:, :3], turn[:, 3], (80, 120))
    torch.testing.assert_close(other.matrix, camera.matrix)


# Gradients


def project(camera: Camera) -> Tensor:
    points = torch.randn(4, 3, generator=torch.Generator().manual_seed(2), dtype=DOUBLE)
    return camera.project(points)


def leaf(*values: float) -> Tensor:
    return torch.tensor(values if len(values) > 1 else values[0], dtype=DOUBLE, requires_grad=True)


def test_look_at_gradients() -> None:
    inputs = (
        leaf(1, 2, 3),
        leaf(0.1, 0.2, -0.3),
        leaf(0.1, 1, 0.2),
        leaf(40),
        leaf(1.3),
        leaf(0.5),
        leaf(20),
    )
    assert gradcheck(
        lambda e, g, u, f, a, n, r: project(Camera.look_at(e, g, u, fov_degrees=f, aspect=a, near=n, far=r)),
        inputs,
    )


@pytest.mark.parametrize("elevation", [25.0, 90.0])
def test_orbit_gradients(elevation: float) -> None:
    inputs = (leaf(3), leaf(elevation), leaf(70), leaf(0.1, 0.2, -0.3))
    assert gradcheck(lambda d, e, a, g: project(Camera.orbit(d, e, a, target=g)), inputs)


def test_orthographic_gradients() -> None:
    camera, inputs = Camera.look_at(leaf(1, 2, 3).detach()), (leaf(2), leaf(1.3), leaf(0.5), leaf(20))
    assert gradcheck(lambda *lens: project(camera.orthographic(*lens)), inputs)


def test_from_opencv_gradients() -> None:
    inputs = tuple(value.clone().requires_grad_() for value in calibrated())
    top = inputs[0].detach()[2:]
    assert gradcheck(
        lambda K, R, t, n, f: project(Camera.from_opencv(torch.cat((K, top)), R, t, (37, 53), near=n, far=f)),
        (inputs[0].detach()[:2].requires_grad_(), *inputs[1:], leaf(0.5), leaf(20)),
    )


def test_tensors_inside_a_list_keep_their_gradient() -> None:
    x = torch.tensor(1.0, requires_grad=True)
    Camera.look_at([x, 2.0, 3.0]).view.sum().backward()
    assert x.grad is not None and x.grad != 0


# Batches, dtypes, devices


def test_batches_broadcast() -> None:
    camera = Camera.orbit(2.7, 30.0, [0.0, 90.0, 180.0])
    assert len(camera) == 3 and camera.view.shape == camera.projection.shape == (3, 4, 4)
    points = torch.randn(5, 3, generator=torch.Generator().manual_seed(4))
    clip = camera.project(points)
    assert clip.shape == (3, 5, 4)
    torch.testing.assert_close(camera.project(points.expand(3, 5, 3)), clip)
    torch.testing.assert_close(camera[1].project(points), clip[1:2])
    torch.testing.assert_close(camera[[2, 0]].project(points), clip[[2, 0]])
    torch.testing.assert_close(camera[torch.tensor([True, False, True])].project(points), clip[[0, 2]])
    assert camera[0].project(points.expand(6, 5, 3)).shape == (6, 5, 4)
    assert len(list(camera)) == 3
    lenses = camera[0].perspective([20.0, 30.0, 40.0])
    torch.testing.assert_close(lenses[1].matrix, camera[0].matrix)


def test_matrices_without_a_batch_are_accepted() -> None:
    camera = Camera(torch.eye(4), torch.eye(4))
    assert camera.view.shape == (1, 4, 4)


def test_dtypes() -> None:
    assert Camera.orbit(2.7, 30.0, np.array([0.0, 15.0])).view.dtype == torch.float32
    double = Camera.look_at(torch.tensor([0.0, 0.0, 5.0], dtype=DOUBLE), fov_degrees=30.1)
    assert double.view.dtype == double.projection.dtype == DOUBLE
    assert double.projection[0, 1, 1].item() == pytest.approx(1 / math.tan(math.radians(30.1) / 2), rel=1e-15)
    assert double.to(dtype=torch.float32).projection.dtype == torch.float32
    assert Camera.orbit(torch.tensor(3), torch.tensor(30.0).half(), 0).view.dtype == torch.float32


@pytest.mark.cuda
def test_cameras_follow_their_tensors_to_a_gpu() -> None:
    camera = Camera.orbit(2.7, torch.tensor([30.0], device="cuda"), 0.0)
    assert camera.matrix.is_cuda
    torch.testing.assert_close(camera.to("cpu").matrix, Camera.orbit(2.7, 30.0, 0.0).matrix)


@pytest.mark.skipif(not CAMERAS.exists(), reason=f"needs {CAMERAS.name} in ../shared/data")
def test_recorded_cameras_give_their_eyes() -> None:
    recorded = np.load(CAMERAS)
    camera = Camera.orbit(*recorded.T, fov_degrees=30.0)
    assert len(camera) == 120
    expected = torch.tensor([orbit_eye(*row) for row in recorded], dtype=torch.float32)
    torch.testing.assert_close(camera.eye, expected, atol=1e-5, rtol=0)


@pytest.mark.skipif(not CAMERAS.exists(), reason=f"needs {CAMERAS.name} in ../shared/data")
def test_recorded_silhouettes_belong_to_left_handed_views() -> None:
    # Carve a block of points by the silhouettes: with the right cameras what remains fills them again.
    silhouettes = torch.from_numpy(np.load(CAMERAS.with_name("source.npy"))[::3, 3] > 100)
    views, axis = torch.arange(len(silhouettes))[:, None], torch.linspace(-0.55, 0.55, 70)
    block = torch.stack(torch.meshgrid(axis, axis[20:50], axis, indexing="ij"), dim=-1).reshape(-1, 3)
    filled = {}
    for handedness in ("left", "right"):
        camera = Camera.orbit(*np.load(CAMERAS)[::3].T, fov_degrees=30.0, handedness=handedness)
        column, row = pixels(camera, block, (64, 64)).long().clamp(0, 63).unbind(-1)
        remaining = silhouettes[views, row, column].all(0)
        again = torch.zeros_like(silhouettes)
        again[views, row[:, remaining], column[:, remaining]] = True
        filled[handedness] = (again & silhouettes).sum() / silhouettes.sum()
    assert filled["left"] > 0.7 and filled["right"] < 0.35


# Errors


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (
            lambda: Camera.look_at((0.0, 1.0)),
            ValueError,
            r"look_at: eye must be \[3\] or \[N, 3\], got \[2\]",
        ),
        (lambda: Camera.look_at((0.0, 0.0, 0.0)), ValueError, "look_at: eye must differ from target"),
        (lambda: Camera.look_at("here"), TypeError, "look_at: eye must hold numbers, got 'here'"),
        (lambda: Camera.look_at((0, 0, 5), handedness="up"), ValueError, "look_at: handedness must be"),
        (lambda: Camera.orbit(0.0, 0.0, 0.0), ValueError, r"orbit: distance must be above 0, got 0\.0"),
        (
            lambda: Camera.orbit(1.0, [[0.0]], 0.0),
            ValueError,
            r"orbit: elevation_degrees must be a number or \[N\]",
        ),
        (
            lambda: Camera.orbit(1.0, [0.0, 1.0], [0.0] * 3),
            ValueError,
            "orbit: batch sizes must be equal or 1",
        ),
        (lambda: Camera.orbit(1.0, 0.0, 0.0, near=0.0), ValueError, "0 < near < far"),
        (lambda: Camera.orbit(1.0, 0.0, 0.0, far=1.0), ValueError, "perspective: near and far must satisfy"),
        (lambda: Camera.orbit(1.0, 0.0, 0.0, fov_degrees=180.0), ValueError, "fov_degrees must lie between"),
        (lambda: Camera.orbit(1.0, 0.0, 0.0, aspect=0.0), ValueError, "perspective: aspect must be above 0"),
        (
            lambda: Camera.orbit(1.0, 0.0, 0.0).orthographic(0.0),
            ValueError,
            "orthographic: height and aspect",
        ),
        (
            lambda: Camera.orbit(1.0, 0.0, 0.0).orthographic(near=2, far=1),
            ValueError,
            "must satisfy near < far",
        ),
        (
            lambda: Camera.from_opencv(np.eye(4), np.eye(3), np.zeros(3), (4, 4)),
            ValueError,
            "from_opencv: K must",
        ),
        (
            lambda: Camera.from_opencv(np.eye(3), np.zeros(3), np.zeros(3), (4, 4)),
            ValueError,
            "from_opencv: R must",
        ),
        (lambda: Camera.from_opencv(2 * np.eye(3), np.eye(3), np.zeros(3), (4, 4)), ValueError, "last row"),
        (
            lambda: Camera.from_opencv(np.eye(3), np.eye(3), np.zeros(3), (0, 4)),
            ValueError,
            "resolution must be",
        ),
        (lambda: Camera(np.eye(4), torch.eye(4)), TypeError, r"Camera: view must be .* got ndarray"),
        (lambda: Camera(torch.eye(3), torch.eye(4)), ValueError, r"Camera: view must be .* got \[3, 3\]"),
        (
            lambda: Camera(torch.eye(4), torch.eye(4).double()),
            ValueError,
            "Camera: projection must be torch.float32",
        ),
        (lambda: Camera(torch.zeros(2, 4, 4), torch.zeros(3, 4, 4)), ValueError, "Camera: batch sizes"),
        (
            lambda: Camera.orbit(torch.tensor(1.0), torch.tensor(0.0, device="meta"), 0.0),
            ValueError,
            r"orbit: distance, elevation must be on one device, got \['cpu', 'meta'\]",
        ),
    ],
)
def test_camera_errors(make, error, message: str) -> None:
    with pytest.raises(error, match=message):
        make()
