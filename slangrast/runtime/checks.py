"""Whether the ops' kernels run checked: `slangrast.debug.checked` sets it, and ops ask when they load a module."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass


@dataclass(frozen=True)
class Checks:
    debug: bool = False  # every access checked
    simt: bool = False  # a block's threads as warps of 32 lanes


current_checks: ContextVar[Checks] = ContextVar("slangrast_checks", default=Checks())  # noqa: B039 (frozen)
