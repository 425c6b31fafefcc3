"""`load_module`, and what it returns: a module whose kernels run on the CPU and on CUDA through one face."""

from __future__ import annotations

import dataclasses
import os
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from .cache import same_contents
from .errors import ShaderError
from .launch import Launchable, block_and_grid
from .layout import ArgumentError, DiffTensorView, StructType
from .request import ENGINES, BuildRequest
from .shader_paths import find_shader, shader_folder
from .signature import KernelFamily, KernelSignature
from .steady import between_ops


class Kernel:
    """A kernel of a module. Call it with its arguments by name; `.bwd` and `.fwd` are its derivatives.

    Tensors are given as tensors; a `DiffTensorView` as a tensor, `(value, grad)` or `DiffTensorView(value, grad)`;
    structs as the module's named tuples, tuples or dicts; vectors, matrices and arrays as (nested) tuples or lists.
    """

    def __init__(self, module: Module, name: str, kind: str = "primal") -> None:
        self._module, self._name, self._kind = module, name, kind
        self._target: tuple[Any, KernelSignature] | None = None
        self._derivatives: dict[str, Kernel] = {}

    def __call__(self, *args: Any, **arguments: Any) -> Launchable:
        if args:
            raise TypeError(
                f"{self}: arguments are given by name, got {len(args)} without; names: {self.argument_names}"
            )
        build, entry = self._target or self._find_target(arguments)
        try:
            values = [arguments[name] for name in entry.argument_names]
        except KeyError:
            values = []
        if len(arguments) != len(values) or len(arguments) != len(entry.arguments):
            raise self._wrong_names(entry.argument_names, arguments)
        try:
            packed = build.pack(entry, values, reads_gradients=self._kind != "primal")
        except ArgumentError as error:
            self._build_for(_device_of(values))
            raise ValueError(f"{self}: {error}") from None
        return Launchable(build, entry, packed)

    def _find_target(self, arguments: Mapping[str, Any]) -> tuple[Any, KernelSignature]:
        """The build and the entry point for these arguments."""
        if not self._module._device:
            build = self._build_for(_device_of(arguments.values()))
            return build, self._entry(build.families)
        # A module of one device asks for that of the tensors only to say what is wrong with them.
        build = self._module._any_build()
        target = build, self._entry(build.families)
        if self._module._is_snapshot:  # nothing in it changes any more
            self._target = target
        return target

    def _wrong_names(self, names: list[str], given: Mapping[str, Any]) -> ValueError:
        missing = [name for name in names if name not in given]
        unknown = [name for name in given if name not in names]
        problems = [f"missing {missing}"] * bool(missing) + [f"unknown {unknown}"] * bool(unknown)
        return ValueError(f"{self}: {' and '.join(problems)}; its arguments are {names}")

    @property
    def bwd(self) -> Kernel:
        """The reverse-mode derivative: reads gradients of what the kernel stores, adds to those of what it loads."""
        return self._derivative("backward_derivative")

    @property
    def fwd(self) -> Kernel:
        """The forward-mode derivative: reads tangents of what the kernel loads, writes those of what it stores."""
        return self._derivative("forward_derivative")

    @property
    def argument_names(self) -> list[str]:
        return list(self._entry(self._module._any_build().families).argument_names)

    def _build_for(self, device: torch.device | None) -> Any:
        served = self._module._device
        if device is not None and device.type not in ((served,) if served else ("cpu", "cuda")):
            allowed = repr(served) if served else "'cpu' or 'cuda'"
            raise ValueError(f"{self}: tensors must be on {allowed} for {self._module}, got one on {device}")
        return self._module._build_for(device)

    def _derivative(self, kind: str) -> Kernel:
        if kept := self._derivatives.get(kind):
            return kept
        if self._kind != "primal" or getattr(self._module._any_build().families[self._name], kind) is None:
            raise ValueError(f"{self} has no derivative: mark it with [Differentiable]")
        derivative = Kernel(self._module, self._name, kind)
        if self._module._is_snapshot:
            self._derivatives[kind] = derivative
        return derivative

    def _entry(self, families: dict[str, KernelFamily]) -> KernelSignature:
        if self._name not in families:
            raise ValueError(f"{self}: the module no longer has this kernel; it has {sorted(families)}")
        entry = getattr(families[self._name], self._kind)
        if entry is None:
            raise ValueError(f"{self}: the kernel is no longer [Differentiable]")
        return entry

    def __repr__(self) -> str:
        return self._name + {"primal": "", "forward_derivative": ".fwd", "backward_derivative": ".bwd"}[self._kind]


