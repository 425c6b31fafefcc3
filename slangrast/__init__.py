"""slangrast: a differentiable triangle rasterizer whose every formula is a differentiable Slang function."""

from . import losses, shading
from .camera import Camera, transform
from .fitting import FitProgress, FitResult, FitSettings, fit
from .mesh import Mesh, cube, icosphere, load_mesh, plane, save_mesh, torus
from .runtime import Diagnostic, DiffTensorView, Module, ShaderError, load_module
from .soft_rasterizer import SoftImage, soft_rasterize, soft_silhouette

__version__ = "0.1.0"

__all__ = [
    # kernels
    "Diagnostic",
    "DiffTensorView",
    "Module",
    "ShaderError",
    "load_module",
    # images
    "SoftImage",
    "soft_rasterize",
    "soft_silhouette",
    # scenes
    "Camera",
    "Mesh",
    "cube",
    "icosphere",
    "load_mesh",
    "plane",
    "save_mesh",
    "torus",
    "transform",
    # optimisation
    "FitProgress",
    "FitResult",
    "FitSettings",
    "fit",
    "losses",
    "shading",
]
