"""What a small scene costs beside its kernels: launches and operations are counted, and what is kept is never stale."""

from __future__ import annotations

import collections
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import slangrast as sr
from slangrast.binning import bin_faces, project_and_bin
from slangrast.op_modules import TILE
from slangrast.projection import project
from slangrast.runtime import packing, steady
from slangrast.runtime.module import Launchable

SIZE = (16, 16)


def scene() -> tuple[torch.Tensor, torch.Tensor]:
    cube = sr.cube()
    camera = sr.Camera.orbit(4.0, 30.0, 45.0, fov_degrees=45)
    return camera.project(cube.vertices).detach().requires_grad_(), cube.triangles


@pytest.fixture
def launches(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The names of the kernels that ran."""
    names: list[str] = []
    launch = Launchable.launchRaw

    def record(self: Launchable, *sizes: object, **named: object) -> None:
        names.append(self._entry.name)
        launch(self, *sizes, **named)

    monkeypatch.setattr(Launchable, "launchRaw", record)
    yield names


class Operations(TorchDispatchMode):
    """Counts what torch is asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: collections.Counter[str] = collections.Counter()

    def __torch_dispatch__(self, function, types, arguments=(), named=None):  # type: ignore[no-untyped-def]
        self.counts[str(function)] += 1
        return function(*arguments, **(named or {}))


def test_a_step_of_a_small_scene_is_four_launches(launches: list[str]) -> None:
    positions, triangles = scene()
    for _ in range(2):
        launches.clear()
        sr.soft_silhouette(positions, triangles, SIZE).sum().backward()
    assert launches == ["project_and_bin", "soft_rasterize", "soft_rasterize_bwd_diff", "project_bwd_diff"]


def test_a_step_of_the_hard_path_is_six_launches(launches: list[str]) -> None:
    positions, triangles = scene()
    for _ in range(2):
        launches.clear()
        geometry = sr.rasterize(positions, triangles, SIZE)
        image = sr.interpolate(geometry, positions[..., :3])
        sr.edge_gradients(image, geometry).sum().backward()
    forward = ["rasterize", "interpolate_attributes", "find_first_positions"]
    assert launches == [*forward, "add_edge_gradients", "interpolate_attributes_bwd_diff", "rasterize_bwd_diff"]


def test_no_reload_falls_between_the_launches_of_an_op(monkeypatch: pytest.MonkeyPatch) -> None:
    positions, triangles = scene()
    launch, ops_at_work = Launchable.launchRaw, []

    def record(self: Launchable, *sizes: object, **named: object) -> None:
        ops_at_work.append((self._entry.name, steady._ops))
        launch(self, *sizes, **named)

    monkeypatch.setattr(Launchable, "launchRaw", record)
    with torch.no_grad():
        sr.soft_rasterize(positions, triangles, positions, SIZE)
        geometry = sr.rasterize(positions, triangles, SIZE)
        sr.peel(geometry)
        image = geometry.depth[..., None].expand(*geometry.depth.shape, 3)
        sr.antialias(image, geometry)
        sr.edge_gradients(image, geometry)
    assert len(ops_at_work) >= 6 and all(ops == 1 for _, ops in ops_at_work), ops_at_work


def test_a_step_of_a_small_scene_asks_little_of_torch() -> None:
    positions, triangles = scene()
    sr.soft_silhouette(positions, triangles, SIZE).sum().backward()
    with Operations() as operations:
        sr.soft_silhouette(positions, triangles, SIZE).sum().backward()
    assert operations.counts.total() <= 32, operations.counts


def test_positions_that_need_no_gradient_launch_no_projection_backwards(launches: list[str]) -> None:
    positions, triangles = scene()
    sigma = torch.tensor(1e-3, requires_grad=True)
    sr.soft_silhouette(positions.detach(), triangles, SIZE, sigma=sigma).sum().backward()
    assert sigma.grad is not None and sigma.grad != 0 and "project_bwd_diff" not in launches


@pytest.mark.parametrize("size", [(16, 16), (37, 53), (150, 150)])  # the last has more tiles a face than there is room
@pytest.mark.parametrize("cull_backfaces", [False, True])
def test_one_launch_bins_as_several_do(size: tuple[int, int], cull_backfaces: bool) -> None:
    numbers = torch.Generator().manual_seed(3)
    low, high = torch.tensor([-2.0, -2.0, -1.0, -0.2]), torch.tensor([2.0, 2.0, 1.0, 1.8])
    positions = low + (high - low) * torch.rand(2, 90, 4, generator=numbers)
    triangles = torch.arange(90, dtype=torch.int32).reshape(30, 3)
    module = sr.load_module("bin", device="cpu", defines={"TILE": TILE, "PATCH": TILE})
    softness, extents = torch.tensor([[1e-3, 1.0, 0.0], [3e-2, 1.0, 0.0]]), torch.tensor([7.0, 7.0])
    separate = project(positions, size)
    given = (triangles, softness, {}, extents, size, cull_backfaces)
    expected = bin_faces(module, separate.screen, *given)
    screen = torch.full_like(positions, torch.nan)
    bins = project_and_bin(module, positions, screen, *given)

    entries = int(expected.tile_offsets[-1])
    assert entries > 0 and torch.equal(screen, separate.screen)
    assert torch.equal(bins.records, expected.records)
    assert torch.equal(bins.tile_offsets[: len(expected.tile_offsets)], expected.tile_offsets)
    assert torch.equal(bins.tile_faces[:entries], expected.tile_faces[:entries])


def test_a_small_scene_is_on_the_cpu_whatever_device_torch_prefers() -> None:
    """Numbers that no other test has, so that nothing of theirs is kept."""
    positions, triangles = scene()
    softness = {"sigma": 1.9e-3, "gamma": 1.9e-2}
    with torch.device("meta"):
        found = sr.soft_rasterize(positions, triangles, positions, (18, 17), **softness)
    expected = sr.soft_rasterize(positions, triangles, positions, (18, 17), **softness)
    assert torch.equal(found.color, expected.color) and torch.equal(found.depth, expected.depth)


def test_indices_changed_behind_the_back_of_torch_are_checked_again() -> None:
    positions, _ = scene()
    indices = np.array([[0, 1, 2], [1, 2, 3]])
    triangles = torch.from_numpy(indices)
    first = sr.soft_silhouette(positions, triangles, SIZE)
    indices[1] = (5, 6, 7)
    assert not torch.equal(first, sr.soft_silhouette(positions, triangles, SIZE))
    indices[1, 0] = 8
    with pytest.raises(ValueError, match="got indices from 0 to 8"):
        sr.soft_silhouette(positions, triangles, SIZE)


def test_indices_that_an_op_returned_may_be_written_to() -> None:
    positions, triangles = scene()
    first = sr.rasterize(positions, triangles, SIZE)
    expected = first.triangle_id.clone()
    first.triangles.fill_(0)
    again = sr.rasterize(positions, triangles, SIZE)
    assert torch.equal(again.triangle_id, expected) and torch.equal(again.triangles, triangles)


def test_what_is_kept_from_inference_mode_serves_autograd() -> None:
    """Sizes and numbers that no other test has, so that they are met in that mode first."""
    positions, triangles = scene()
    options = {"sigma": 1.7e-3, "gamma": 1.3e-2, "cutoff": 1.1e-3}
    colors = torch.arange(16.0).reshape(8, 2)
    with torch.inference_mode():
        expected = sr.soft_rasterize(positions, triangles[:7], colors, (5, 6), **options)
    image = sr.soft_rasterize(positions, triangles[:7], colors, (5, 6), **options)
    assert torch.equal(image.color, expected.color)
    image.color.sum().backward()
    assert positions.grad is not None and bool(positions.grad.any())


def test_both_ways_of_packing_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    positions, triangles = scene()

    def step() -> list[torch.Tensor]:
        positions.grad = None
        attributes = torch.linspace(0, 1, 48).reshape(8, 6)[:, ::2].requires_grad_()
        image = sr.soft_rasterize(positions, triangles, attributes, SIZE)
        (image.color.square().sum() + image.silhouette.sum()).backward()
        return [image.color, image.silhouette, image.depth, positions.grad, attributes.grad]

    packed, pack = [], packing.Packer.pack
    monkeypatch.setattr(packing.Packer, "pack", lambda *given: packed.append(pack(*given)) or packed[-1])
    by_dlpack = step()
    assert any(packed) or packing._library() is None, "torch before 2.10 has one way only"
    monkeypatch.setattr(packing.Packer, "pack", lambda *_: False)
    for one, other in zip(by_dlpack, step(), strict=True):
        assert torch.equal(one, other)
