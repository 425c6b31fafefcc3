"""slangrast: a differentiable triangle rasterizer whose every formula is a differentiable Slang function."""

from .runtime import Diagnostic, DiffTensorView, Module, ShaderError, load_module
from .soft_rasterizer import SoftImage, soft_rasterize, soft_silhouette

__version__ = "0.1.0"

__all__ = [
    "Diagnostic",
    "DiffTensorView",
    "Module",
    "ShaderError",
    "SoftImage",
    "load_module",
    "soft_rasterize",
    "soft_silhouette",
]
