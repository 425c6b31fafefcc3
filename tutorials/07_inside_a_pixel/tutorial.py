"""Where in its triangle does a pixel fall?

You will learn
- how three weights, the barycentrics, say where in a triangle a pixel falls, and mix whatever its vertices carry;
- why the division by w bends them, and how to make them right again;
- how their derivatives tell a texture how much of it one pixel covers.

Run `python tutorial.py`. It reads inside_a_pixel.slang, which lies beside it, and writes figure.png.
"""

# %% The shader takes the camera from tutorial 02, and divides each vertex (x, y, w) by its w before it draws it.
from pathlib import Path

import matplotlib.pyplot as plt
import torch

import slangrast as sr

HERE = Path(__file__).resolve().parent
device = "cuda" if torch.cuda.is_available() else "cpu"
SHADER, IMPORTS = HERE / "inside_a_pixel.slang", [HERE.parent / "02_hard_triangle"]
module = sr.load_module(SHADER, include_paths=IMPORTS)

WIDTH, HEIGHT = 240, 160
camera = module.Camera(origin=(0.0, 0.0), scale=(1.0, 1.0), frame_size=(WIDTH, HEIGHT))

# %% The scene: a floor of 8 x 24 squares, in two triangles, from our feet into the distance, which is w.
NEAR, FAR = 1.0, 6.0
corners = [[-2.4, NEAR], [2.4, NEAR], [2.4, FAR], [-2.4, FAR]]
positions = torch.tensor([[x, w - 2.0, w] for x, w in corners], device=device)  # (x, y, w)
triangles = torch.tensor([[0, 1, 2], [0, 2, 3]], dtype=torch.int32, device=device)
squares = torch.tensor([[0, 0], [8, 0], [8, 24], [0, 24]], dtype=torch.float32, device=device)  # uv of the vertices
distance = positions[:, 2:].clone()


