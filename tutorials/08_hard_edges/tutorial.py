"""What can an image of hard edges tell its vertices?

You will learn
- which part of an image's change the gradients inside triangles know, and which they miss;
- what `antialias` adds at silhouettes, and `edge_gradients` also where triangles pass through each other;
- how to check a gradient of moving edges, where the image itself gives no difference to compare with.

Run `python tutorial.py`. It uses the rasterizers of slangrast, and writes figure.png beside itself.
"""

# %% The scene: a flat blue triangle, and a warm one that passes through it. w is 1, and z is depth, from -1 to 1.
from pathlib import Path

import matplotlib.pyplot as plt
import torch

import slangrast as sr

HERE = Path(__file__).resolve().parent
device = "cuda" if torch.cuda.is_available() else "cpu"
HEIGHT, WIDTH = 28, 40
PIXEL = 2 / WIDTH  # its width, for an image from -1 to 1

warm = [[-0.82, -0.71, 0.5, 1.0], [0.58, -0.47, -0.6, 1.0], [0.11, 0.83, -0.3, 1.0]]
blue = [[-0.63, 0.62, 0.0, 1.0], [-0.27, -0.86, 0.0, 1.0], [0.84, 0.29, 0.0, 1.0]]
positions = torch.tensor(warm + blue, device=device)
triangles = torch.tensor([[0, 1, 2], [3, 4, 5]], device=device)
colors = torch.tensor([[0.9, 0.1, 0.1], [1.0, 0.9, 0.2], [1.0, 0.6, 0.1]] + [[0.1, 0.3, 0.8]] * 3, device=device)
background = torch.tensor([0.05, 0.05, 0.1], device=device)


# %% Four ways to draw it. The first three see the same triangle at the same pixel centres.
def render(positions: torch.Tensor, way: str, resolution: tuple[int, int] = (HEIGHT, WIDTH)) -> torch.Tensor:
    if way == "soft":
        scene = positions, triangles, colors, resolution
        soft = dict(coverage="distance", sigma=0.01, gamma=0.1, epsilon=0.0, depth="ndc", background=background)
        return sr.soft_rasterize(*scene, cutoff=1e-6, **soft).color  # a larger cutoff leaves a step in the image
    geometry = sr.rasterize(positions, triangles, resolution)
    image = torch.where(geometry.mask[..., None], sr.interpolate(geometry, colors), background)
    if way == "antialias":
        return sr.antialias(image, geometry)
    return sr.edge_gradients(image, geometry) if way == "edge_gradients" else image


WAYS = ("inside", "antialias", "edge_gradients", "soft")
images = {way: render(positions, way)[0] for way in WAYS}
assert torch.equal(images["edge_gradients"], images["inside"])  # it leaves the image, and changes its gradient
assert not torch.equal(images["antialias"], images["inside"])

# %% What is the truth? A pixel should show the mean of what lies on its area: draw 16 x 16 samples of it, and average.
SAMPLES = 16


def exact(positions: torch.Tensor) -> torch.Tensor:
    fine = render(positions, "inside", (HEIGHT * SAMPLES, WIDTH * SAMPLES))
    return fine.unflatten(2, (WIDTH, SAMPLES)).unflatten(1, (HEIGHT, SAMPLES)).mean((2, 4))


# %% This image changes as soon as an edge passes a sample. Move the warm triangle by a quarter of a pixel to the right,
# and to the left: the difference is how each pixel changes, and what a gradient should say.
def exact_change(move: torch.Tensor) -> torch.Tensor:
    step = 0.25 * PIXEL * move
    return ((exact(positions + step) - exact(positions - step)) / (0.5 * PIXEL))[0]


to_the_right = torch.zeros_like(positions)
to_the_right[:3, 0] = 1.0


# %% What does each way say of this move? The gradient of one pixel's green, along the move, is how this green changes.
# Draw one copy for each pixel, and ask each copy for a pixel of its own: a single reverse pass answers for all.
def told_change(way: str) -> torch.Tensor:
    copies = positions.expand(HEIGHT * WIDTH, -1, -1).clone().requires_grad_()
    green = render(copies, way)[..., 1].flatten(1)
    (grad_copies,) = torch.autograd.grad(green.diagonal().sum(), copies)
    return (grad_copies * to_the_right).sum((1, 2)).view(HEIGHT, WIDTH)


changes = {"exact": exact_change(to_the_right)[..., 1]} | {way: told_change(way) for way in WAYS}
for way, change in changes.items():
    print(f"{way:14} green grows by {change.sum():6.1f} in all")
share = (changes["inside"].norm() / changes["exact"].norm()).item()
print(f"inside, green slides along with the triangle: that is {share:.0%} as large as the whole change")
assert share < 0.25

