"""Lists of tiles whose room was guessed: what does not fit in is drawn all the same."""

from __future__ import annotations

import sys
from collections import OrderedDict

import pytest
import torch

import slangrast as sr
from slangrast import binning, list_room, soft_rasterizer
from tests import scenes
from tests.comparison import TAME, single

SHARES = [0.0, 0.3, 0.8]  # of the room that lists need


@pytest.fixture
def several_launches(monkeypatch: pytest.MonkeyPatch) -> None:
    """As large scenes are binned."""
    monkeypatch.setattr(soft_rasterizer, "is_one_threads", lambda *scene: False)


def give_room(monkeypatch: pytest.MonkeyPatch, share: float) -> list[int]:
    """The numbers of entries that lists are found to need from now on."""
    needed: list[int] = []

    def room_for(total: torch.Tensor, scene: object) -> int:
        needed.append(int(total))
        return int(share * needed[-1])

    monkeypatch.setattr(binning, "room_for", room_for)
    monkeypatch.setattr(sys.modules["slangrast.rasterize"], "room_for", room_for)
    return needed


@pytest.mark.parametrize("share", SHARES)
@pytest.mark.usefixtures("several_launches")
def test_soft_images_and_gradients_do_not_depend_on_the_room(share: float, monkeypatch: pytest.MonkeyPatch) -> None:
    soup = single(scenes.soup(400))

    def step() -> list[torch.Tensor]:
        positions = soup.positions.clone().requires_grad_()
        image = sr.soft_rasterize(positions, soup.triangles, soup.attributes, soup.resolution, **TAME)
        (image.color.square().sum() + image.silhouette.sum() + image.depth.sum()).backward()
        return [image.color, image.silhouette, image.depth, positions.grad]

    expected = step()
    needed = give_room(monkeypatch, share)
    for one, other in zip(step(), expected, strict=True):
        assert torch.equal(one, other)
    assert needed and needed[0] > 0


@pytest.mark.parametrize("share", SHARES)
def test_hard_images_do_not_depend_on_the_room(share: float, monkeypatch: pytest.MonkeyPatch) -> None:
    soup = single(scenes.soup(400))
    ranges = torch.tensor([[0, 60], [60, 340]], dtype=torch.int32)
    expected = sr.rasterize(soup.positions, soup.triangles, soup.resolution, ranges=ranges)
    needed = give_room(monkeypatch, share)
    found = sr.rasterize(soup.positions, soup.triangles, soup.resolution, ranges=ranges)
    assert needed and needed[0] > 0
    assert torch.equal(found.triangle_id, expected.triangle_id) and (found.triangle_id >= 60).any()
    assert torch.equal(sr.peel(found).triangle_id, sr.peel(expected).triangle_id)


def test_on_the_cpu_lists_have_the_room_they_need() -> None:
    assert list_room.room_for(torch.tensor(12345), "scene") == 12345


class _OnGpu(torch.Tensor):
    """A tensor that says it is on a GPU."""

    device = torch.device("cuda", 0)
    waits = 0

    def __int__(self) -> int:
        _OnGpu.waits += 1
        return int(self.as_subclass(torch.Tensor))


@pytest.fixture
def capturing(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether a graph is being captured, to be changed by the test."""
    state = [False]
    monkeypatch.setattr(list_room, "_LAST_TOTALS", OrderedDict())
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self: self)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: state[0])
    monkeypatch.setattr(_OnGpu, "waits", 0)
    return state


def room_on_a_gpu(total: int, scene: object = "scene") -> int:
    """Less what is added to be sure."""
    return round((list_room.room_for(torch.tensor(total).as_subclass(_OnGpu), scene) - 1024) / 1.25)


def test_on_cuda_only_the_first_call_waits_and_the_next_go_by_those_before(capturing: list[bool]) -> None:
    assert [room_on_a_gpu(total) for total in (400, 800, 1200, 1600)] == [400, 400, 800, 1200]
    assert _OnGpu.waits == 1
    room_on_a_gpu(4, "another scene")
    assert _OnGpu.waits == 2


class _SharedWithAnotherThread(OrderedDict):
    """In which what was just found is gone at once, because another thread has rendered many shapes meanwhile."""

    def get(self, key: object, default: object = None) -> object:
        found = super().get(key, default)
        self.clear()
        return found


def test_a_scene_that_another_thread_pushed_out_is_found_again(
    capturing: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(list_room, "_LAST_TOTALS", _SharedWithAnotherThread())
    assert [room_on_a_gpu(total) for total in (400, 400, 400)] == [400] * 3
    assert _OnGpu.waits == 1


def test_a_quarter_more_than_can_be_counted_is_not_asked_for(capturing: list[bool]) -> None:
    """Callers refuse what needs more; what fits is no error."""
    most = 2**31 - 1
    for total, room in ((most - 10, most), (most, most), (most + 10, most + 10)):
        assert list_room.room_for(torch.tensor(total).as_subclass(_OnGpu), total) == room


def test_renderings_of_one_shape_that_take_turns_have_room_for_the_largest(capturing: list[bool]) -> None:
    """As a soft and a softer one in one step: by the last call alone the softer one's lists would never fit in."""
    rooms = [room_on_a_gpu(total) for total in (400, 8000) * 5]
    assert rooms[2:] == [8000] * 8
    assert [room_on_a_gpu(400) for _ in range(6)][-1] == 400  # what is no longer needed is given back


@pytest.mark.usefixtures("several_launches")
def test_soft_and_hard_lists_of_one_scene_do_not_share_room(monkeypatch: pytest.MonkeyPatch) -> None:
    names = []
    for module in (binning, sys.modules["slangrast.rasterize"]):
        monkeypatch.setattr(module, "room_for", lambda total, scene: (names.append(scene), int(total))[1])
    soup = single(scenes.soup(400))
    sr.soft_silhouette(soup.positions, soup.triangles, soup.resolution)
    sr.rasterize(soup.positions, soup.triangles, soup.resolution)
    assert len(set(names)) == 2


def test_a_graph_leaves_the_memory_of_totals_alone(capturing: list[bool]) -> None:
    room_on_a_gpu(400)
    capturing[0] = True
    assert [room_on_a_gpu(800) for _ in range(3)] == [400] * 3  # nothing was copied
    with pytest.raises(RuntimeError, match="render it once"):
        room_on_a_gpu(400, "another scene")


@pytest.mark.cuda
def test_on_cuda_a_step_waits_for_no_number() -> None:
    """After the first step of a scene: what waits for the device is an error here. A graph of the step then replays."""
    soup = single(scenes.soup(400))
    positions = soup.positions.cuda().requires_grad_()
    triangles, attributes = soup.triangles.cuda(), soup.attributes.cuda()

    def step() -> list[torch.Tensor]:
        positions.grad = None
        image = sr.soft_rasterize(positions, triangles, attributes, soup.resolution, **TAME)
        geometry = sr.rasterize(positions, triangles, soup.resolution)
        color = sr.interpolate(geometry, attributes)
        (image.color.square().sum() + image.silhouette.sum() + color.square().sum()).backward()
        behind = sr.peel(geometry).depth.detach()
        return [image.color.detach(), image.silhouette.detach(), color.detach(), behind, positions.grad]

    expected = [one.clone() for one in step()]
    torch.cuda.set_sync_debug_mode("error")
    try:
        found = step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
    aside = torch.cuda.Stream()
    with torch.cuda.stream(aside):
        for _ in range(3):
            step()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = step()
    graph.replay()
    torch.cuda.synchronize()
    for one, other in zip(captured, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
