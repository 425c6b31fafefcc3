"""Tensors that are kept between calls, and those that must not be."""

from __future__ import annotations

import weakref
from types import SimpleNamespace

import pytest
import torch

from slangrast.runtime.kept_tensors import keep_tensors


class _OnGpu(torch.Tensor):
    """A tensor that says it is on a GPU."""

    is_cuda = True
    device = torch.device("cuda", 0)


@keep_tensors(2)
def _filled(value: float, size: int) -> torch.Tensor:
    return torch.full((size,), value)


def test_the_same_arguments_give_the_same_tensor() -> None:
    first = _filled(1.0, 3)
    assert _filled(1.0, 3) is first and _filled(2.0, 3) is not first
    _filled(3.0, 3)  # one more than are kept
    assert _filled(1.0, 3) is not first and torch.equal(_filled(1.0, 3), first)


@keep_tensors(2)
def _filled_on_gpu(value: float) -> torch.Tensor:
    return torch.full((1,), value).as_subclass(_OnGpu)


@pytest.fixture
def capturing(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether a graph is being captured, to be changed by the test."""
    state = [False]
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: state[0])
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: SimpleNamespace(synchronize=lambda: None))
    return state


def test_what_a_capture_made_is_not_kept(capturing: list[bool]) -> None:
    """The graph's memory holds no number before a replay, and none after the graph is gone."""
    before = _filled_on_gpu(7.0)
    capturing[0] = True
    captured = _filled_on_gpu(8.0)
    assert _filled_on_gpu(7.0) is before
    capturing[0] = False
    assert _filled_on_gpu(8.0) is not captured


def test_what_a_capture_used_outlives_the_limit(capturing: list[bool]) -> None:
    """Every replay reads it, where the graph's author knows nothing of it."""
    used, unused = weakref.ref(_filled_on_gpu(11.0)), weakref.ref(_filled_on_gpu(12.0))
    capturing[0] = True
    _filled_on_gpu(11.0)
    capturing[0] = False
    _filled_on_gpu(13.0), _filled_on_gpu(14.0)  # as many as are kept
    assert used() is not None and unused() is None


def test_what_is_kept_is_there_for_every_stream(monkeypatch: pytest.MonkeyPatch, capturing: list[bool]) -> None:
    """The next call may come from another stream, which does not wait for the one that it was made on."""
    waits: list[torch.device] = []
    stream = SimpleNamespace(synchronize=lambda: waits.append(_OnGpu.device))
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: stream)
    _filled_on_gpu(21.0), _filled_on_gpu(21.0)
    assert waits == [_OnGpu.device]
    capturing[0] = True
    _filled_on_gpu(22.0)  # to wait would end the capture
    assert len(waits) == 1
