"""Tensors as pictures: PNG data that a page can hold."""

from __future__ import annotations

import base64
import io

import numpy as np
import torch
from PIL import Image, ImageDraw

from .scene import Rendering

_FINER = 2  # the drawing is made this many times as large, then made smaller: that smooths its edges


def pictures_of(rendering: Rendering) -> dict[str, str]:
    """The pictures of a rendering by name, as data URLs."""
    depth = rendering.depth
    near, far = float(depth.min()), float(depth.max())
    return {
        "color": _data_url(_shown(rendering.color)),
        "silhouette": _data_url(_shown(rendering.silhouette[..., None])),
        "depth": _data_url(_shown(((far - depth) / max(far - near, 1e-12))[..., None])),
        "gradient": _data_url(_pull_picture(rendering)),
    }


def _shown(image: torch.Tensor) -> Image.Image:
    """[H, W, C] as grey for one channel, red and green for two, else the first three."""
    height, width, channels = image.shape
    if channels == 1:
        image = image.expand(height, width, 3)
    elif channels == 2:
        image = torch.cat([image, image.new_zeros(height, width, 1)], dim=-1)
    values = torch.nan_to_num(image[..., :3]).clamp(0, 1).mul(255).round()
    return Image.fromarray(values.to(torch.uint8).contiguous().numpy())


def _pull_picture(rendering: Rendering) -> Image.Image:
    """Each triangle in the hue of where it is drawn to, the brighter the harder; the farthest are painted first."""
    size = rendering.color.shape[0]
    pull = rendering.pull.numpy()
    strength = np.linalg.norm(pull, axis=1)
    # The strongest few would leave the rest black; the root shows weak ones too.
    reference = np.quantile(strength[strength > 0], 0.98) if (strength > 0).any() else 1.0
    value = np.sqrt(np.clip(strength / reference, 0, 1))
    colors = _hues(np.arctan2(pull[:, 1], pull[:, 0])) * value[:, None] + 18 * (1 - value[:, None])
    picture = Image.new("RGB", (size * _FINER, size * _FINER), (18, 18, 20))
    draw = ImageDraw.Draw(picture)
    corners = (rendering.corners * _FINER).reshape(-1, 6).tolist()
    for corner, color in zip(corners, colors.round().astype(int).tolist(), strict=True):
        draw.polygon(corner, fill=tuple(color))
    return picture.resize((size, size), Image.Resampling.BOX)


def _hues(angles: np.ndarray) -> np.ndarray:
    """[F, 3] to 255: red to the right, then yellow, green, cyan, blue and magenta counter-clockwise."""
    sixth = (angles * 3 / np.pi) % 6
    red, green, blue = np.abs(sixth - 3) - 1, 2 - np.abs(sixth - 2), 2 - np.abs(sixth - 4)
    return 255 * np.clip(np.stack((red, green, blue), axis=1), 0, 1)


def _data_url(picture: Image.Image) -> str:
    file = io.BytesIO()
    picture.save(file, "PNG", compress_level=1)
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
