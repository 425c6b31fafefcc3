"""How does a triangle become pixels, and why can pixels not tell its vertices where to go?

You will learn
- how edge functions decide which pixels a triangle covers;
- how to call a Slang kernel from Python: with tensors, with a struct, and in reverse through `.bwd`;
- why the gradient of a hard image is zero for the vertices, though not for the colour.

Run `python tutorial.py`. It reads hard_triangle.slang, which lies beside it, and writes figure.png.
"""

# %% A Slang file becomes a module: its kernels and structs are attributes.
from pathlib import Path

import matplotlib.pyplot as plt
import torch

import slangrast as sr

HERE = Path(__file__).resolve().parent
device = "cuda" if torch.cuda.is_available() else "cpu"
module = sr.load_module(HERE / "hard_triangle.slang")
print(module.kernels, "on the", device)

# %% The scene: three vertices in the plane, x right and y up, and one colour.
vertices = torch.tensor([[0.9, -0.35], [-0.2, 0.8], [-1.05, -0.65]], device=device)
color = torch.tensor([0.95, 0.6, 0.2], device=device)


def camera(width: int, height: int):
    """Shows y from -1 to 1, and as much of x as makes the pixels square."""
    return module.Camera(origin=(0.0, 0.0), scale=(width / height, 1.0), frame_size=(width, height))


def launch(kernel, width: int, height: int) -> None:
    """Run with a thread for each pixel, in blocks of 16 x 16. The last blocks reach beyond the image."""
    kernel.launchRaw(blockSize=(16, 16, 1), gridSize=((width + 15) // 16, (height + 15) // 16, 1))


# %% Forward. The kernel asks for each pixel centre on which side of the three edges it lies.
def rasterize(vertices: torch.Tensor, width: int, height: int) -> torch.Tensor:
    image = torch.empty(height, width, 3, device=device)
    arguments = dict(camera=camera(width, height), vertices=vertices, color=color, out_image=image)
    launch(module.rasterize_hard(**arguments), width, height)
    return image


coarse, fine = rasterize(vertices, 24, 16), rasterize(vertices, 480, 320)
# Each pixel has the colour or is black. Their share is the triangle's share of the area that the camera shows.
inside = fine[..., 0] > 0
assert torch.equal(fine, inside[..., None] * color)
(x0, y0), (x1, y1), (x2, y2) = vertices.tolist()
area = 0.5 * ((x1 - x0) * (y2 - y0) - (y1 - y0) * (x2 - x0))
assert abs(inside.float().mean().item() - area / 6.0) < 1e-3


# %% Reverse. Say how much a brighter pixel is worth; .bwd adds what each input is worth to the zeros given beside it.
image, grad_image = torch.empty_like(fine), torch.ones_like(fine)
grad_vertices, grad_color = torch.zeros_like(vertices), torch.zeros_like(color)
arguments = dict(vertices=(vertices, grad_vertices), color=(color, grad_color), out_image=(image, grad_image))
launch(module.rasterize_hard.bwd(camera=camera(480, 320), **arguments), 480, 320)
print("gradient of the image's sum\n  vertices", grad_vertices.tolist(), "\n  colour  ", grad_color.tolist())
# The colour of every pixel inside counts once. The vertices enter only a yes or no, which has no slope.
assert torch.all(grad_color == inside.sum())
assert torch.all(grad_vertices == 0)


# %% Is zero right? Move a vertex of the coarse triangle by small steps, and count the pixels inside.
shifts = torch.linspace(0.0, 0.375, 301)  # three pixels, each 1/8 wide
moved = [vertices + torch.tensor([[shift, 0.0], [0.0, 0.0], [0.0, 0.0]], device=device) for shift in shifts]
covered = torch.tensor([(rasterize(v, 24, 16)[..., 0] > 0).sum().item() for v in moved])
steps = torch.count_nonzero(covered.diff()).item()
print(f"the count jumps {steps} times and is constant between: a slope of zero almost everywhere")
assert 0 < steps < 20


# %% The figure, drawn in the plane: row 0 of an image is at the top, where y is 1.
def show(axis, image: torch.Tensor, title: str) -> None:
    axis.imshow(image.cpu().numpy(), extent=(-1.5, 1.5, -1.0, 1.0))
    axis.plot(*vertices[[0, 1, 2, 0]].T.cpu(), "w-", linewidth=1)
    for name, x, y in zip("abc", *(1.12 * vertices).T.tolist(), strict=True):
        axis.text(x, y, name, color="w", fontweight="bold", ha="center", va="center")
    axis.set(title=title, xlabel="x", ylabel="y", xlim=(-1.5, 1.5), ylim=(-1.0, 1.0))


figure, axes = plt.subplots(2, 2, figsize=(9, 6.4), layout="constrained")
show(axes[0, 0], coarse, "24 × 16 pixels: is the centre inside?")
column, row = torch.meshgrid(torch.arange(24), torch.arange(16), indexing="xy")
centres = dict(c=(coarse[..., 0] > 0).cpu(), cmap="gray", s=6, edgecolors="0.5", linewidths=0.5)
axes[0, 0].scatter((column + 0.5) / 8 - 1.5, 1.0 - (row + 0.5) / 8, **centres)
show(axes[0, 1], fine, "480 × 320 pixels")

# %% Below: the staircase that the reverse looked along, and what it found.
axes[1, 0].plot(shifts * 8, covered, drawstyle="steps-post")
axes[1, 0].set(
    title="Vertex a moves to the right", xlabel="shift, coarse pixels", ylabel="pixels inside", yticks=range(80, 101, 4)
)
gradient = [*grad_vertices.flatten().tolist(), *grad_color.tolist()]
bars = axes[1, 1].barh(["a.x", "a.y", "b.x", "b.y", "c.x", "c.y", "red", "green", "blue"], gradient)
axes[1, 1].bar_label(bars, fmt="%.0f", padding=3)
axes[1, 1].set(title="Gradient of the sum of the fine image", xlim=(0, 1.2 * max(gradient)), xticks=[])
axes[1, 1].invert_yaxis()
figure.savefig(HERE / "figure.png", dpi=110)

# %% Try this: let `hard_color` return `t.color * e.x / (e.x + e.y + e.z)`, which fades towards the edge from a to b.
# Remove the asserts that fail. The vertices now have gradients. Add up the three: that is what moving the whole
# triangle would do to the sum of the image. What should it be, and what does this gradient not see?
