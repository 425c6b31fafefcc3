"""Formulas of a user's own, and the shipped fragment shaders: values, gradients of every parameter, and errors."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

import slangrast as sr
from slangrast import Formula
from slangrast.runtime.module import loaded_modules
from tests.comparison import BACKGROUND, TAME, in_both_precisions, largest_error
from tests.references import fragment as shading
from tests.references.soft_rasterizer import soft_rasterize as reference

OWN = Path(__file__).parent / "shaders" / "own_formulas.slang"
TRIANGLES = torch.tensor([[0, 1, 2], [1, 3, 2]])
SIZE = (7, 9)


def own(struct: str, **parameters: object) -> Formula:
    return Formula(f"{OWN}:{struct}", **parameters)


def positions(dtype: torch.dtype = torch.float64) -> Tensor:
    corners = [[-0.6, -0.5, 0.1, 1.3], [0.7, -0.4, 0.2, 1.5], [0, 0.8, 0.1, 1.2], [0.9, 0.9, 0.3, 1.6]]
    return torch.tensor(corners, dtype=dtype)


def numbers(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def scalar(value: float) -> Tensor:
    return torch.tensor(value, dtype=torch.float64)


# All five kinds at once, each with parameters


def test_pixels_beyond_the_image_send_no_gradient() -> None:
    """They are there where an image ends within a tile, and what a formula answers for them may be no number."""
    positions = torch.tensor(
        [[-3.0, -3.0, 0.0, 2.0], [9.0, -3.0, 0.0, 2.0], [-3.0, 9.0, 0.0, 2.0]], dtype=torch.float64, requires_grad=True
    )
    scale = torch.tensor(0.9, dtype=torch.float64, requires_grad=True)

    def silhouette(positions: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        flat = sr.Formula(f"{OWN}:Flat", scale=scale)
        return sr.soft_silhouette(positions, torch.tensor([[0, 1, 2]]), (5, 6), sigma=2.0, cutoff=1e-9, silhouette=flat)

    assert torch.autograd.gradcheck(silhouette, (positions, scale), nondet_tol=1e-12)


def test_formulas_see_no_face_that_is_not_drawn() -> None:
    """One without area, or behind the eye: a number from a table would then be far beyond its end."""
    points = torch.cat([positions(torch.float32), torch.tensor([[torch.nan, 0, 0.1, 1], [0.0, 0, 0.1, -1]])])
    triangles = torch.tensor([[0, 1, 2], [1, 1, 2], [3, 3, 3], [4, 5, 2]])
    tabulated = own("Tabulated", reach=torch.full((32,), 0.3))
    with sr.debug.checked():
        found, expected = (
            sr.soft_silhouette(points, some, SIZE, sigma=0.02, coverage=tabulated)
            for some in (triangles, triangles[:1])
        )
    assert found.max() > 0.5 and torch.equal(found, expected)


def test_gradients_of_all_own_formulas_and_their_parameters() -> None:
    def render(
        points: Tensor, normal: Tensor, uv: Tensor, w: Tensor, tint: Tensor, gloss: Tensor, table: Tensor,
        radius: Tensor, width: Tensor, power: Tensor, p: Tensor,
    ) -> tuple[Tensor, ...]:  # fmt: skip
        return sr.soft_rasterize(
            points, TRIANGLES, {"normal": normal, "uv": uv, "w": w}, SIZE, sigma=0.05, gamma=0.3, cutoff=1e-3,
            coverage=own("Rounded", radius=radius),
            falloff=own("Arctan", width=width),
            aggregation=own("PowerOfCoverage", power=power),
            silhouette=own("YagerSum", p=p),
            fragment=own("FourChannels", tint=tint, gloss=gloss, table=table),
        )  # fmt: skip

    inputs = (
        positions(), numbers(4, 3) - 0.5, numbers(4, 2, seed=1), numbers(4, 1, seed=2), numbers(3, seed=3),
        numbers(2, seed=4), numbers(2, 2, seed=5), scalar(0.05), scalar(1.2), scalar(1.5), scalar(2.2),
    )  # fmt: skip
    for value in inputs:
        value.requires_grad_()
    assert render(*inputs)[0].shape == (1, *SIZE, 4)
    # The table's gradient is summed by atomic operations, whose order threads decide.
    assert torch.autograd.gradcheck(render, inputs, eps=1e-6, atol=1e-6, rtol=1e-6, nondet_tol=1e-9)


@in_both_precisions
def test_an_own_falloff_that_repeats_the_shipped_one_gives_the_same_image(dtype: torch.dtype) -> None:
    """The radius that it is binned with is found from its values."""
    shipped = sr.soft_silhouette(positions(dtype), TRIANGLES, (33, 40), sigma=3e-3)
    repeated = sr.soft_silhouette(positions(dtype), TRIANGLES, (33, 40), sigma=3e-3, falloff=own("PlainLogistic"))
    torch.testing.assert_close(repeated, shipped, rtol=1e-5, atol=1e-6)


def test_parameters_of_each_image() -> None:
    radii = [0.02, 0.3]
    several = sr.soft_silhouette(
        positions().expand(2, -1, -1),
        TRIANGLES,
        SIZE,
        coverage=own("Rounded", radius=torch.tensor(radii, dtype=torch.float64)),
    )
    for image, radius in zip(several, radii, strict=True):
        (one,) = sr.soft_silhouette(positions(), TRIANGLES, SIZE, coverage=own("Rounded", radius=radius))
        assert torch.equal(one, image)
    assert not torch.equal(several[0], several[1])


# Shipped fragment shaders


def lit() -> dict[str, Tensor]:
    return {"normal": numbers(4, 3, seed=6) - torch.tensor([0.5, 0.5, 0.2]), "albedo": numbers(4, 3, seed=7)}


LIGHT = {"light": torch.tensor([0.3, 0.5, 1.0]).double(), "ambient": scalar(0.2), "diffuse": scalar(0.7)}
SHIPPED: dict[str, tuple[dict[str, Tensor], dict[str, Tensor], Callable]] = {
    "lambert": (lit(), LIGHT, shading.lambert),
    "phong": (
        {"position": numbers(4, 3, seed=8) - 0.5, **lit()},
        {
            "light": LIGHT["light"], "eye": torch.tensor([0.2, 0.1, 3.0]).double(), "ambient": scalar(0.2),
            "diffuse": scalar(0.7), "specular": scalar(0.5), "shininess": scalar(7.0),
        },
        shading.phong,
    ),
    "textured": (
        {"": 1.3 * numbers(4, 2, seed=9) - 0.15}, {"texture": numbers(5, 4, 3, seed=10)}, shading.textured,
    ),
}  # fmt: skip


@in_both_precisions
@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_fragment_shader(name: str, dtype: torch.dtype) -> None:
    by_name, parameters, shade = SHIPPED[name]
    leaves = [positions(), *by_name.values(), *parameters.values()]
    exact = [leaf.clone().requires_grad_() for leaf in leaves]
    given = [leaf.to(dtype).requires_grad_() for leaf in leaves]

    def split(tensors: list[Tensor]) -> tuple[Tensor, dict[str, Tensor], dict[str, Tensor]]:
        end = 1 + len(by_name)
        attributes = dict(zip(by_name, tensors[1:end], strict=True))
        return tensors[0], attributes, dict(zip(parameters, tensors[end:], strict=True))

    points, attributes, values = split(given)
    packed = attributes.get("", attributes)
    found = sr.soft_rasterize(
        points, TRIANGLES, packed, SIZE, background=BACKGROUND, fragment=Formula(name, **values), **TAME
    )
    points, attributes, values = split(exact)
    expected = reference(
        points, TRIANGLES, torch.cat(list(attributes.values()), dim=1), SIZE, background=BACKGROUND,
        fragment=lambda inputs: shade(inputs, **values), **TAME,
    )  # fmt: skip
    precision = 1e-5 if dtype == torch.float32 else 1e-9
    assert largest_error(found.color, expected.color) < precision
    cotangent = numbers(*expected.color.shape, seed=11) - 0.5
    of_found = torch.autograd.grad(found.color, given, cotangent.to(dtype))
    of_expected = torch.autograd.grad(expected.color, exact, cotangent)
    for one, other in zip(of_found, of_expected, strict=True):
        assert largest_error(one, other) < 10 * precision and other.abs().max() > 0


@pytest.mark.parametrize("broken", [float("nan"), float("inf")], ids=str)
def test_a_texture_has_no_colour_where_uv_is_broken(broken: float) -> None:
    uv, parameters, _ = SHIPPED["textured"]
    uv = uv[""].clone()
    uv[0] = broken
    shader = Formula("textured", **parameters)
    color = sr.soft_rasterize(positions(), TRIANGLES, uv, SIZE, fragment=shader, **TAME).color
    assert color.isnan().any()


def test_short_normals_have_true_gradients() -> None:
    """The gradient to a normal of length 1e-6 is a million times that to one of length 1."""
    normal = lit()["normal"]
    albedo = lit()["albedo"]

    def gradient(scale: float) -> Tensor:
        scaled = (scale * normal).requires_grad_()
        attributes = {"normal": scaled, "albedo": albedo}
        image = sr.soft_rasterize(positions(), TRIANGLES, attributes, SIZE, fragment=Formula("lambert", **LIGHT))
        return torch.autograd.grad(image.color.sum(), scaled)[0]

    torch.testing.assert_close(gradient(1e-6) * 1e-6, gradient(1.0))


def test_attributes_by_name_are_in_the_order_of_the_struct() -> None:
    attributes = lit()
    shader = Formula("lambert", **LIGHT)
    by_name = sr.soft_rasterize(positions(), TRIANGLES, dict(reversed(attributes.items())), SIZE, fragment=shader)
    packed = torch.cat([attributes["normal"], attributes["albedo"]], dim=1)
    assert torch.equal(by_name.color, sr.soft_rasterize(positions(), TRIANGLES, packed, SIZE, fragment=shader).color)


# Reload


def test_edits_of_a_formula_reach_the_op_after_a_reload(tmp_path: Path) -> None:
    """A constant, then a new parameter: the module of the op follows both."""
    file = tmp_path / "mine.slang"
    text = "import falloff;\nstruct Mine : IFalloff {{\n {} [Differentiable]\n CoverageValue evaluate(float x) {{ "
    text += "return coverage_of(saturate(0.5f + {} * x)); }}\n}}\n"

    def render(**parameters: float) -> Tensor:
        return sr.soft_silhouette(
            positions(), TRIANGLES, SIZE, sigma=0.5, falloff=Formula(f"{file}:Mine", **parameters)
        )

    def reload() -> None:
        modules = [module for module in loaded_modules() if str(file) in module.files]
        assert len(modules) == 2  # for its extent, for the image
        assert all([module.reload() for module in modules])

    file.write_text(text.format("", 0.25))
    quarter = render()
    file.write_text(text.format("", 0.5))
    assert torch.equal(render(), quarter)
    reload()
    half = render()
    assert not torch.equal(half, quarter)
    file.write_text(text.format("float slope;", "slope"))
    reload()
    with pytest.raises(ValueError, match=r"falloff misses \['slope'\]"):
        render()
    torch.testing.assert_close(render(slope=0.5), half)
    torch.testing.assert_close(render(slope=0.25), quarter)


# Errors


def attempt(**options: object) -> None:
    attributes = options.pop("attributes", numbers(4, 3))
    sr.soft_rasterize(positions(), TRIANGLES, attributes, SIZE, **options)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"falloff": own("Arctan")}, ValueError, r"falloff misses \['width'\]; its parameters are \['width'\]: give"),
        ({"falloff": own("Arctan", width=1.0, height=2.0)}, ValueError, r"falloff has no \['height'\]"),
        (
            {"falloff": Formula("logistic", width=1.0)},
            ValueError,
            r"falloff has no \['width'\]; its parameters are \[\]",
        ),
        (
            {"falloff": own("Arctan", width=[1.0, 2.0])},
            ValueError,
            r"parameter width must have the shape \[\] or \[1\]",
        ),
        ({"falloff": own("Arctan", width="wide")}, TypeError, "parameter width must be a number"),
        (
            {"falloff": "mine.slang:Arctan"},
            FileNotFoundError,
            "falloff names 'mine.slang:Arctan', but there is no file",
        ),
        ({"falloff": "mine:Arctan"}, ValueError, "falloff must be one of .* or 'file.slang:Struct', got 'mine:Arctan'"),
        ({"falloff": str(OWN)}, ValueError, "or 'file.slang:Struct'"),
        ({"falloff": own("Missing")}, sr.ShaderError, "must have a struct of that name that implements IFalloff"),
        ({"falloff": own("HasNoMethods", scale=1)}, sr.ShaderError, "that implements IFalloff"),
        ({"falloff": own("Rounded", radius=1)}, sr.ShaderError, "that implements IFalloff"),
        (
            {"falloff": own("HasAStruct", inner=1)},
            sr.ShaderError,
            "HasAStruct.inner is a Inner, which cannot come from",
        ),
        (
            {"fragment": Formula("textured", texture=3.0), "attributes": numbers(4, 2)},
            TypeError,
            "must be a float tensor",
        ),
        ({"fragment": Formula("lambert", **LIGHT)}, ValueError, r"must have 6 channels .*normal: 3, albedo: 3.*got 3"),
        ({"attributes": {"normal": numbers(4, 3)}}, TypeError, "attributes must be a float tensor"),
        (
            {"fragment": Formula("lambert", **LIGHT), "attributes": {"normal": numbers(4, 3)}},
            ValueError,
            r"attributes must be \['normal', 'albedo'\], got \['normal'\]",
        ),
        (
            {"fragment": Formula("lambert", **LIGHT), "attributes": {"normal": numbers(4, 2), "albedo": numbers(4, 3)}},
            ValueError,
            r"attribute normal must be \[V, 3\] or \[N, V, 3\] float, got \[4, 2\]",
        ),
        (
            {"fragment": own("SeventeenChannels"), "attributes": numbers(4, 1)},
            ValueError,
            "at most 16, got .* gives 17",
        ),
        (
            {"silhouette": Formula("yager", p=-1.0)},
            ValueError,
            r"'yager' must be in \[0.01, 8\], got -1",
        ),
        ({"coverage": 3}, TypeError, "coverage must be a name, 'file.slang:Struct' or a Formula, got 3"),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else None,
)
def test_what_does_not_fit_is_refused(options: dict, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        attempt(**options)


def test_a_formula_that_gives_nan_is_found_by_its_kernel_when_checked() -> None:
    with sr.debug.checked(), pytest.raises(sr.KernelError, match="nan is stored to out_silhouette") as raised:
        sr.soft_silhouette(positions().float(), TRIANGLES, SIZE, sigma=0.5, silhouette=own("NotANumber"))
    (diagnostic, *_) = raised.value.diagnostics
    assert Path(diagnostic.file).name == "soft_rasterizer.slang" and diagnostic.source_line()


def test_a_formula_that_does_not_compile_is_shown_with_its_line(tmp_path: Path) -> None:
    file = tmp_path / "broken.slang"
    shutil.copy(OWN, file)
    file.write_text(file.read_text().replace("atan(x / width)", "atan(x / widht)"))
    with pytest.raises(sr.ShaderError) as raised:
        attempt(falloff=Formula(f"{file}:Arctan", width=1.0))
    (diagnostic, *_) = raised.value.diagnostics
    assert diagnostic.file == str(file) and "widht" in str(diagnostic.source_line())