@dataclass(frozen=True)
class Reload:
    """A module built anew but not yet in use: `Module.prepare_reload` returns it, `Module.commit` puts it in place."""

    request: BuildRequest
    builds: dict[str, Any]  # by device type

    @property
    def is_quick(self) -> bool:
        """Whether an optimised build is still to come."""
        return any(getattr(build, "quick", False) for build in self.builds.values())  # not all engines have such builds


class Module:
    """The kernels and structs of one .slang file, as attributes. Made by `load_module`."""

    _snapshot: Module | None = None  # the last one, for as long as nothing was reloaded
    _is_snapshot = False

    def __init__(
        self, request: BuildRequest | Callable[[], BuildRequest], device: str | None, engine: str | None = None
    ) -> None:
        """`request` may be a function, asked again at each reload: what to build from may itself change with a file."""
        self._make_request = request if callable(request) else lambda: request
        self._request = self._make_request()
        self._device = device  # None: wherever tensors are
        self._engine = engine  # None: the device's
        self._builds: dict[str, Any] = {}
        self._build_for_type(device or ("cuda" if torch.cuda.is_available() and not self._request.float64 else "cpu"))
        _MODULES.add(self)

    def launch(self, launchable: Launchable, over: Sequence[int]) -> None:
        """Run `launchable` with at least one thread for each point of `over`, `(width[, height[, depth]])`.

        Threads beyond `over` run too, where it is no multiple of the block: kernels test their index.
        """
        launchable.launchRaw(*block_and_grid(over))

    def reload(self) -> bool:
        """Build again what changed since the module was loaded; True where anything in its import graph did.

        Raises:
            ShaderError: it does not compile. The last good build stays in use.
        """
        return self.commit(self.prepare_reload())

    def prepare_reload(self, *, quick: bool = False) -> Reload:
        """The first half of `reload`: build, and change nothing.

        With `quick`, an engine may build what is sooner ready and runs slower: `is_quick` of the result.
        """
        request = dataclasses.replace(self._make_request(), quick=quick)
        return Reload(request, {device: _load(request, device, self._engine) for device in list(self._builds)})

    def commit(self, reload: Reload) -> bool:
        """The second half: use what was built from the next call on. True where it differs from what was in use."""
        changed = self.differs_from(reload)
        # Even where nothing changed, since an optimised build may stand in for a quick one.
        self._request, self._builds = _in_full(reload.request), reload.builds
        return changed

    def differs_from(self, reload: Reload) -> bool:
        """Whether `reload` was built from other files or arguments than what is in use. How quickly does not count."""
        if _in_full(reload.request) != self._request:
            return True
        pairs = [(build, reload.builds.get(device)) for device, build in list(self._builds.items())]
        return not all(new and same_contents(new.key, old.key) for old, new in pairs)

    def snapshot(self) -> Module:
        """This module as it is now: a reload changes the original, and no snapshot."""
        if self._is_snapshot:
            return self
        kept = self._snapshot
        if kept is not None and kept._request is self._request and kept._builds is self._builds:
            return kept
        while True:
            copy = object.__new__(Module)
            request, builds = self._request, self._builds
            copy.__dict__.update(self.__dict__, _snapshot=None, _request=request, _builds=builds, _is_snapshot=True)
            if request is self._request:  # else a reload came between
                self._snapshot = copy
                return copy

    @property
    def request(self) -> BuildRequest:
        """What the build in use was made from."""
        return self._request

    @property
    def key(self) -> str:
        """What tells the build in use from every other."""
        return self._any_build().key

    @property
    def warp_size(self) -> int:
        """The lanes of a warp: 1 on the engine "cpu", 32 on the others."""
        return 1 if (self._engine or next(iter(self._builds))) == "cpu" else 32

    @property
    def path(self) -> str:
        """The .slang file, as an absolute path."""
        return self._request.path

    @property
    def files(self) -> tuple[str, ...]:
        """Every file that took part in the build: the shader and all that it imports, as absolute paths."""
        return tuple(dict.fromkeys(file for build in self._builds.values() for file in build.files))

    @property
    def searched_folders(self) -> list[str]:
        """The folders in which slangc looks for imports, as absolute paths."""
        return self._request.searched_folders()

    @property
    def kernels(self) -> list[str]:
        """The names of the kernels."""
        return sorted(self._any_build().families)

    def debugger_hint(self) -> str:
        """How to stop a debugger in a line of the shader: commands of gdb and lldb for this process and this module.

        The module must have been loaded with `debug=True`; else the text says so.
        """
        from .debugger import debugger_hint

        build = self._builds.get("cpu")
        return debugger_hint(self.path, build.breakpoints() if build else None)

    def _any_build(self) -> Any:
        return next(iter(self._builds.values()))

    def _build_for(self, device: torch.device | None) -> Any:
        if device is None:
            return self._any_build()
        return self._builds.get(device.type) or self._build_for_type(device.type)

    def _build_for_type(self, device_type: str) -> Any:
        build = _load(self._request, device_type, self._engine)
        # A new dictionary, for other threads may be reading the old one.
        self._builds = {**self._builds, device_type: build}
        return build

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or "_builds" not in self.__dict__:
            raise AttributeError(name)
        if name == "DiffTensorView":
            return DiffTensorView
        families = self._any_build().families
        if name in families:
            kernel = Kernel(self, name)
            if self._is_snapshot:  # others keep none: a module that nobody holds is gone at once, and not reloaded
                self.__dict__[name] = kernel
            return kernel
        structs = _structs(families)
        if name in structs:
            return structs[name].python_type
        raise AttributeError(
            f"module {self} has no kernel or struct {name}; it has {sorted(families)} and {sorted(structs)}"
        )

    def __dir__(self) -> list[str]:
        families = self._any_build().families
        return [*super().__dir__(), *families, *_structs(families), "DiffTensorView"]

    def __repr__(self) -> str:
        return f"<slangrast module {Path(self._request.path).name}>"


