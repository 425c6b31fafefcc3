"""Renders one red triangle with an installed slangrast: colour inside, background outside, a gradient.

Run by `tools/check_wheel.sh` in an environment that holds the wheel alone.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch

import slangrast as sr


def check_that_it_is_installed() -> Path:
    """The folder of the package that was imported, which must lie inside this environment."""
    folder = Path(sr.__file__).resolve().parent
    environment = Path(sys.prefix).resolve()
    assert environment in folder.parents, f"imported {folder}, which is not in the environment {environment}"
    return folder


def render_one_triangle() -> None:
    """A red triangle on blue, 37 rows by 53 columns, and the gradient of its redness."""
    positions = torch.tensor([[-0.8, -0.8, 0.0, 1.0], [0.8, -0.8, 0.0, 1.0], [0.0, 0.8, 0.0, 1.0]], requires_grad=True)
    triangles = torch.tensor([[0, 1, 2]], dtype=torch.int32)
    red = torch.tensor([[1.0, 0.0, 0.0]]).expand(3, 3).clone().requires_grad_()
    blue = torch.tensor([0.0, 0.0, 1.0])
    image = sr.soft_rasterize(positions, triangles, red, (37, 53), sigma=1e-3, background=blue, near=0.5, far=2.0)
    color, silhouette = image.color[0], image.silhouette[0]
    assert color.shape == (37, 53, 3), f"the image is {tuple(color.shape)}, not (37, 53, 3)"
    assert color[20, 26, 0] > 0.9, f"the middle pixel is not red: {color[20, 26].tolist()}"
    assert color[1, 1, 2] > 0.9, f"the corner pixel is not the background: {color[1, 1].tolist()}"
    assert silhouette[20, 26] > 0.9 > 0.1 > silhouette[1, 1], "the silhouette does not cover the triangle"

    color[..., 0].sum().backward()
    for name, tensor in (("positions", positions), ("attributes", red)):
        gradient = tensor.grad
        assert gradient is not None and gradient.isfinite().all(), f"{name} got the gradient {gradient}"
        assert gradient.abs().max() > 0, f"{name} got a zero gradient"


if __name__ == "__main__":
    package = check_that_it_is_installed()
    render_one_triangle()
    print(f"slangrast from {package}: one triangle rendered, its gradients are finite and not zero")
