"""What reads images and cameras for `slangrast fit`, and what it says of files that are wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from slangrast.camera import Camera
from slangrast.demo import bumpy_mesh, render_views, views_around
from slangrast.fitting import FitSettings, fit
from slangrast.fitting.files import read_cameras, read_images

SIZE = 32
VIEWS = 8
AEROPLANE = Path(__file__).parents[2] / "shared/data/deform"


@pytest.fixture(scope="module")
def cameras() -> Camera:
    return views_around(VIEWS)


@pytest.fixture(scope="module")
def images(cameras: Camera) -> Tensor:
    return render_views(bumpy_mesh(3), cameras, SIZE)


# Images from files


def as_bytes(images: Tensor) -> np.ndarray:
    return (images * 255).round().to(torch.uint8).numpy()


def test_a_folder_of_pngs_is_read_in_order_of_names(images: Tensor, tmp_path: Path) -> None:
    for name, pixels in zip("cab", as_bytes(images), strict=False):
        Image.fromarray(pixels).save(tmp_path / f"{name}.png")
    (tmp_path / "notes.txt").write_text("not an image")
    found = read_images(tmp_path)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, images[[1, 2, 0]], atol=0.003, rtol=0)
    torch.testing.assert_close(read_images(tmp_path / "c.png"), images[:1], atol=0.003, rtol=0)


@pytest.mark.parametrize("channels_first", [False, True])
@pytest.mark.parametrize("kind", ["uint8", "float32", "float64"])
def test_arrays_of_images(images: Tensor, tmp_path: Path, channels_first: bool, kind: str) -> None:
    array = as_bytes(images) if kind == "uint8" else images.numpy().astype(kind)
    np.save(tmp_path / "images.npy", np.moveaxis(array, 3, 1) if channels_first else array)
    found = read_images(tmp_path / "images.npy")
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, images, atol=0.003, rtol=0)


def png_of_text(path: Path) -> Path:
    (path / "a.png").write_text("not an image")
    return path / "a.png"


def png_without_alpha(path: Path) -> Path:
    Image.new("RGB", (4, 4)).save(path / "a.png")
    return path


def png_cut_short(path: Path) -> Path:
    Image.fromarray(np.random.randint(0, 255, (16, 16, 4), np.uint8)).save(path / "a.png")
    data = (path / "a.png").read_bytes()
    (path / "a.png").write_bytes(data[: len(data) // 2])
    return path


def mixed_sizes(path: Path) -> Path:
    for name, size in (("a", (4, 6)), ("b", (4, 5))):
        Image.new("RGBA", size).save(path / f"{name}.png")
    return path


def array_file(path: Path, array: np.ndarray) -> Path:
    np.save(path / "a.npy", array, allow_pickle=True)
    return path / "a.npy"


def file_of(path: Path, name: str, text: str) -> Path:
    (path / name).write_text(text)
    return path / name


def archive_as_npy(path: Path) -> Path:
    np.savez(path / "a.npz", a=np.zeros(3))
    return (path / "a.npz").rename(path / "a.npy")


REFUSED_IMAGE_FILES = {
    "missing": (lambda p: p / "none.npy", "images: .*none.npy does not exist; give a folder of RGBA PNGs"),
    "empty folder": (lambda p: p, "images: .* must hold PNG files, got none"),
    "other type": (lambda p: file_of(p, "a.jpg", "x"), "images: .*a.jpg must be a folder of RGBA PNGs"),
    "text": (png_of_text, "images: .*a.png must be a PNG image, got a file that cannot be read"),
    "cut short": (png_cut_short, "images: .*a.png must be a PNG image, got a file that cannot be read"),
    "no alpha": (png_without_alpha, "images: .*a.png must have an alpha channel, the silhouette; got RGB"),
    "mixed sizes": (mixed_sizes, "images: .*b.png must be 4 x 6 pixels like a.png, got 4 x 5"),
    "corrupt array": (lambda p: file_of(p, "a.npy", "corrupt"), "images: .*a.npy must be a .npy file of numbers"),
    "empty array file": (lambda p: file_of(p, "a.npy", ""), "images: .*a.npy must be a .npy file of numbers"),
    "archive": (archive_as_npy, "images: .*a.npy must be a .npy file of numbers, got an archive of several arrays"),
    "objects": (lambda p: array_file(p, np.array([{}, []], object)), "images: .*a.npy must be a .npy file of numbers"),
    "shape": (
        lambda p: array_file(p, np.zeros((2, 3, 8, 8))),
        r"images: .* or \[N, H, W, 4\], got shape \[2, 3, 8, 8\]",
    ),
    "one image": (lambda p: array_file(p, np.zeros((4, 8, 8))), r"images: .* got shape \[4, 8, 8\]"),
    "dtype": (
        lambda p: array_file(p, np.zeros((1, 4, 8, 8), int)),
        r"images: .* uint8 or float in \[0, 1\], got int64",
    ),
}


@pytest.mark.parametrize("case", REFUSED_IMAGE_FILES)
def test_image_files_that_are_refused(tmp_path: Path, case: str) -> None:
    make, message = REFUSED_IMAGE_FILES[case]
    with pytest.raises((ValueError, FileNotFoundError), match=message) as raised:
        read_images(make(tmp_path))
    assert "\n" not in str(raised.value)


# Cameras from files


def read(path: Path, count: int = 2, **options: Any) -> Camera:
    return read_cameras(path, count, **{"aspect": 1.5, "fov_degrees": 30.0, "handedness": "left", **options})


def json_file(path: Path, data: Any) -> Path:
    return file_of(path, "cameras.json", json.dumps(data))


def same_pictures(a: Camera, b: Camera) -> bool:
    points = torch.randn(20, 3)
    screen_a, screen_b = (clip[..., :2] / clip[..., 3:] for clip in (a.project(points), b.project(points)))
    return screen_a.shape == screen_b.shape and torch.allclose(screen_a, screen_b, atol=1e-4)


ORBIT = {"distance": [2.5, 3.0], "elevation": [10.0, -20.0], "azimuth": [0.0, 90.0]}


def orbit(**options: Any) -> Camera:
    return Camera.orbit(*ORBIT.values(), **{"fov_degrees": 30.0, "aspect": 1.5, "handedness": "left", **options})


def test_orbits_from_an_array(tmp_path: Path) -> None:
    path = array_file(tmp_path, np.stack(list(ORBIT.values()), axis=1))
    assert same_pictures(read(path), orbit())
    assert same_pictures(read(path, fov_degrees=50.0), orbit(fov_degrees=50.0))
    assert same_pictures(read(path, handedness="right"), orbit(handedness="right"))
    assert same_pictures(read(path, aspect=1.0), orbit(aspect=1.0))
    assert not same_pictures(read(path), orbit(handedness="right"))


def test_orbits_from_json(tmp_path: Path) -> None:
    assert same_pictures(read(json_file(tmp_path, ORBIT)), orbit())
    told = {**ORBIT, "fov": 50, "handedness": "right"}
    assert same_pictures(read(json_file(tmp_path, told)), orbit(fov_degrees=50.0, handedness="right"))
    once = read(json_file(tmp_path, {**ORBIT, "distance": 4}))
    assert same_pictures(once, Camera.orbit(4.0, *list(ORBIT.values())[1:], aspect=1.5, handedness="left"))


def test_matrices_from_json(tmp_path: Path) -> None:
    camera = orbit()
    data = {"view": camera.view.tolist(), "projection": camera.projection.tolist()}
    assert same_pictures(read(json_file(tmp_path, data)), camera)
    data["projection"] = camera.projection[0].tolist()
    assert same_pictures(read(json_file(tmp_path, data)), camera)


def test_calibrated_cameras_from_json(tmp_path: Path) -> None:
    turn = [[1.0, 0.0, 0.0], [0.0, -1.0, 0.0], [0.0, 0.0, -1.0]]
    data: dict[str, Any] = {"K": [[90.0, 0, 47], [0, 95.0, 30], [0, 0, 1]], "R": [turn, turn]}
    data.update({"t": [[0.0, 0.1, 5.0], [0.3, 0.0, 6.0]], "width": 96, "height": 64})
    numbers = [torch.tensor(data[key]) for key in "KRt"]
    assert same_pictures(read(json_file(tmp_path, data)), Camera.from_opencv(*numbers, (64, 96)))
    data["pixel_center"] = 0.5
    assert same_pictures(read(json_file(tmp_path, data)), Camera.from_opencv(*numbers, (64, 96), pixel_center=0.5))
    assert not same_pictures(read(json_file(tmp_path, data)), Camera.from_opencv(*numbers, (64, 96)))


IDENTITY = np.eye(4).tolist()
OPENCV = {"K": np.eye(3).tolist(), "R": np.eye(3).tolist(), "t": [[0, 0, 1], [0, 0, 2]], "width": 8, "height": 8}
REFUSED_CAMERA_FILES = {
    "missing": (lambda p: p / "none.json", "cameras: .*none.json does not exist; give a .npy"),
    "folder": (lambda p: p, "cameras: .* does not exist; give a .npy"),
    "other type": (lambda p: file_of(p, "a.txt", "1 2 3"), "cameras: .*a.txt must be a .npy"),
    "corrupt array": (lambda p: file_of(p, "a.npy", "corrupt"), "cameras: .*a.npy must be a .npy file of numbers"),
    "archive": (archive_as_npy, "cameras: .*a.npy must be a .npy file of numbers, got an archive of several arrays"),
    "objects": (lambda p: array_file(p, np.array([{}], object)), "cameras: .*a.npy must be a .npy file of numbers"),
    "shape": (lambda p: array_file(p, np.ones((2, 4))), r"cameras: .* must be \[N, 3\] numbers, got \[2, 4\] float64"),
    "letters": (
        lambda p: array_file(p, np.full((2, 3), "a")),
        r"cameras: .* must be \[N, 3\] numbers, got \[2, 3\] <U1",
    ),
    "array count": (lambda p: array_file(p, np.ones((3, 3))), "cameras: .* one camera for each of the 2 images, got 3"),
    "no json": (
        lambda p: file_of(p, "a.json", "{not json"),
        "cameras: .*a.json must be a JSON file, got one that cannot",
    ),
    "binary": (lambda p: array_file(p, np.ones(9)).rename(p / "a.json"), "cameras: .*a.json must be a JSON file"),
    "list": (lambda p: json_file(p, [1, 2]), "cameras: .* must hold a JSON object, got list"),
    "keys": (lambda p: json_file(p, {"view": IDENTITY, "fov": 3}), r"must have the keys .*; got \['fov', 'view'\]"),
    "no width": (lambda p: json_file(p, {"K": 1, "R": 1, "t": 1}), "must have the keys view and projection; or K"),
    "view": (lambda p: json_file(p, {"view": [1, 2], "projection": IDENTITY}), r"view must be \[4, 4\] numbers"),
    "ragged": (
        lambda p: json_file(p, {"view": [[1], [1, 2]], "projection": IDENTITY}),
        r"view must be \[4, 4\] numbers",
    ),
    "words": (lambda p: json_file(p, {"view": IDENTITY, "projection": "x"}), r"projection must be \[4, 4\] numbers"),
    "K": (lambda p: json_file(p, {**OPENCV, "K": IDENTITY}), r"K must be \[3, 3\] numbers, or a list of N"),
    "t": (lambda p: json_file(p, {**OPENCV, "t": [1, 2]}), r"t must be \[3\] numbers, or a list of N"),
    "width": (lambda p: json_file(p, {**OPENCV, "width": "wide"}), "cameras: .*: width must be a number, got 'wide'"),
    "height": (lambda p: json_file(p, {**OPENCV, "height": None}), "cameras: .*: height must be a number, got None"),
    "pixel_center": (
        lambda p: json_file(p, {**OPENCV, "pixel_center": []}),
        r"pixel_center must be a number, got \[\]",
    ),
    "lengths": (lambda p: json_file(p, {**ORBIT, "azimuth": [1, 2, 3]}), r"must be of one length, got \[2, 2, 3\]"),
    "angle": (lambda p: json_file(p, {**ORBIT, "azimuth": "north"}), "azimuth must be a number or a list of numbers"),
    "nested": (lambda p: json_file(p, {**ORBIT, "azimuth": [[1, 2]]}), "azimuth must be a number or a list of numbers"),
    "fov": (lambda p: json_file(p, {**ORBIT, "fov": "wide"}), "cameras: .*: fov must be a number, got 'wide'"),
    "hand": (lambda p: json_file(p, {**ORBIT, "handedness": "both"}), "handedness must be .*, got 'both'"),
    "json count": (lambda p: json_file(p, {**ORBIT, "azimuth": 0, "elevation": 0, "distance": 1}), "2 images, got 1"),
}


@pytest.mark.parametrize("case", REFUSED_CAMERA_FILES)
def test_camera_files_that_are_refused(tmp_path: Path, case: str) -> None:
    make, message = REFUSED_CAMERA_FILES[case]
    with pytest.raises((ValueError, FileNotFoundError), match=message) as raised:
        read(make(tmp_path))
    assert "\n" not in str(raised.value)


# Real data


@pytest.mark.slow
@pytest.mark.skipif(not AEROPLANE.is_dir(), reason="the aeroplane's images are not beside this checkout")
def test_the_aeroplane_of_softras() -> None:
    images = read_images(AEROPLANE / "source.npy")
    cameras = read_cameras(AEROPLANE / "camera.npy", len(images), 1.0, 30.0, "left")
    result = fit(images, cameras, settings=FitSettings(steps=150, levels=1))
    assert len(result.ious) == 120
    assert result.iou > 0.93
