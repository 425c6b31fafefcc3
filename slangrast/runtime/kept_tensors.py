"""Tensors that are made once and kept, because most calls of a session need the same ones. Nothing writes to them."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

import torch

_Made = TypeVar("_Made", bound=torch.Tensor)


class KeptTensors(Generic[_Made]):
    """`make`, which is called once for the same arguments. Keeps the `most` latest.

    While a CUDA graph is being captured it keeps nothing new: what is made then has no numbers before the graph is
    replayed, and loses its memory with the graph. What the graph takes from here is kept for ever, since replays read
    it.
    """

    def __init__(self, make: Callable[..., _Made], most: int) -> None:
        self._make, self._most = make, most
        self._kept: dict[Hashable, _Made] = {}
        self._in_graphs: dict[int, _Made] = {}
        self.__doc__ = make.__doc__

    def __call__(self, *arguments: Hashable) -> _Made:
        try:
            kept = self._kept[arguments]
        except KeyError:
            return self._make_and_keep(arguments)
        if kept.is_cuda and torch.cuda.is_current_stream_capturing():
            self._in_graphs[id(kept)] = kept
        return kept

    def _make_and_keep(self, arguments: tuple[Hashable, ...]) -> _Made:
        made = self._make(*arguments)
        if made.is_cuda:
            if torch.cuda.is_current_stream_capturing():
                return made
            torch.cuda.current_stream(made.device).synchronize()  # the next call may come from another stream
        self._kept[arguments] = made
        while len(self._kept) > self._most:
            self._kept.pop([*self._kept][0], None)  # noqa: RUF015 (other threads may add between iter and next)
        return made


def keep_tensors(most: int) -> Callable[[Callable[..., _Made]], KeptTensors[_Made]]:
    """Decorate a function of hashable arguments, given by position, that makes a tensor."""
    return lambda make: KeptTensors(make, most)
