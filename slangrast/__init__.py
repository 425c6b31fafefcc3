"""slangrast: a differentiable triangle rasterizer whose every formula is a differentiable Slang function."""

from . import debug, losses, shading
from .antialias import antialias, edge_gradients
from .camera import Camera, transform
from .fitting import FitProgress, FitResult, FitSettings, fit
from .formulas import Formula
from .interpolate import interpolate
from .mesh import Mesh, cube, icosphere, load_mesh, plane, save_mesh, torus
from .rasterize import GeometryBuffer, peel, rasterize
from .runtime import Diagnostic, DiffTensorView, KernelError, Module, ShaderError, load_module, watch
from .soft_rasterizer import SoftImage, soft_rasterize, soft_silhouette
from .texture import MipStack, mip_stack, texture

__version__ = "0.1.0"

__all__ = [
    # kernels
    "debug",
    "Diagnostic",
    "DiffTensorView",
    "KernelError",
    "Module",
    "ShaderError",
    "load_module",
    "watch",
    # images
    "Formula",
    "MipStack",
    "SoftImage",
    "mip_stack",
    "soft_rasterize",
    "soft_silhouette",
    "texture",
    # geometry at pixels
    "GeometryBuffer",
    "antialias",
    "edge_gradients",
    "interpolate",
    "peel",
    "rasterize",
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