_MODULES: weakref.WeakSet[Module] = weakref.WeakSet()


def loaded_modules() -> list[Module]:
    """Every module that is in use somewhere in this process."""
    return list(_MODULES)


def commit_together(modules: Sequence[Module], reloads: Sequence[Reload]) -> list[Module]:
    """Put several reloads in use at once, as `steady` sees it; the modules that changed."""
    with between_ops():
        return [module for module, reload in zip(modules, reloads, strict=True) if module.commit(reload)]


def load_module(
    path: str | os.PathLike[str],
    *,
    device: str | torch.device | None = None,
    engine: str | None = None,
    defines: Mapping[str, Any] | None = None,
    include_paths: Sequence[str | os.PathLike[str]] = (),
    precision: str = "float32",
    fast_math: bool = False,
    debug: bool = False,
) -> Module:
    """Compile a Slang file, or take it from the cache, and return its kernels as a `Module`.

    Args:
        path: a .slang file, or the name of a shader that ships with slangrast ("soft_rasterizer").
        device: "cpu" or "cuda". None: wherever the tensors of a launch are; compiled now for CUDA where there is a
            GPU, else for the CPU, and for the other at the first launch that needs it.
        engine: "cpu" (generated text through the host's C++ compiler), "simt" (the same, with a block's threads run
            together as warps of 32 lanes), "cuda" (slangtorch) or "nvrtc" (driver launch). None: the device's.
        defines: preprocessor macros. True and False become 1 and 0.
        include_paths: folders to look for imports in, after the folder of `path` and before the shipped shaders.
        precision: "float32", or "float64", in which `float` means double everywhere in the shader (CPU only).
        fast_math: let the compiler reorder and approximate. NaN and infinity are then not to be relied on. Not in a
            build with `debug`, which looks for them.
        debug: check every tensor access, gradient and output as the kernel runs (CPU only).

    Raises:
        ShaderError: the shader does not compile, needs what the engine lacks, or a compiler is missing.
        FileNotFoundError: there is no such file.
        ValueError, TypeError: an argument is none of the values above.
    """
    if precision not in ("float32", "float64"):
        raise ValueError(f"load_module: precision must be 'float32' or 'float64', got {precision!r}")
    if engine is not None and engine not in ENGINES:
        raise ValueError(f"load_module: engine must be one of {list(ENGINES)} or None, got {engine!r}")
    device_type = _device_type(device)
    if engine is not None and device_type not in (None, ENGINES[engine]):
        raise ValueError(f"load_module: engine {engine!r} runs on {ENGINES[engine]}, got device {device!r}")
    if engine is not None:
        device_type = ENGINES[engine]
    if precision == "float64":
        if device_type == "cuda":
            raise ValueError("load_module: precision='float64' runs on the CPU only, got device 'cuda'")
        device_type = "cpu"
    if debug:
        if device_type == "cuda":
            raise ValueError("load_module: debug=True runs on the CPU only, got device 'cuda'")
        device_type = "cpu"
    if isinstance(include_paths, (str, os.PathLike)):
        raise TypeError(f"load_module: include_paths must be a sequence of folders, got {include_paths!r}")
    request = BuildRequest(
        path=str(find_shader(path)),
        defines={name: _define(name, value) for name, value in (defines or {}).items()},
        include_paths=(*(os.path.abspath(folder) for folder in include_paths), str(shader_folder())),
        precision=precision,
        fast_math=fast_math,
        debug=bool(debug),
    )
    return Module(request, device_type, engine)


