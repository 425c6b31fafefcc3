"""`steady`: no reload falls between the launches of one op."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ContextDecorator, contextmanager

# Nobody is kept out for longer than this: a launch that hangs must not stop reloads, nor a reload launches.
_LONGEST_WAIT = 2.0

_gate = threading.Condition(_lock := threading.Lock())
_depth = threading.local()
_ops = 0
_changing = False


class _Steady(ContextDecorator):
    """Without a state of its own, and no generator: every op passes here, the smallest too."""

    def __enter__(self) -> None:
        global _ops
        depth = getattr(_depth, "value", 0)
        with _lock:
            if depth == 0 and _changing:  # an op inside an op must not wait for a change that waits for the outer one
                _gate.wait_for(lambda: not _changing, _LONGEST_WAIT)
            _ops += 1
        _depth.value = depth + 1

    def __exit__(self, *exception: object) -> None:
        global _ops
        _depth.value -= 1
        with _lock:
            _ops -= 1
            if _ops == 0:
                _gate.notify_all()


_STEADY = _Steady()


def steady() -> _Steady:
    """Within it no watch puts reloaded modules in use, so that the kernels of several modules fit together."""
    return _STEADY


@contextmanager
def between_ops() -> Iterator[None]:
    """Within it no op begins, once those that have begun are done."""
    global _changing
    with _gate:
        _changing = True  # before the wait: threads that take turns without a pause would leave no gap
        try:
            _gate.wait_for(lambda: _ops == 0, _LONGEST_WAIT)
            yield
        finally:
            _changing = False
            _gate.notify_all()
