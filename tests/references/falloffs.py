"""The falloffs as distribution functions: the twin of `falloff.slang`, in closed form.

Petersen, Goldluecke, Borgelt, Deussen, "GenDR: A Generalized Differentiable Renderer", CVPR 2022. Every function maps
x, shift and p, each [R], to D [R]; those that need no shift or p ignore them. `COMPLEMENTS` are forms of 1 - D that do
not cancel: a distribution's function from the other side. All keep their relative accuracy where they are small.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

Falloff = Callable[[Tensor, Tensor, Tensor], Tensor]


class _IncompleteGamma(torch.autograd.Function):
    """P(p, t), or Q(p, t) with `upper`. By t the derivative is the density; by p torch has none: differences of fourth
    order."""

    @staticmethod
    def forward(ctx, p: Tensor, t: Tensor, upper: bool) -> Tensor:
        function = torch.special.gammaincc if upper else torch.special.gammainc
        ctx.save_for_backward(p, t)
        ctx.function, ctx.sign = function, -1 if upper else 1
        return function(p, t)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        p, t = ctx.saved_tensors
        h = 1e-3 * p
        near, far = (ctx.function(p + k * h, t) - ctx.function(p - k * h, t) for k in (1, 2))
        density = torch.exp((p - 1) * t.log() - t - torch.lgamma(p))
        return gradient * (8 * near - far) / (12 * h), gradient * ctx.sign * density, None


def where_positive(t: Tensor, function: Callable[[Tensor], Tensor], otherwise: float) -> Tensor:
    """`function` of t > 0; elsewhere it is not asked, since its gradient may be infinite there."""
    positive = t > 0
    return torch.where(positive, function(torch.where(positive, t, 1.0)), otherwise)


def hard(x: Tensor, shift: Tensor, p: Tensor) -> Tensor:
    return (x >= 0).to(x)


def uniform(x: Tensor, shift: Tensor, p: Tensor) -> Tensor:
    return ((1 + x) / 2).clamp(0, 1)


def cubic_hermite(x: Tensor, shift: Tensor, p: Tensor) -> Tensor:
    y = uniform(x, shift, p)
    return 3 * y**2 - 2 * y**3


def wigner_semicircle(x: Tensor, shift: Tensor, p: Tensor) -> Tensor:
    """With x = -cos(phi / 2), D is (phi - sin(phi)) / (2 pi); by its series for phi < 1, where that cancels."""
    inside = x.abs() < 1
    phi = 4 * torch.asin(torch.where(inside, (1 + x) / 2, 0.5).sqrt())
    small = torch.where(phi < 1, phi, 0.0)
    series = sum(-((-1) ** k) * small ** (2 * k + 1) / math.factorial(2 * k + 1) for k in range(1, 9))
    segment = torch.where(phi < 1, series, phi - phi.sin()) / (2 * math.pi)
    return torch.where(inside, segment, (x > 0).to(x))


def gaussian(x: Tensor, shift: Tensor, p: Tensor) -> Tensor:
    return torch.special.erfc(-x / math.sqrt(2)) / 2


def laplace(x: Tensor, shift: Tensor, p: Tensor) -> Tensor:
    e = torch.exp(-x.abs()) / 2
    return torch.where(x < 0, e, 1 - e)


def logistic(x: Tensor, shift: Tensor, p: Tensor) -> Tensor:
    return torch.sigmoid(x)


def gudermannian(x: Tensor, shift: Tensor, p: Tensor) -> Tensor:
    return 2 / math.pi * x.exp().atan()


def cauchy(x: Tensor, shift: Tensor, p: Tensor) -> Tensor:
    return torch.atan2(torch.ones_like(x), -x) / math.pi


def reciprocal(x: Tensor, shift: Tensor, p: Tensor) -> Tensor:
    a = 1 + x.abs()
    return torch.where(x < 0, 1 / (2 * a), (1 + 2 * x) / (2 * a))


def gumbel_max(x: Tensor, shift: Tensor, p: Tensor) -> Tensor:
    return torch.exp(-torch.exp(-x))


def gumbel_min(x: Tensor, shift: Tensor, p: Tensor) -> Tensor:
    return -torch.expm1(-torch.exp(x))


def exponential(x: Tensor, shift: Tensor, p: Tensor) -> Tensor:
    return where_positive(x + shift, lambda t: -torch.expm1(-t), 0.0)


def exponential_reversed(x: Tensor, shift: Tensor, p: Tensor) -> Tensor:
    return where_positive(shift - x, lambda t: torch.exp(-t), 1.0)


def gamma(x: Tensor, shift: Tensor, p: Tensor) -> Tensor:
    return where_positive(x + shift, lambda t: _IncompleteGamma.apply(p, t, False), 0.0)


def gamma_reversed(x: Tensor, shift: Tensor, p: Tensor) -> Tensor:
    return where_positive(shift - x, lambda t: _IncompleteGamma.apply(p, t, True), 1.0)


def levy(x: Tensor, shift: Tensor, p: Tensor) -> Tensor:
    return where_positive(x + shift, lambda t: torch.special.erfc((2 * t) ** -0.5), 0.0)


def levy_reversed(x: Tensor, shift: Tensor, p: Tensor) -> Tensor:
    return where_positive(shift - x, lambda t: torch.special.erf((2 * t) ** -0.5), 1.0)


SYMMETRIC: dict[str, Falloff] = {
    f.__name__: f
    for f in (uniform, cubic_hermite, wigner_semicircle, gaussian, laplace, logistic, gudermannian, cauchy, reciprocal)
}
PAIRS: dict[str, tuple[Falloff, Falloff]] = {
    "gumbel_max": (gumbel_max, gumbel_min),
    "exponential": (exponential, exponential_reversed),
    "gamma": (gamma, gamma_reversed),
    "levy": (levy, levy_reversed),
}
FALLOFFS: dict[str, Falloff] = {
    "hard": hard,
    **SYMMETRIC,
    **{f.__name__: f for pair in PAIRS.values() for f in pair},
}
_OPPOSITE = {a.__name__: b for pair in PAIRS.values() for a, b in (pair, pair[::-1])}


def complement(kind: str, x: Tensor, shift: Tensor, p: Tensor) -> Tensor:
    """1 - D(x), as D(-x) of the same distribution seen from the other side."""
    if kind == "hard":
        return 1 - hard(x, shift, p)
    return _OPPOSITE.get(kind, FALLOFFS[kind])(-x, shift, p)
