"""How can a pixel tell where an edge should go?

You will learn
- how a signed distance and a logistic curve turn yes or no into a coverage that has a slope;
- what `sigma` does to the image, and to the gradient;
- how to check a gradient that Slang wrote against a finite difference.

Run `python tutorial.py`. It reads soft_triangle.slang, which lies beside it, and writes figure.png.
"""

# %% The shader imports what tutorial 02 has already: the camera, the triangle and its edge functions.
from pathlib import Path

import matplotlib.pyplot as plt
import torch

import slangrast as sr

HERE = Path(__file__).resolve().parent
device = "cuda" if torch.cuda.is_available() else "cpu"
SHADER, IMPORTS = HERE / "soft_triangle.slang", [HERE.parent / "02_hard_triangle"]
module = sr.load_module(SHADER, include_paths=IMPORTS)

WIDTH, HEIGHT = 240, 160
camera = module.Camera(origin=(0.0, 0.0), scale=(1.5, 1.0), frame_size=(WIDTH, HEIGHT))
SIZE = dict(blockSize=(16, 16, 1), gridSize=(WIDTH // 16, HEIGHT // 16, 1))

# %% The scene: counter-clockwise, so that edge functions are positive inside. Black surrounds it.
vertices = torch.tensor([[0.9, -0.35], [-0.2, 0.8], [-1.05, -0.65]], device=device)
color = torch.tensor([0.95, 0.6, 0.2], device=device)


# %% Forward: coverage = logistic(distance / sigma), with the distance positive inside. See `soft_color` in the shader.
def rasterize(vertices: torch.Tensor, color: torch.Tensor, sigma: float, module=module) -> torch.Tensor:
    image = vertices.new_empty(HEIGHT, WIDTH, 3)
    arguments = dict(vertices=vertices, color=color, out_image=image)
    module.rasterize_soft(camera=camera, sigma=sigma, **arguments).launchRaw(**SIZE)
    return image


sigmas = (0.003, 0.02, 0.1)
images = [rasterize(vertices, color, sigma) for sigma in sigmas]
for sigma, image in zip(sigmas, images, strict=True):
    partly = (0.01 * color < image) & (image < 0.99 * color)
    print(f"sigma {sigma}: {partly[..., 0].float().mean():.0%} of the pixels are neither inside nor outside")
assert torch.all((images[0] > 0.5 * color) == (images[2] > 0.5 * color))  # sigma blurs the outline, and leaves it there


# %% Reverse: `.bwd` reads the gradient of the image and adds to those of vertices and colour.
def gradient(vertices: torch.Tensor, color: torch.Tensor, sigma: float, grad_image: torch.Tensor, module=module):
    grad_vertices, grad_color = torch.zeros_like(vertices), torch.zeros_like(color)
    arguments = dict(vertices=(vertices, grad_vertices), color=(color, grad_color))
    out_image = (torch.empty_like(grad_image), grad_image)
    module.rasterize_soft.bwd(camera=camera, sigma=sigma, out_image=out_image, **arguments).launchRaw(**SIZE)
    return grad_vertices, grad_color


# %% Does it know what tutorial 02 could not say? The sum of the image is the area times the colour, and the area grows
# by (b.y - c.y) / 2 for each unit by which a moves to the right. The image has 80 x 80 pixels for each unit of area.
ones = torch.ones(HEIGHT, WIDTH, 3, device=device)
grows_by = (0.5 * (vertices[1, 1] - vertices[2, 1]) * 80 * 80 * color.sum()).item()
for sigma in sigmas:
    grad_vertices, _ = gradient(vertices, color, sigma, ones)
    print(f"sigma {sigma}: gradient of a.x {grad_vertices[0, 0]:.1f}, by hand {grows_by:.1f}")
    assert abs(grad_vertices[0, 0].item() - grows_by) < 0.01 * grows_by

# %% Trust no gradient unchecked. The same shader in double, one number, against the difference that it predicts.
double = sr.load_module(SHADER, include_paths=IMPORTS, precision="float64")  # on the CPU
scene = vertices.double().cpu(), color.double().cpu(), 0.02
grad_image = torch.rand(HEIGHT, WIDTH, 3, dtype=torch.float64, generator=torch.manual_seed(0))
grad_vertices, _ = gradient(*scene, grad_image, module=double)

step = torch.zeros(3, 2, dtype=torch.float64)
step[0, 0] = 1e-6  # a.x
ahead = rasterize(scene[0] + step, *scene[1:], module=double)
behind = rasterize(scene[0] - step, *scene[1:], module=double)
difference = ((ahead - behind) * grad_image).sum().item() / 2e-6
print(f"gradient of a.x {grad_vertices[0, 0]:.6f}, finite difference {difference:.6f}")
assert abs(grad_vertices[0, 0].item() - difference) < 1e-7 * abs(difference)


# %% Where does it come from? `.fwd` runs the other way: it takes how the inputs move, and gives how each pixel changes.
def derivative(sigma: float) -> torch.Tensor:
    image, out_change = torch.empty_like(ones), torch.zeros_like(ones)
    a_moves_right = torch.zeros_like(vertices)
    a_moves_right[0, 0] = 1.0
    arguments = dict(vertices=(vertices, a_moves_right), color=(color, torch.zeros_like(color)))
    module.rasterize_soft.fwd(camera=camera, sigma=sigma, out_image=(image, out_change), **arguments).launchRaw(**SIZE)
    return out_change[..., 0]


changes = [derivative(sigma) for sigma in sigmas]
for sigma, change in zip(sigmas, changes, strict=True):
    red = torch.zeros_like(ones)
    red[..., 0] = 1.0
    assert torch.isclose(change.sum(), gradient(vertices, color, sigma, red)[0][0, 0], rtol=1e-4)

# %% The figure, drawn in the plane: row 0 of an image is at the top, where y is 1.
figure, axes = plt.subplot_mosaic("ABC\nDEF\nGGG", figsize=(11, 7.2), height_ratios=(2, 2, 1.5), layout="constrained")
extent = (-1.5, 1.5, -1.0, 1.0)
for axis, sigma, image in zip("ABC", sigmas, images, strict=True):
    axes[axis].imshow(image.cpu().numpy(), extent=extent)
    axes[axis].set_title(f"sigma = {sigma}")
    axes["G"].plot(torch.arange(WIDTH) / 80 - 1.5, image[HEIGHT // 2, :, 0].cpu(), label=f"sigma = {sigma}")
for axis, change in zip("DEF", changes, strict=True):
    limit = change.abs().max().item()
    drawn = axes[axis].imshow(change.cpu().numpy(), extent=extent, cmap="RdBu_r", vmin=-limit, vmax=limit)
    axes[axis].plot(*vertices[[0, 1, 2, 0]].T.cpu(), "k-", linewidth=0.5)
    axes[axis].annotate("", (1.3, -0.35), (0.9, -0.35), arrowprops=dict(arrowstyle="->"))
    axes[axis].set_title("d red / d a.x")
    figure.colorbar(drawn, ax=axes[axis], shrink=0.8)
axes["G"].axhline(0.5 * color[0].item(), color="0.7", linewidth=0.8)
axes["G"].set(title="Red along the middle row: half on the outline, for any sigma", xlabel="x", xlim=(-1.5, 1.5))
axes["G"].legend()
figure.savefig(HERE / "figure.png", dpi=110)

# %% Try this: square the distance, as the paper does. In `soft_color` the argument becomes `d * abs(d) / sigma`, and in
# Python each sigma becomes its square. Look at the two lower rows again: what does a pixel on the outline say now?
