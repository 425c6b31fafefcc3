"""Draw the falloffs and the T-conorms: python docs/make_families.py."""

from __future__ import annotations

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import torch
from matplotlib.patches import Polygon

import slangrast as sr

FOLDER = Path(__file__).parent

# By how they end: at -1 and 1, exponentially, slowly, not alike on both sides, on one side only.
FALLOFFS = (
    *("hard", "uniform", "cubic_hermite", "wigner_semicircle", "gaussian", "laplace"),
    *("logistic", "gudermannian", "cauchy", "reciprocal", "gumbel_max", "gumbel_min"),
    *("exponential", "exponential_reversed", "gamma", "gamma_reversed", "levy", "levy_reversed"),
)
SHAPES = (0.5, 2.0)  # of the gamma distribution
REACH = 4.0

SILHOUETTES = (
    *(("max", None), ("probabilistic", None), ("einstein", None), ("sum", None)),
    *(("hamacher", 0.1), ("hamacher", 10.0), ("frank", 1e-3), ("frank", 1e3)),
    *(("yager", 0.5), ("yager", 4.0), ("aczel_alsina", 0.5), ("aczel_alsina", 4.0)),
    *(("dombi", 0.5), ("dombi", 4.0), ("schweizer_sklar", -0.5), ("schweizer_sklar", -4.0)),
)


def coverage_by_a_half_plane(falloff: str | sr.Formula, pixels: int = 801) -> tuple[torch.Tensor, torch.Tensor]:
    """x from -REACH to REACH, and D(x): a row of pixels, where a triangle with no other edge in sight covers x > 0."""
    x = torch.linspace(-REACH, REACH, pixels, dtype=torch.float64)
    # The image is one pixel high, so that distances are in units of half a pixel: neighbours are 2 apart.
    far = 1e4
    positions = torch.tensor([[0, -far * pixels, 0, 1], [2 * far, 0, 0, 1], [0, far * pixels, 0, 1]]).double()
    image = sr.soft_silhouette(
        positions, torch.tensor([[0, 1, 2]]), (1, pixels),
        sigma=(pixels - 1) / REACH, coverage="distance", falloff=falloff, silhouette="sum", cutoff=1e-6,
    )  # fmt: skip
    return x, image[0, 0]


def draw_falloffs() -> None:
    figure, axes = plt.subplots(3, 6, figsize=(10.2, 5.6), layout="constrained", sharex=True, sharey=True)
    for axis, name in zip(axes.flat, FALLOFFS, strict=True):
        members = [(f"p = {p:g}", sr.Formula(name, p=p)) for p in SHAPES] if "gamma" in name else [("", name)]
        for (label, falloff), style in zip(members, ("-", ":"), strict=False):
            x, d = coverage_by_a_half_plane(falloff)
            if name != "hard":
                density = torch.gradient(d, spacing=(x,))[0]
                axis.fill_between(x, density, color="tab:orange", alpha=0.3, linewidth=0, label="_")
                axis.plot(x, density, color="tab:orange", linestyle=style, linewidth=1)
            axis.plot(x, d, color="tab:blue", linestyle=style, label=label)
        if len(members) > 1:
            side = "center right" if "reversed" in name else "center left"  # where nothing happens
            axis.legend(fontsize=7, loc=side, frameon=False, handlelength=1.1, borderaxespad=0)
        axis.set_title(name, fontsize=9)
        axis.set(ylim=(-0.05, 1.1), xlim=(-REACH, REACH), xticks=[-4, 0, 4], yticks=[0, 0.5, 1])
        axis.grid(color="0.9")
    figure.legend(
        handles=axes[0, 1].lines, labels=["its slope: the density", "D(x)"], loc="outside lower center", ncols=2
    )
    figure.savefig(FOLDER / "falloffs.png", dpi=80)
    plt.close(figure)


SIZE = 160


def fan() -> tuple[torch.Tensor, torch.Tensor]:
    """Positions and triangles of three triangles that overlap, in pairs and all at once."""
    angles = torch.pi / 2 + torch.tensor([0.0, 2.0, 4.0]) * torch.pi / 3
    corner = torch.stack([angles.cos(), angles.sin()], dim=1)
    positions = torch.cat([0.47 * corner + 0.3 * corner[k] - torch.tensor([0.0, 0.18]) for k in range(3)])
    return torch.cat([positions, torch.tensor([[0.0, 1.0]]).expand(9, 2)], dim=1), torch.arange(9).reshape(3, 3)


def draw_silhouettes() -> None:
    positions, triangles = fan()
    figure, axes = plt.subplots(4, 4, figsize=(10.2, 11.2), layout="constrained")
    for axis, (name, p) in zip(axes.flat, SILHOUETTES, strict=True):
        silhouette = name if p is None else sr.Formula(name, p=p)
        image = sr.soft_silhouette(positions, triangles, (SIZE, SIZE), sigma=0.03, silhouette=silhouette)[0]
        rows = torch.linspace(1 - 1 / SIZE, -1 + 1 / SIZE, SIZE)
        shown = axis.contourf(-rows, rows, image, levels=[k / 10 for k in range(11)], cmap="viridis")
        for corners in positions[triangles, :2]:
            axis.add_patch(Polygon(corners.numpy(), fill=False, edgecolor="white", linewidth=0.5))
        axis.set_aspect("equal")
        axis.set_title(name if p is None else f"{name}, p = {p:g}", fontsize=10)
        axis.set_axis_off()
    figure.colorbar(shown, ax=axes, location="bottom", shrink=0.4, aspect=40, label="silhouette S")
    figure.savefig(FOLDER / "silhouettes.png", dpi=80)
    plt.close(figure)


if __name__ == "__main__":
    draw_falloffs()
    draw_silhouettes()
