"""Quick builds for the CPU engine, which has none of its own: for tests of what becomes of CUDA's."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from slangrast.runtime import module
from slangrast.runtime.request import BuildRequest


def build_quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is asked for quickly comes as a quick build from now on."""
    load = module._load

    def load_quickly(request: BuildRequest, *device_and_engine: Any) -> Any:
        build = load(request, *device_and_engine)
        if request.quick:
            build = copy.copy(build)
            build.quick = True
        return build

    monkeypatch.setattr(module, "_load", load_quickly)
