"""Images and cameras from files, for `slangrast fit`. Whatever is wrong with them is said before any work starts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import torch
from torch import Tensor

from slangrast.camera import Camera

IMAGES_HELP = "a folder of RGBA PNGs (sorted by name), one PNG, or a .npy of [N, 4, H, W] or [N, H, W, 4]"
CAMERAS_HELP = "a .npy of [N, 3] distance, elevation, azimuth (degrees), or a .json; see `slangrast fit --help`"


def read_images(path: Path) -> Tensor:
    """[N, H, W, 4] float RGBA in [0, 1] from `path`.

    A .npy may be uint8, or float in [0, 1]. Its channels are the axis of length 4: the second where both could be.
    """
    if path.is_dir():
        files = sorted(path.glob("*.png"))
        if not files:
            raise ValueError(f"images: {path} must hold PNG files, got none")
        return _stack(files)
    if not path.is_file():
        raise FileNotFoundError(f"images: {path} does not exist; give {IMAGES_HELP}")
    if path.suffix == ".npy":
        return _from_array(_load_array("images", path), path)
    if path.suffix.lower() == ".png":
        return _stack([path])
    raise ValueError(f"images: {path} must be {IMAGES_HELP}")


def _from_array(array: np.ndarray, path: Path) -> Tensor:
    if array.ndim != 4 or 4 not in (array.shape[1], array.shape[3]):
        raise ValueError(f"images: {path} must be [N, 4, H, W] or [N, H, W, 4], got shape {list(array.shape)}")
    if array.shape[1] == 4:
        array = np.moveaxis(array, 1, 3)
    if array.dtype == np.uint8:
        return torch.from_numpy(array.astype(np.float32) / 255)
    if not np.issubdtype(array.dtype, np.floating):
        raise ValueError(f"images: {path} must be uint8 or float in [0, 1], got {array.dtype}")
    return torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32))


def _stack(files: list[Path]) -> Tensor:
    from PIL import Image, UnidentifiedImageError

    arrays = []
    for file in files:
        try:
            with Image.open(file) as image:
                if "A" not in image.getbands() and "transparency" not in image.info:
                    raise ValueError(f"images: {file} must have an alpha channel, the silhouette; got {image.mode}")
                arrays.append(np.asarray(image.convert("RGBA"), dtype=np.float32) / 255)
        except (UnidentifiedImageError, OSError) as error:
            raise ValueError(f"images: {file} must be a PNG image, got a file that cannot be read: {error}") from None
        if arrays[-1].shape != arrays[0].shape:
            sizes = [f"{array.shape[1]} x {array.shape[0]}" for array in (arrays[0], arrays[-1])]
            raise ValueError(f"images: {file} must be {sizes[0]} pixels like {files[0].name}, got {sizes[1]}")
    return torch.from_numpy(np.stack(arrays))


def read_cameras(path: Path, count: int, aspect: float, fov_degrees: float, handedness: str) -> Camera:
    """The cameras of `count` images of width / height `aspect`. `fov_degrees` and `handedness` are for orbits."""
    if not path.is_file():
        raise FileNotFoundError(f"cameras: {path} does not exist; give {CAMERAS_HELP}")
    if path.suffix == ".npy":
        array = _load_array("cameras", path)
        if array.ndim != 2 or array.shape[1] != 3 or not np.issubdtype(array.dtype, np.number):
            raise ValueError(f"cameras: {path} must be [N, 3] numbers, got {list(array.shape)} {array.dtype}")
        cameras = _orbit(array.astype(np.float32), aspect, fov_degrees, handedness)
    elif path.suffix == ".json":
        cameras = _from_json(_load_json(path), path, aspect, fov_degrees, handedness)
    else:
        raise ValueError(f"cameras: {path} must be {CAMERAS_HELP}")
    if len(cameras) != count:
        raise ValueError(f"cameras: {path} must hold one camera for each of the {count} images, got {len(cameras)}")
    return cameras


def _orbit(rows: np.ndarray, aspect: float, fov_degrees: float, handedness: str) -> Camera:
    distance, elevation, azimuth = np.ascontiguousarray(rows.T)
    return Camera.orbit(
        distance, elevation, azimuth, fov_degrees=fov_degrees, aspect=aspect, near=0.1, handedness=handedness
    )


def _from_json(data: Any, path: Path, aspect: float, fov_degrees: float, handedness: str) -> Camera:
    if not isinstance(data, dict):
        raise ValueError(f"cameras: {path} must hold a JSON object, got {type(data).__name__}")
    if {"view", "projection"} <= data.keys():
        return Camera(_matrices(data, "view", (4, 4), path), _matrices(data, "projection", (4, 4), path))
    if {"K", "R", "t", "width", "height"} <= data.keys():
        intrinsics, rotation = _matrices(data, "K", (3, 3), path), _matrices(data, "R", (3, 3), path)
        size = (int(_number(data, "height", path)), int(_number(data, "width", path)))
        pixel_center = _number(data, "pixel_center", path, 0.0)
        return Camera.from_opencv(
            intrinsics, rotation, _matrices(data, "t", (3,), path), size, pixel_center=pixel_center
        )
    if {"distance", "elevation", "azimuth"} <= data.keys():
        columns = [_column(data, key, path) for key in ("distance", "elevation", "azimuth")]
        try:
            rows = np.stack(np.broadcast_arrays(*columns), axis=1)
        except ValueError:
            lengths = [len(column) for column in columns]
            raise ValueError(
                f"cameras: {path}: distance, elevation and azimuth must be of one length, got {lengths}"
            ) from None
        fov_degrees = _number(data, "fov", path, fov_degrees)
        return _orbit(rows, aspect, fov_degrees, data.get("handedness", handedness))
    raise ValueError(
        f"cameras: {path} must have the keys view and projection; or K, R, t, width and height; or distance, "
        f"elevation and azimuth; got {sorted(data)}"
    )


def _number(data: dict, key: str, path: Path, default: float | None = None) -> float:
    value = data.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"cameras: {path}: {key} must be a number, got {value!r}")
    return value


def _column(data: dict, key: str, path: Path) -> np.ndarray:
    """A number for all images, or a list with one for each."""
    try:
        column = np.atleast_1d(np.asarray(data[key], np.float32))
    except (TypeError, ValueError):
        column = np.empty((0, 0), np.float32)
    if column.ndim != 1:
        raise ValueError(f"cameras: {path}: {key} must be a number or a list of numbers")
    return column


def _matrices(data: dict, key: str, shape: tuple[int, ...], path: Path) -> Tensor:
    """One matrix for all images, or a list with one for each."""
    array: np.ndarray
    try:
        array = np.asarray(data[key], np.float32)
    except (TypeError, ValueError):
        array = np.empty(0, np.float32)
    if array.shape[-len(shape) :] != shape or array.ndim not in (len(shape), len(shape) + 1):
        raise ValueError(f"cameras: {path}: {key} must be {list(shape)} numbers, or a list of N of them")
    return torch.from_numpy(array)


def _load_array(what: str, path: Path) -> np.ndarray:
    wanted = f"{what}: {path} must be a .npy file of numbers"
    try:
        array = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError, BadZipFile) as error:
        raise ValueError(f"{wanted}, got one that cannot be read: {error}") from None
    if not isinstance(array, np.ndarray):
        array.close()
        raise ValueError(f"{wanted}, got an archive of several arrays")
    return array


def _load_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ValueError(f"cameras: {path} must be a JSON file, got one that cannot be read: {error}") from None
