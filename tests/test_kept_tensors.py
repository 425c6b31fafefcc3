"""Tensors that are kept between calls, and those that must not be."""

from __future__ import annotations

import pytest
import torch

from slangrast.runtime.kept_tensors import keep_tensors


@keep_tensors(2)
def _filled(value: float, size: int) -> torch.Tensor:
    return torch.full((size,), value)


def test_the_same_arguments_give_the_same_tensor() -> None:
    first = _filled(1.0, 3)
    assert _filled(1.0, 3) is first and _filled(2.0, 3) is not first
    _filled(3.0, 3)  # one more than are kept
    assert _filled(1.0, 3) is not first and torch.equal(_filled(1.0, 3), first)


def test_what_a_capture_made_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """The graph's memory holds no number before a replay, and none after the graph is gone."""
    before = _filled(7.0, 1)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    captured = _filled(8.0, 1)
    assert _filled(7.0, 1) is before
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    assert _filled(8.0, 1) is not captured
