"""Can you find a triangle from a picture of it?

You will learn
- how a kernel and its `.bwd` become one operation of PyTorch, an `autograd.Function`;
- how gradient descent then moves vertices and colour until the images agree;
- how a thread that renders a strip of pixels spares the reverse most of its atomic additions.

Run `python tutorial.py`. It reads fit_a_triangle.slang, which lies beside it, and writes figure.png and animation.gif.
"""

# %% The shader imports the scene of tutorial 02 and the soft edges of tutorial 03, and adds the loop over a strip.
import time
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from PIL import Image

import slangrast as sr

HERE = Path(__file__).resolve().parent
device = "cuda" if torch.cuda.is_available() else "cpu"
SIZE, SIGMA, ROWS = 1024, 0.03, 32  # pixels, units of the plane, pixels for each thread

imports = [HERE.parent / "02_hard_triangle", HERE.parent / "03_soft_triangle"]
module = sr.load_module(HERE / "fit_a_triangle.slang", include_paths=imports, defines={"ROWS": ROWS})
scene = dict(camera=module.Camera(origin=(0.0, 0.0), scale=(1.0, 1.0), frame_size=(SIZE, SIZE)), sigma=SIGMA)
launch_size = dict(blockSize=(32, 1, 1), gridSize=(SIZE // 32, SIZE // ROWS, 1))


# %% Forward launches the kernel; backward launches its .bwd on the same arguments, each with its gradient beside it.
class Rasterize(torch.autograd.Function):
    """`rasterize` of fit_a_triangle.slang: vertices [3, 2] and color [3] to an image [SIZE, SIZE, 3]."""

    @staticmethod
    def forward(ctx, vertices: torch.Tensor, color: torch.Tensor) -> torch.Tensor:
        image = vertices.new_empty(SIZE, SIZE, 3)
        module.rasterize(vertices=vertices, color=color, out_image=image, **scene).launchRaw(**launch_size)
        ctx.save_for_backward(vertices, color, image)
        return image

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad_image: torch.Tensor):
        vertices, color, image = ctx.saved_tensors
        grad_vertices, grad_color = torch.zeros_like(vertices), torch.zeros_like(color)  # .bwd adds to them
        arguments = dict(vertices=(vertices, grad_vertices), color=(color, grad_color))
        module.rasterize.bwd(out_image=(image, grad_image), **arguments, **scene).launchRaw(**launch_size)
        return grad_vertices, grad_color


# %% The picture to explain, and the first guess.
target_vertices = torch.tensor([[0.7, -0.3], [-0.3, 0.2], [-0.6, -0.6]], device=device)
target_color = torch.tensor([0.3, 0.8, 0.3], device=device)
target = Rasterize.apply(target_vertices, target_color)

vertices = torch.tensor([[0.5, -0.5], [-0.5, 0.5], [-0.5, -0.5]], device=device, requires_grad=True)
color = torch.tensor([0.8, 0.3, 0.3], device=device, requires_grad=True)
optimizer = torch.optim.Adam([vertices, color], lr=5e-3)


# %% A loop in reverse deserves a check: the kernel of tutorial 03, a thread for each pixel, must say the same.
arguments = dict(vertices=vertices.detach(), color=color.detach())
gradients = {name: torch.zeros_like(value) for name, value in arguments.items()}
one_by_one = torch.empty_like(target)
pixel_size = dict(blockSize=(16, 16, 1), gridSize=(SIZE // 16, SIZE // 16, 1))
module.rasterize_soft(out_image=one_by_one, **arguments, **scene).launchRaw(**pixel_size)
image = Rasterize.apply(vertices, color)
assert torch.allclose(image, one_by_one, atol=1e-6)

(image * target).sum().backward()
pairs = {name: (arguments[name], gradients[name]) for name in arguments}
module.rasterize_soft.bwd(out_image=(one_by_one, target), **pairs, **scene).launchRaw(**pixel_size)
assert torch.allclose(vertices.grad, gradients["vertices"], rtol=1e-3)
assert torch.allclose(color.grad, gradients["color"], rtol=1e-3)


# %% One step: render, compare, pull the difference back to nine numbers, and move them.
def step() -> tuple[float, torch.Tensor, torch.Tensor]:
    optimizer.zero_grad()
    image = Rasterize.apply(vertices, color)
    image.retain_grad()  # only to look at it
    loss = torch.nn.functional.mse_loss(image, target)
    loss.backward()
    optimizer.step()
    return loss.item(), image.detach(), image.grad


def small(image: torch.Tensor) -> torch.Tensor:
    """A quarter of the image's size for the pictures, each pixel the mean of 4 x 4."""
    return torch.nn.functional.avg_pool2d(image.movedim(2, 0), 4).movedim(0, 2).cpu()


# %% Descend, and keep what the pictures need.
losses, errors, path, pulls, frames = [], [], [], [], {}
start = time.perf_counter()
for iteration in range(400):
    path.append(vertices.detach().cpu().clone())
    loss, image, grad_image = step()
    losses.append(loss)
    errors.append(max((vertices - target_vertices).abs().max().item(), (color - target_color).abs().max().item()))
    pulls.append(-vertices.grad.cpu())
    if iteration in range(0, 240, 6) or iteration == 399:
        frames[iteration] = small(image), small(grad_image)
    if iteration % 50 == 0 or iteration == 399:
        print(f"step {iteration:3d}: loss {loss:.1e}, largest error {errors[-1]:.1e}")
print(f"{time.perf_counter() - start:.0f} seconds")
assert errors[-1] < 1e-3


# %% Pictures are drawn in the plane: row 0 of an image is at the top, where y is 1.
def show(axis, image: torch.Tensor, title: str, outline: torch.Tensor, style: str) -> None:
    axis.clear()
    axis.imshow(image.clamp(0.0, 1.0).numpy(), extent=(-1.0, 1.0, -1.0, 1.0))
    axis.plot(*outline[[0, 1, 2, 0]].T.tolist(), style, linewidth=0.8)
    axis.set(xlim=(-1.0, 1.0), ylim=(-1.0, 1.0), xticks=[-1, 0, 1], yticks=[-1, 0, 1])
    axis.set_title(title, fontsize="medium")


# %% The animation: image, gradient and target, with arrows that say where the vertices are pulled.
small_target, target_outline = small(target), target_vertices.cpu()
figure, axes = plt.subplots(1, 3, figsize=(8, 3), dpi=80, layout="constrained")
pages = []
for iteration, (image, grad_image) in frames.items():
    show(axes[0], image, f"image, step {iteration}", path[iteration], "w-")
    # Downhill is against the gradient. Grey: leave this pixel as it is; green: more green and less of the rest.
    show(axes[1], 0.5 - grad_image * target.numel() / 4.0, "minus gradient", path[iteration], "k-")
    pull = pulls[iteration] / pulls[0].norm(dim=1).max()
    axes[1].quiver(*path[iteration].T.tolist(), *pull.T.tolist(), angles="xy", scale_units="xy", scale=2)
    show(axes[2], small_target, "target", target_outline, "w-")
    figure.canvas.draw()
    pages.append(Image.fromarray(np.asarray(figure.canvas.buffer_rgba())).convert("RGB").quantize(64))
plt.close(figure)
durations = [80] * (len(pages) - 1) + [2000]  # milliseconds
pages[0].save(HERE / "animation.gif", save_all=True, append_images=pages[1:], duration=durations, loop=0)

# %% The figure: four moments, then loss and error, then the ways of the vertices.
figure, axes = plt.subplot_mosaic("ABCD\nEEFF", figsize=(11, 6.5), layout="constrained")
for axis, iteration in zip("ABCD", (0, 48, 96, 399), strict=True):
    show(axes[axis], frames[iteration][0], f"step {iteration}, target dashed", target_outline, "w--")
axes["E"].semilogy(losses, label="loss: mean squared difference")
axes["E"].semilogy(errors, label="largest error of a coordinate or colour")
axes["E"].axhline(1e-3, color="0.7", linewidth=0.8, label="the error that we allow")
axes["E"].set(xlabel="step")
axes["E"].legend()
ways = torch.stack(path)
for vertex, name in enumerate("abc"):
    axes["F"].plot(*ways[:, vertex].T.tolist(), label=name)
    axes["F"].plot(*ways[0, vertex].tolist(), "ko", markersize=3)
axes["F"].plot(*target_outline[[0, 1, 2, 0]].T.tolist(), "k--", linewidth=0.8)
axes["F"].set(title="from the dots to the target, dashed", xlabel="x", ylabel="y", aspect="equal")
axes["F"].legend()
figure.savefig(HERE / "figure.png", dpi=110)

# %% Try this: start from (0.9, 0.5), (0.4, 0.9), (0.4, 0.5), which does not touch the target. The triangle shrinks to
# nothing: why does that lower the loss? Which SIGMA finds the target from there, and what does it cost?
