"""Slang modules from Python: compile, launch and differentiate kernels on the CPU and on CUDA."""

from .errors import Diagnostic, KernelError, ShaderError
from .launch import Launchable
from .layout import DiffTensorView
from .module import Kernel, Module, load_module
from .watch import Watch, watch

__all__ = [
    "Diagnostic", "DiffTensorView", "Kernel", "KernelError", "Launchable", "Module", "ShaderError", "Watch",
    "load_module", "watch",
]  # fmt: skip
