"""How much room to give lists whose length only the device knows, without waiting for it at every step."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass

import torch

_SPARE = 1.25  # scenes of one shape differ little from step to step
_MOST_ENTRIES = 2**31 - 1  # that an int32 can count: callers refuse to render what needs more
_MOST_KEPT = 64
_CALLS = 4  # so many renderings of one shape may take turns, as those of several softnesses in one step do
_LAST_TOTALS: OrderedDict[Hashable, _Totals] = OrderedDict()


@dataclass
class _Totals:
    """Of the last calls for a scene, in pinned memory, which the device writes to."""

    totals: torch.Tensor  # [_CALLS]
    next: int = 0


def room_for(total: torch.Tensor, scene: Hashable) -> int:
    """A number of entries to allocate for lists that have `total` of them.

    On the CPU it is the total. On CUDA the first call for a `scene`, which may be anything that tells its shape and
    what the lists are for, waits for the total. Later calls go by the largest of a few calls before, which arrive while
    the device works on, and add a quarter: some lists may not fit in then, and whoever reads them must do without.

    Raises:
        RuntimeError: it is the first call for a scene, and a CUDA graph is being captured.
    """
    if total.device.type == "cpu":
        return int(total)
    is_capturing = torch.cuda.is_current_stream_capturing()
    key = (scene, total.device)
    last = _LAST_TOTALS.get(key)
    if last is None:
        if is_capturing:
            raise RuntimeError(
                "slangrast: a CUDA graph is being captured, and nothing of this shape was rendered before: render it "
                "once first, so that the room for its lists is known"
            )
        last = _Totals(torch.full((_CALLS,), int(total), dtype=total.dtype).pin_memory())
    _LAST_TOTALS.pop(key, None)  # to the end, even where another thread has removed it meanwhile
    _LAST_TOTALS[key] = last
    if len(_LAST_TOTALS) > _MOST_KEPT:
        _LAST_TOTALS.popitem(last=False)
    room = int(last.totals.max())
    # A graph would write there at every replay, long after the memory may have become somebody else's.
    if not is_capturing:
        last.totals[last.next].copy_(total, non_blocking=True)
        last.next = (last.next + 1) % _CALLS
    return max(room, min(int(_SPARE * room) + 1024, _MOST_ENTRIES))
