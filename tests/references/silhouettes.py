"""T-conorms of two coverages a, b and a parameter p, all [R]: the twins of the structs of `silhouette.slang`.

Petersen, Goldluecke, Borgelt, Deussen, "GenDR: A Generalized Differentiable Renderer", CVPR 2022, as functions of two
coverages. The shaders have generators and their inverses instead.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

TConorm = Callable[[Tensor, Tensor, Tensor], Tensor]


def probabilistic(a: Tensor, b: Tensor, p: Tensor) -> Tensor:
    return a + b - a * b


def einstein(a: Tensor, b: Tensor, p: Tensor) -> Tensor:
    return (a + b) / (1 + a * b)


def hamacher(a: Tensor, b: Tensor, p: Tensor) -> Tensor:
    return (a + b + (p - 2) * a * b) / (1 + (p - 1) * a * b)


def frank(a: Tensor, b: Tensor, p: Tensor) -> Tensor:
    return 1 - torch.log1p((p ** (1 - a) - 1) * (p ** (1 - b) - 1) / (p - 1)) / p.log()


def yager(a: Tensor, b: Tensor, p: Tensor) -> Tensor:
    return ((a**p + b**p) ** (1 / p)).clamp(max=1)


def aczel_alsina(a: Tensor, b: Tensor, p: Tensor) -> Tensor:
    return 1 - torch.exp(-(((-torch.log1p(-a)) ** p + (-torch.log1p(-b)) ** p) ** (1 / p)))


def dombi(a: Tensor, b: Tensor, p: Tensor) -> Tensor:
    return 1 / (1 + ((a / (1 - a)) ** p + (b / (1 - b)) ** p) ** (-1 / p))


def schweizer_sklar(a: Tensor, b: Tensor, p: Tensor) -> Tensor:
    return 1 - ((1 - a) ** p + (1 - b) ** p - 1) ** (1 / p)


T_CONORMS: dict[str, TConorm] = {
    f.__name__: f for f in (einstein, hamacher, frank, yager, aczel_alsina, dombi, schweizer_sklar)
}
