"""`watch`: builds modules again as soon as a file that they are made of is saved, and puts them in use."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from pathlib import Path
from types import TracebackType
from typing import Any

from .cache import digest
from .errors import ShaderError
from .module import Module, Reload, commit_together, loaded_modules
from .shader_paths import find_shader
from .slang_compiler import slangc_path
from .slang_service import keep_workers

# An editor's save is several events within a few milliseconds: one rebuild, once nothing happened for this long.
_QUIET_MS = 40
_LONGEST_BURST_MS = 400
# How often to look whether modules were loaded since, or folders replaced.
_TICK_MS = 300
# How often to see that compilers are ready for the next save, and how many: two modules hold a user's falloff.
_READY_SECONDS = 20.0
_COMPILERS = 2
# How long a file may be missing before that counts as an error: some editors delete and write anew.
_MISSING_SECONDS = 0.2

# Of each folder that is watched, what each of its shaders holds, as a hash.
State = dict[str, dict[str, str]]


def watch(
    module_or_path: Module | str | os.PathLike[str],
    *,
    on_reload: Callable[[list[Module]], Any] | None = None,
    on_error: Callable[[ShaderError], Any] | None = None,
    on_optimised: Callable[[list[Module]], Any] | None = None,
) -> Watch:
    """Reload on save: build again what a saved file is part of, and use it from the next launch on.

    Watches the shader, all that it imports, and all that the loaded modules import of which it is part. On a save,
    every loaded module with a changed file in it is built, and once all have succeeded they are put in use together,
    those inside `soft_rasterize` too. Where one fails, all stay as they are. On CUDA a quick build by NVRTC comes
    first, where that is installed, and slangtorch's takes its place as soon as it is ready.

    Works in a thread of its own until `stop` is called or the `with` block that it was given to ends::

        with sr.watch("my_coverage.slang"):
            train()

    Args:
        module_or_path: a loaded module; a .slang file, with kernels or with formulas that modules import; or the name
            of a shader that ships with slangrast.
        on_reload: called with the modules that changed, after each save that built. The list is empty where no loaded
            module holds what changed, and after an error that was undone.
        on_error: called with the `ShaderError` of a save that did not build. None: print it to stderr, with the
            source line.
        on_optimised: called with the modules whose optimised builds have replaced the quick ones.

    Returns:
        The running watch. The functions above are called in its thread; an exception of theirs is printed.

    Raises:
        FileNotFoundError: there is no such file.
    """
    return Watch(module_or_path, on_reload, on_error, on_optimised)


class Watch:
    """A running `watch`. `error` is the `ShaderError` of the last save, or None where it was good."""

    def __init__(
        self,
        module_or_path: Module | str | os.PathLike[str],
        on_reload: Callable[[list[Module]], Any] | None,
        on_error: Callable[[ShaderError], Any] | None,
        on_optimised: Callable[[list[Module]], Any] | None,
    ) -> None:
        self.error: ShaderError | None = None
        self._module = module_or_path if isinstance(module_or_path, Module) else None
        self._path = self._module.path if self._module else str(find_shader(module_or_path))
        self._on_reload, self._on_error, self._on_optimised = on_reload, on_error or _print_error, on_optimised
        self._seen: State = {}  # nothing: the first look builds whatever was saved since its module was loaded
        self._stopping = threading.Event()
        self._swapping = threading.Lock()
        self._saves = 0
        self._optimiser: threading.Thread | None = None
        self._thread = threading.Thread(target=self._run, name=f"watch {Path(self._path).name}", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the watch. Once this returns, no module changes any more and nothing is called."""
        self._stopping.set()
        for thread in (self._thread, self._optimiser):
            if thread is not None and thread is not threading.current_thread():
                thread.join()

    def __enter__(self) -> Watch:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def __repr__(self) -> str:
        return f"<slangrast watch of {Path(self._path).name}>"

    def _run(self) -> None:
        from watchfiles import watch as changes_in  # half of what importing slangrast would take

        ready_until = 0.0
        while not self._stopping.is_set():
            folders = self._folders()
            looks = changes_in(
                *folders, watch_filter=None, debounce=_LONGEST_BURST_MS, step=_QUIET_MS, rust_timeout=_TICK_MS,
                yield_on_timeout=True, stop_event=self._stopping, raise_interrupt=False, recursive=False,
                ignore_permission_denied=True,
            )  # fmt: skip
            # The first look may be for nothing, but then a save before the folders were watched is not lost.
            unseen = True
            with contextlib.suppress(FileNotFoundError):  # a folder that has just been removed
                for changes in looks:
                    if changes or unseen:
                        self._update()
                    unseen = False
                    if time.monotonic() > ready_until:
                        ready_until = time.monotonic() + _READY_SECONDS
                        _keep_compilers()
                    if self._folders() != folders:
                        break

    def _update(self) -> None:
        """Build what changed since the last look, until nothing has changed meanwhile."""
        while not self._stopping.is_set():
            state = self._state()
            if _agree(state, self._seen):
                return
            if self._misses_a_file():
                self._stopping.wait(_MISSING_SECONDS)
                state = self._state()
            modules = self._concerned()
            error, reloads = None, None
            try:
                reloads = self._prepare(modules)
            except ShaderError as failure:
                error = failure.with_traceback(None)  # its frames would keep the modules alive
            if self._stopping.is_set():
                return
            if not _agree(self._state(), state):
                continue  # saved while it was built: what was built may be neither version
            first = not self._seen
            failed_before, self.error = self.error is not None, error
            if reloads is not None:
                with self._swapping:
                    self._saves += 1
                    changed = commit_together(modules, reloads)
                self._start_optimiser(modules, reloads)
            self._seen = self._state()
            if error is not None:
                _call(self._on_error, error)
            elif changed or failed_before or not (modules or first):
                _call(self._on_reload, changed)

    def _prepare(self, modules: list[Module]) -> list[Reload]:
        """New builds of all modules, side by side; raise the `ShaderError` of the first that fails."""
        # Those of most files take longest, and what starts last should be short.
        order = sorted(modules, key=lambda module: -len(module.files))
        with ThreadPoolExecutor(min(len(modules), os.cpu_count() or 1) or 1) as pool:
            builds = {module: pool.submit(module.prepare_reload, quick=True) for module in order}
            wait(builds.values(), return_when=FIRST_EXCEPTION)
            failed = [build for build in builds.values() if build.done() and build.exception()]
            if failed:
                pool.shutdown(wait=True, cancel_futures=True)
        if failed:
            error = failed[0].exception()
            if isinstance(error, ShaderError):
                raise error
            raise ShaderError(f"{self._path}: {error}") from error
        return [builds[module].result() for module in modules]

    def _start_optimiser(self, modules: list[Module], reloads: list[Reload]) -> None:
        quick = [module for module, reload in zip(modules, reloads, strict=True) if reload.is_quick]
        if quick:
            arguments = (quick, self._saves)
            self._optimiser = threading.Thread(target=self._optimise, args=arguments, daemon=True)
            self._optimiser.start()

    def _optimise(self, modules: list[Module], save: int) -> None:
        """Replace quick builds by optimised ones, unless another save comes first."""
        with contextlib.suppress(OSError, AttributeError):
            # On Linux the niceness is the thread's, and its compilers inherit it: frames and newer saves go first.
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 10)
        reloads = []
        for module in modules:
            if self._stopping.is_set() or self._saves != save:
                return
            try:
                reloads.append(module.prepare_reload())
            except Exception:
                return  # no longer what was built quickly: that save has its own turn
        with self._swapping:
            if self._stopping.is_set() or self._saves != save:
                return
            if any(module.differs_from(reload) for module, reload in zip(modules, reloads, strict=True)):
                return
            commit_together(modules, reloads)
        _call(self._on_optimised, modules)

    def _concerned(self) -> list[Module]:
        """The loaded modules of which the shader is part, or that share a file with the module."""
        files = {self._path, *(self._module.files if self._module else ())}
        return [module for module in loaded_modules() if not files.isdisjoint(module.files)]

    def _misses_a_file(self) -> bool:
        files = {self._path, *(file for module in self._concerned() for file in module.files)}
        return not all(map(os.path.exists, files))

    def _folders(self) -> dict[str, tuple[int, int]]:
        """The folders to watch, with what tells each from another that takes its place."""
        modules = self._concerned()
        files = {self._path, *(file for module in modules for file in module.files)}
        folders = {folder for module in modules for folder in module.searched_folders}
        if self.error:
            # What is missing may be in a folder that no build has reached yet.
            files |= {diagnostic.file for diagnostic in self.error.diagnostics if diagnostic.file}
            folders |= {folder for module in modules for folder in _folders_in(os.path.dirname(module.path))}
            folders |= set(_folders_in(os.path.dirname(self._path)))
        folders |= {os.path.dirname(os.path.abspath(file)) for file in files}
        found = {}
        for folder in sorted({_nearest_that_exists(folder) for folder in folders}):
            with contextlib.suppress(OSError):
                status = os.stat(folder)
                found[folder] = (status.st_dev, status.st_ino)
        return found

    def _state(self) -> State:
        used = {self._path, *(file for module in self._concerned() for file in module.files)}
        state: State = {folder: {} for folder in self._folders()}
        for folder, contents in state.items():
            with contextlib.suppress(OSError):
                names = [name for name in os.listdir(folder) if name.endswith((".slang", ".slang-module"))]
                files = {os.path.join(folder, name) for name in names}
                files |= {file for file in used if os.path.dirname(file) == folder}
                contents.update({file: _contents(file) for file in files})
        return state


