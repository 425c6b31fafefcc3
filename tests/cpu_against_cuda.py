"""python -m tests.cpu_against_cuda: every op on the CPU and on a GPU with the same inputs, images and gradients.

Prints a line for each tensor, and ends with 1 where one of them is further off than rounding explains. The first thing
to run on a GPU: it says which op is wrong, where a test-suite says that hundreds of tests fail.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch

import slangrast as sr
from tests import scenes
from tests.comparison import TAME, single

# Of what is compared, this share may differ at will: a pixel centre on an edge may go to the other triangle.
_MOST_ELSEWHERE = 2e-3
_TOLERANCE = 2e-3  # of the largest number: sums in another order, other roundings of exp and log

Tensors = dict[str, torch.Tensor]


def _scene(device: str, size: int, faces: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, tuple[int, int]]:
    if faces:
        soup = single(scenes.soup(faces, (size, size + 7)))
        given = (soup.positions, soup.triangles, soup.attributes)
    else:
        mesh = sr.icosphere(3)
        positions = sr.Camera.orbit(3.0, 20.0, 30.0, fov_degrees=45).project(mesh.vertices)
        given = (positions, mesh.triangles, 0.5 + 0.5 * mesh.vertices)
    positions, triangles, attributes = (tensor.to(device) for tensor in given)
    return positions.requires_grad_(), triangles, attributes.requires_grad_(), (size, size + 7 * bool(faces))


def _with_gradients(images: Tensors, leaves: Tensors) -> Tensors:
    """The images, and the gradients of their sum under fixed random weights."""
    generator = torch.Generator().manual_seed(5)
    weights = {name: torch.randn(image.shape, generator=generator).to(image.device) for name, image in images.items()}
    torch.autograd.backward(list(images.values()), list(weights.values()))
    gradients = {f"gradient of {name}": leaf.grad for name, leaf in leaves.items() if leaf.grad is not None}
    return {**images, **gradients}


def soft(device: str, size: int, faces: int) -> Tensors:
    positions, triangles, attributes, resolution = _scene(device, size, faces)
    options = TAME if faces else {"sigma": 1e-3, "gamma": 1e-2}
    image = sr.soft_rasterize(positions, triangles, attributes, resolution, **options)
    return _with_gradients(image._asdict(), {"positions": positions, "attributes": attributes})


def silhouette(device: str, size: int, faces: int) -> Tensors:
    positions, triangles, _, resolution = _scene(device, size, faces)
    image = sr.soft_silhouette(positions, triangles, resolution, sigma=1e-3)
    return _with_gradients({"silhouette": image}, {"positions": positions})


def hard(device: str, size: int, faces: int) -> Tensors:
    positions, triangles, attributes, resolution = _scene(device, size, faces)
    geometry = sr.rasterize(positions, triangles, resolution)
    color, slopes = sr.interpolate(geometry, attributes, derivatives=True)
    images = {"barycentrics": geometry.barycentrics, "inverse_w": geometry.inverse_w, "color": color}
    found = _with_gradients(images, {"positions": positions, "attributes": attributes})
    layers = {"triangle_id": geometry.triangle_id, "layer 2": sr.peel(geometry).triangle_id}
    return {**found, "slopes": slopes, **{name: ids.float() for name, ids in layers.items()}}


def edges(device: str, size: int, faces: int) -> Tensors:
    images, leaves = {}, {}
    for name, blend in {"antialias": sr.antialias, "edge_gradients": sr.edge_gradients}.items():
        positions, triangles, attributes, resolution = _scene(device, size, faces)
        geometry = sr.rasterize(positions, triangles, resolution)
        color = sr.interpolate(geometry, attributes.detach())
        images[name], leaves[f"positions, {name}"] = blend(color, geometry), positions
    return _with_gradients(images, leaves)


def texture(device: str, size: int, faces: int) -> Tensors:
    generator = torch.Generator().manual_seed(6)
    image = torch.rand(1, 33, 65, 3, generator=generator).to(device).requires_grad_()
    uv = torch.rand(1, size, size, 2, generator=generator).to(device).requires_grad_()
    slopes = (0.1 * torch.randn(1, size, size, 2, 2, generator=generator)).to(device)
    color = sr.texture(image, uv, uv_derivatives=slopes, filter="linear_mipmap_linear")
    return _with_gradients({"color": color}, {"image": image, "uv": uv})


OPS: dict[str, Callable[[str, int, int], Tensors]] = {
    "soft": soft, "silhouette": silhouette, "hard": hard, "edges": edges, "texture": texture
}  # fmt: skip


def differences(one: torch.Tensor, other: torch.Tensor) -> tuple[float, float, float]:
    """The largest and the mean difference as shares of the largest number, and the share of what is too far off."""
    gaps = (one.detach().cpu().double() - other.detach().cpu().double()).abs() / max(1e-30, float(one.abs().max()))
    gaps = torch.where(gaps.isfinite(), gaps, torch.inf)
    return float(gaps.max()), float(gaps.mean()), float((gaps > _TOLERANCE).double().mean())


def compare(op: str, size: int, faces: int, devices: tuple[str, str]) -> bool:
    started = time.perf_counter()
    one, other = (OPS[op](device, size, faces) for device in devices)
    good = True
    for name, tensor in one.items():
        largest, mean, elsewhere = differences(tensor, other[name])
        fits = elsewhere <= _MOST_ELSEWHERE
        good &= fits
        verdict = "ok" if fits else "WRONG"
        print(f"{verdict:6}{op:11}{name:36}largest {largest:.1e}  mean {mean:.1e}  too far off {elsewhere:.2%}")
    print(f"      {op} took {time.perf_counter() - started:.1f} s", flush=True)
    return good


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.cpu_against_cuda", description=__doc__.partition("\n")[0])
    parser.add_argument("--devices", nargs=2, default=("cpu", "cuda"))
    parser.add_argument("--ops", nargs="+", choices=OPS, default=list(OPS))
    parser.add_argument("--sizes", nargs="+", type=int, default=[37, 256])
    parser.add_argument("--faces", nargs="+", type=int, default=[0, 40], help="of a soup; 0 is a sphere of 1,280")
    options = parser.parse_args()
    failed = []
    for op in options.ops:
        for size in options.sizes:
            for faces in options.faces:
                try:
                    if not compare(op, size, faces, tuple(options.devices)):
                        failed.append(f"{op} at {size} with {faces or 'a sphere of 1,280'} faces")
                except Exception as error:  # the other ops may still work
                    print(f"FAILED {op}: {type(error).__name__}: {error}", flush=True)
                    failed.append(op)
    if failed:
        raise SystemExit(f"differ, or fail: {', '.join(failed)}")
    print("all agree")


if __name__ == "__main__":
    main()