# %% Rasterize once: which triangle, and with which weights. Nothing here knows of squares or distances.
def launch(kernel, *, channels: int = 1, **arguments) -> None:
    kernel(**arguments).launchRaw(blockSize=(16, 16, 1), gridSize=(WIDTH // 16, HEIGHT // 16, channels))


triangle_id = torch.empty(HEIGHT, WIDTH, dtype=torch.int32, device=device)
mesh = dict(camera=camera, positions=positions, triangles=triangles)
launch(module.find_triangles, out_triangle_id=triangle_id, **mesh)
covered = triangle_id >= 0
scene = dict(triangle_id=triangle_id, **mesh)
on_screen, in_space, right, down = torch.zeros(4, HEIGHT, WIDTH, 3, device=device)
launch(module.weigh_on_screen, out_weights=on_screen, **scene)
launch(module.weigh_in_space, out_weights=in_space, **scene)
launch(module.weigh_steps, out_right=right, out_down=down, **scene)
for weights in (on_screen, in_space):
    assert torch.allclose(weights.sum(2), covered.float(), atol=1e-5)  # all of the pixel is accounted for


# %% Interpolate many times: one kernel mixes what the vertices carry, with any weights.
def interpolate(weights: torch.Tensor, attributes: torch.Tensor) -> torch.Tensor:
    values = weights.new_zeros(HEIGHT, WIDTH, attributes.shape[1])
    tensors = dict(weights=weights, attributes=attributes, out_values=values)
    launch(module.interpolate, channels=values.shape[2], triangles=triangles, triangle_id=triangle_id, **tensors)
    return values


# %% Which weights are right? The floor lies at y = w - 2, so a pixel at height y / w shows it at w = 2 / (1 - y / w).
# Weights on the screen are linear on the screen, which distances are not.
height = 1 - (2 * torch.arange(HEIGHT, device=device)[:, None] + 1) / HEIGHT  # of the centre of each row
by_hand = (2 / (1 - height)).expand(HEIGHT, WIDTH)
bent, straight = (interpolate(weights, distance)[..., 0] for weights in (on_screen, in_space))
bent_error, straight_error = ((values - by_hand)[covered].abs().max().item() for values in (bent, straight))
print(f"distance is wrong by up to {bent_error:.2g} by weights on the screen, {straight_error:.2g} by those in space")
assert 100 * straight_error < bent_error and straight_error < 1e-4

# 1/w is the exception: it is linear on the screen, and those weights mix it rightly. `weights_in_space` builds on it.
assert torch.allclose(1 / interpolate(on_screen, 1 / distance)[covered][:, 0], by_hand[covered], atol=1e-4)

# %% How much does a step to the next pixel change? Put the change of the weights in the place of the weights.
assert torch.all((right.sum(2).abs() < 1e-5) & (down.sum(2).abs() < 1e-5))  # what one vertex gains, others lose
assert torch.all(interpolate(right, distance).abs() < 1e-4)  # the floor is level: no pixel to the right is farther away
further = interpolate(down, distance)[..., 0]
by_rows = (-4 / HEIGHT / (1 - height) ** 2).expand(HEIGHT, WIDTH)  # 2 / (1 - h), as h falls by 2 / HEIGHT
assert torch.allclose(further[covered], by_rows[covered], rtol=1e-3)

# %% What it is for: the squares that one pixel covers. Where that nears one, a pattern of squares can only flicker.
uv = interpolate(in_space, squares)
footprint = torch.stack((interpolate(right, squares), interpolate(down, squares))).norm(dim=0).amax(2)  # in squares
print(f"one pixel covers {footprint[covered].min():.3f} to {footprint[covered].max():.2f} squares")


def checkers(uv: torch.Tensor) -> torch.Tensor:
    return torch.where(covered, 0.15 + 0.7 * (uv.floor().sum(2) % 2), 0.5)


contrast = (1 - footprint).clamp(0, 1)  # fades to the mean of both colours as a pixel comes to cover a whole square
filtered = 0.5 + contrast * (checkers(uv) - 0.5)


# %% The vertices learn as well: a gradient of uv goes back through `interpolate` to the weights, then to x, y and w. In
# double, on the CPU, so that it can be checked.
double = sr.load_module(SHADER, include_paths=IMPORTS, precision="float64")
faces = dict(triangles=triangles.cpu(), triangle_id=triangle_id.cpu())
exact, uv_of_vertices = positions.double().cpu(), squares.double().cpu()


def forward(positions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    weights, values = positions.new_zeros(HEIGHT, WIDTH, 3), positions.new_zeros(HEIGHT, WIDTH, 2)
    launch(double.weigh_in_space, camera=camera, positions=positions, out_weights=weights, **faces)
    launch(double.interpolate, channels=2, weights=weights, attributes=uv_of_vertices, out_values=values, **faces)
    return weights, values


weights, values = forward(exact)
grad_values = torch.rand(values.shape, dtype=torch.float64, generator=torch.manual_seed(0))
grad_weights, grad_positions = torch.zeros_like(weights), torch.zeros_like(exact)
attributes, with_grad = (uv_of_vertices, torch.zeros_like(uv_of_vertices)), (weights, grad_weights)
pairs = dict(weights=with_grad, attributes=attributes, out_values=(values, grad_values))
launch(double.interpolate.bwd, channels=2, **pairs, **faces)
launch(double.weigh_in_space.bwd, camera=camera, positions=(exact, grad_positions), out_weights=with_grad, **faces)

# %% Trust no gradient unchecked: each of the twelve numbers against the difference that it predicts.
for index in range(exact.numel()):
    step = torch.zeros_like(exact)
    step.view(-1)[index] = 1e-6
    ahead, behind = (forward(moved)[1] for moved in (exact + step, exact - step))
    difference = ((ahead - behind) * grad_values).sum().item() / 2e-6
    assert abs(grad_positions.view(-1)[index].item() - difference) < 1e-6 * grad_positions.abs().max().item()
print("gradient of the far left vertex (x, y, w):", [round(number, 1) for number in grad_positions[3].tolist()])

# %% Where does that of w come from? `.fwd` shows how v changes at each pixel while w of the far left vertex grows.
w_grows = torch.zeros_like(positions)
w_grows[3, 2] = 1.0
out_change = torch.zeros_like(in_space)
moving = {**scene, "positions": (positions, w_grows)}
launch(module.weigh_in_space.fwd, out_weights=(torch.empty_like(in_space), out_change), **moving)
change = interpolate(out_change, squares)[..., 1]  # v itself does not move, so the weights' change is all there is
assert torch.isclose(change.sum(), change[triangle_id == 1].sum())  # the other triangle has nothing of that vertex

# %% The figure. Row 0 of an image is at the top.
figure, axes = plt.subplot_mosaic("ABC\nDEF\nGGG", figsize=(11, 8), height_ratios=(2, 2, 1.5), layout="constrained")
limit = change.abs().max().item()
gray, centred = dict(cmap="gray", vmin=0, vmax=1), dict(cmap="RdBu_r", vmin=-limit, vmax=limit)
shown = {
    "A": ("squares, by weights on the screen", checkers(interpolate(on_screen, squares)), gray),
    "B": ("squares, by weights in space", checkers(uv), gray),
    "C": ("squares, faded by their footprint", filtered, gray),
    "D": ("the weights in space as colours", in_space.clamp(0, 1), {}),
    "E": ("squares in one pixel", torch.where(covered, footprint, torch.nan), dict(norm="log")),
    "F": ("d v / d w of the far left vertex", torch.where(covered, change, torch.nan), centred),
}
for name, (title, image, options) in shown.items():
    drawn = axes[name].imshow(image.cpu().numpy(), **options)
    axes[name].set(title=title, xticks=[], yticks=[])
    if name in "EF":
        figure.colorbar(drawn, ax=axes[name], shrink=0.8)

# %% Below them, the distance down the middle column: one bends, the other lies on what we found by hand.
column, rows = WIDTH // 2, torch.arange(HEIGHT)[covered[:, WIDTH // 2].cpu()]
axes["G"].plot(rows, by_hand[rows, column].cpu(), color="0.8", linewidth=6, label="by hand")
axes["G"].plot(rows, bent[rows, column].cpu(), label="weights on the screen")
axes["G"].plot(rows, straight[rows, column].cpu(), label="weights in space")
axes["G"].set(title="Distance along the middle column, from far to near", xlabel="row", ylabel="w")
axes["G"].legend()
figure.savefig(HERE / "figure.png", dpi=110)

# %% Try this: let FAR come closer to NEAR: 4, 2, 1.5. When can you no longer tell the two kinds of weights apart? Then
# set NEAR to -1. What becomes of a vertex behind the eye when it is divided by its w, and which assert takes notice?
# The shipped rasterizer never divides, and draws that floor too: see how in shaders/homogeneous.slang.
