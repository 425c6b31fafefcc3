"""How much room to give lists whose length only the device knows, without waiting for it at every step."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable

import torch

_SPARE = 1.25  # scenes of one shape differ little from step to step
_MOST_KEPT = 64
_LAST_TOTALS: OrderedDict[Hashable, torch.Tensor] = OrderedDict()  # in pinned memory, which the device writes to


def room_for(total: torch.Tensor, scene: Hashable) -> int:
    """A number of entries to allocate for lists that have `total` of them.

    On the CPU it is the total. On CUDA the first call for a `scene`, which may be anything that tells its shape, waits
    for the total. Later calls go by that of a call before, which arrives while the device works on, and add a quarter:
    some lists may not fit in then, and whoever reads them must do without.
    """
    if total.device.type == "cpu":
        return int(total)
    key = (scene, total.device)
    last = _LAST_TOTALS.get(key)
    if last is None:
        room = int(total)
        last = _LAST_TOTALS[key] = torch.tensor(room, dtype=total.dtype).pin_memory()
        if len(_LAST_TOTALS) > _MOST_KEPT:
            _LAST_TOTALS.popitem(last=False)
    else:
        _LAST_TOTALS.move_to_end(key)
        room = int(last)
    last.copy_(total, non_blocking=True)
    return int(_SPARE * room) + 1024