# %% A loss asks in another way: it weighs all pixels, and wants a gradient for each coordinate of each vertex.
y, x = torch.meshgrid(torch.linspace(-1, 1, HEIGHT), torch.linspace(-1, 1, WIDTH), indexing="ij")
weights = torch.stack([torch.cos(2 * x + y), torch.sin(2 * y - x), torch.cos(3 * x * y + x)], -1).to(device)


def gradient(way: str) -> torch.Tensor:
    moved = positions.clone().requires_grad_()
    loss = (render(moved, way) * weights).sum()
    return torch.autograd.grad(loss, moved)[0][:, :3]  # of x, y and z


moves = torch.eye(positions.numel(), device=device).view(*positions.shape, *positions.shape)[:, :3].flatten(0, 1)
exact_gradient = torch.stack([(exact_change(move) * weights).sum() for move in moves]).view(-1, 3)
gradients = {way: gradient(way) for way in WAYS}

# %% Cosine 1 is the right direction, size 1 the right length. `inside` misses every edge. `antialias` misses the line
# where the triangles pass through each other, and with it all of z. `edge_gradients` finds it.
cosines = {}
for way, grad in gradients.items():
    cosines[way] = torch.cosine_similarity(grad.flatten(), exact_gradient.flatten(), dim=0).item()
    size = (grad.norm() / exact_gradient.norm()).item()
    print(f"{way:14} cosine {cosines[way]:6.3f}, size {size:.2f}, of z alone {grad[:, 2].norm():5.1f}")
print(f"exact gradient: of z alone {exact_gradient[:, 2].norm():5.1f}")
assert cosines["inside"] < 0.7 < 0.9 < cosines["antialias"] < cosines["edge_gradients"] and cosines["soft"] > 0.9
assert cosines["edge_gradients"] > 0.98
assert torch.all(gradients["antialias"][:, 2] == 0)
assert torch.cosine_similarity(gradients["edge_gradients"][:, 2], exact_gradient[:, 2], dim=0) > 0.98

# %% And soft? Its image has slopes everywhere, so that its gradient agrees with its own differences. But it is another
# image: its edges are wider, and what is hidden shines through.
step = 1e-3 * to_the_right
difference = ((render(positions + step, "soft") - render(positions - step, "soft")) * weights).sum() / 2e-3
told = gradients["soft"][:3, 0].sum()
off = (images["soft"] - exact(positions)[0]).abs().mean() / (images["antialias"] - exact(positions)[0]).abs().mean()
print(f"soft: told {told:.1f}, difference {difference:.1f}; {off:.0f} times as far from the exact image as antialias")
assert torch.isclose(told, difference, rtol=0.01) and off > 2.0

# %% The figure. Rows: the images; how green changes as the warm triangle moves to the right; the gradients.
mosaic = [["exact", *WAYS], [f"{way} change" for way in ("exact", *WAYS)], ["weights", *(f"{w} fit" for w in WAYS)]]
figure, axes = plt.subplot_mosaic(mosaic, figsize=(13, 6.6), height_ratios=(2, 2, 2.4), layout="constrained")
for way, image in {"exact": exact(positions)[0], **images, "weights": 0.5 + 0.5 * weights}.items():
    axes[way].imshow(image.cpu().numpy())
    axes[way].set_title({"exact": "exact: the mean of 16 x 16", "weights": "weights of the loss"}.get(way, way))
for way, change in changes.items():
    drawn = axes[f"{way} change"].imshow(change.cpu().numpy(), cmap="RdBu_r", norm="symlog", vmin=-20, vmax=20)
for way in ("weights", *changes, *(f"{way} change" for way in changes)):
    axes[way].set(xticks=[], yticks=[])
axes["exact change"].set_ylabel("change of green")
figure.colorbar(drawn, ax=[axes["soft change"]], ticks=(-10, -1, 0, 1, 10), format="%d")

# %% Each point is one coordinate of one vertex: on the grey line where the gradient is right.
for way, grad in gradients.items():
    axis = axes[f"{way} fit"]
    axis.plot((-160, 90), (-160, 90), "0.8")
    for k, name in enumerate("xyz"):
        axis.plot(exact_gradient[:, k].cpu(), grad[:, k].cpu(), "o^s"[k], markersize=4, label=f"of {name}")
    axis.set(title=f"cosine {cosines[way]:.3f}", xlabel="exact gradient", xlim=(-160, 90), ylim=(-160, 90))
axes["inside fit"].set_ylabel("gradient told")
axes["inside fit"].legend(loc="lower right")
figure.savefig(HERE / "figure.png", dpi=110)

# %% Try this: make `gamma` 0.02, so that what is hidden hardly shines through. Why do edges now stand outside of where
# they were, and what happens to the cosine of `soft`? Then make `epsilon`, the depth score of the background, 0.3.
