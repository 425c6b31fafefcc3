"""Tensors that are made once and kept, because most calls of a session need the same ones. Nothing writes to them."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

import torch

_Made = TypeVar("_Made", bound=torch.Tensor)


class KeptTensors(Generic[_Made]):
    """`make`, which is called once for the same arguments. Keeps the `most` latest.

    While a CUDA graph is being captured it keeps nothing new: what is made then has no numbers before the graph is
    replayed, and loses its memory with the graph.
    """

    def __init__(self, make: Callable[..., _Made], most: int) -> None:
        self._make, self._most = make, most
        self._kept: dict[Hashable, _Made] = {}
        self.__doc__ = make.__doc__

    def __call__(self, *arguments: Hashable) -> _Made:
        try:
            return self._kept[arguments]
        except KeyError:
            pass
        made = self._make(*arguments)
        if not (torch.cuda.is_initialized() and torch.cuda.is_current_stream_capturing()):
            self._kept[arguments] = made
            while len(self._kept) > self._most:
                self._kept.pop([*self._kept][0], None)  # noqa: RUF015 (other threads may add between iter and next)
        return made


def keep_tensors(most: int) -> Callable[[Callable[..., _Made]], KeptTensors[_Made]]:
    """Decorate a function of hashable arguments, given by position, that makes a tensor."""
    return lambda make: KeptTensors(make, most)