def _keep_compilers() -> None:
    with contextlib.suppress(ShaderError):  # where there is none, the next build says so
        keep_workers(slangc_path(), min(_COMPILERS, os.cpu_count() or 1))


def _agree(state: State, other: State) -> bool:
    """Whether every folder of `state` is as in `other`. One that is new and empty changes nothing."""
    return all(other.get(folder, {}) == contents for folder, contents in state.items())


def _contents(file: str) -> str:
    try:
        return digest(Path(file).read_bytes())
    except OSError:
        return ""


def _folders_in(folder: str) -> list[str]:
    try:
        with os.scandir(folder) as items:
            return [item.path for item in items if item.is_dir()]
    except OSError:
        return []


def _nearest_that_exists(folder: str) -> str:
    """The folder, or the one around it that is still there and will show it when it comes back."""
    while not os.path.isdir(folder) and folder != os.path.dirname(folder):
        folder = os.path.dirname(folder)
    return folder


def _print_error(error: ShaderError) -> None:
    print(f"slangrast: {error}", file=sys.stderr)


def _call(function: Callable[[Any], Any] | None, argument: Any) -> None:
    """Call what the user gave; what it raises must not end the watch."""
    if function is not None:
        try:
            function(argument)
        except Exception:
            traceback.print_exc()