def _load(request: BuildRequest, device_type: str, engine: str | None) -> Any:
    """One build. Engines are imported when they are first needed."""
    if engine is None and device_type == "cuda":
        from .nvrtc_engine import load_default_cuda_module as load
    elif engine == "nvrtc":
        from .nvrtc_engine import load_nvrtc_module as load
    elif engine == "cuda":
        from .cuda_engine import load_cuda_module as load
    else:
        from .cpu_engine import load_cpu_module as load  # type: ignore[assignment]
    build: Any = load(dataclasses.replace(request, simt=True) if engine == "simt" else request)
    if hidden := [name for name in build.families if hasattr(Module, name)]:
        raise ShaderError(f"{request.path}: no kernel can be called {hidden[0]}, which is a name of the module itself")
    return build


def _in_full(request: BuildRequest) -> BuildRequest:
    return dataclasses.replace(request, quick=False)


def _device_type(device: str | torch.device | None) -> str | None:
    try:
        device_type = None if device is None else torch.device(device).type
    except RuntimeError:  # torch knows no device of that name
        device_type = ""
    if device_type is not None and device_type not in ENGINES.values():
        raise ValueError(f"load_module: device must be 'cpu' or 'cuda', got {device!r}")
    return device_type


def _define(name: str, value: Any) -> str:
    if not isinstance(name, str) or not name.isidentifier():
        raise ValueError(f"load_module: defines must be named like identifiers, got {name!r}")
    if not isinstance(value, (bool, int, float, str)):
        raise TypeError(f"load_module: defines[{name!r}] must be a bool, int, float or str, got {value!r}")
    return str(int(value)) if isinstance(value, bool) else str(value)


def _device_of(values: Any) -> torch.device | None:
    """Where a launch belongs: the device of the first tensor, however deep in tuples and structs.

    One that is not on the CPU comes first, for a number may be given as a tensor on the CPU.
    """
    found: torch.device | None = None
    for value in values:
        device = None
        if isinstance(value, torch.Tensor):
            device = value.device
        elif isinstance(value, (tuple, list, Mapping)):
            device = _device_of(value.values() if isinstance(value, Mapping) else value)
        if device is not None and device.type != "cpu":
            return device
        found = found or device
    return found


def _structs(families: dict[str, KernelFamily]) -> dict[str, StructType]:
    found: dict[str, StructType] = {}

    def visit(type_: Any) -> None:
        if isinstance(type_, StructType):
            found[type_.name] = type_
            for field in type_.fields:
                visit(field.type)
        elif hasattr(type_, "element"):
            visit(type_.element)

    for family in families.values():
        for argument in family.primal.arguments:
            visit(argument.type)
    return found
