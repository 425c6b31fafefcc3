"""The per-user cache of compiled modules, keyed by content.

    <cache>/index/<request>.json      for a request (path, defines, flags, compilers): the files that took part in each
                                      build, by content, and the entry that came of it
    <cache>/entries/<key>/            the files of one build, the names of those that took part, and checksums; written
                                      aside, then renamed. Of the key, the first half tells the contents of the files
                                      that took part, the second half the request
    <cache>/building/<request>.<id>/  where an entry is written; its compilers' temporary files are there too
    <cache>/locks/<request>.lock      held (by the kernel, so a killed process lets go) while one process builds

A reader takes no lock. Whatever has a lock's request in its name is written and removed only under that lock. An entry
whose checksums do not hold is built again.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
import time
import uuid
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from filelock import FileLock

_CHECKSUMS = "checksums.json"
_FILES = "files.json"
_BUILDS_REMEMBERED = 16
_STALE_SECONDS = 24 * 3600


def cache_folder() -> Path:
    """`SLANGRAST_CACHE`, else the user's cache folder, else (where that cannot be written) a temporary one."""
    if override := os.environ.get("SLANGRAST_CACHE"):
        folder = Path(override).expanduser().absolute()
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OSError(f"SLANGRAST_CACHE must name a folder that can be written, got {override}: {error}") from error
        return folder
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    for folder in (Path(base, "slangrast"), Path(tempfile.gettempdir(), f"slangrast-{os.getuid()}")):
        with contextlib.suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            # A compiled module is code that will run: never load one from a folder that somebody else owns.
            if os.access(folder, os.W_OK) and folder.stat().st_uid == os.getuid():
                return folder
    raise OSError(f"no cache folder can be written: set SLANGRAST_CACHE to one (tried {base}/slangrast)")


def digest(*parts: str | bytes) -> str:
    """A hash of the parts, in which their borders count."""
    state = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        state.update(len(data).to_bytes(8, "little"))
        state.update(data)
    return state.hexdigest()[:32]


def find_or_build(request: str, searched: Iterable[str], build: Callable[[Path], Iterable[str]]) -> Path:
    """The folder of the entry for `request`, built where it is not there yet.

    `request` is a digest of all but the files' contents. `searched` are the folders in which imports are looked for:
    a file that appears there can change what an import means. `build(folder)` writes the entry's files and returns
    the paths of the files that took part.
    """
    cache = cache_folder()
    searched = sorted(set(searched))
    if found := _find(cache, request, searched):
        return found
    for folder in ("locks", "entries", "building", "index"):
        (cache / folder).mkdir(parents=True, exist_ok=True)
    with FileLock(cache / "locks" / f"{request}.lock"):
        return _find(cache, request, searched) or _build(cache, request, searched, build)


def find(request: str, searched: Iterable[str]) -> Path | None:
    """The folder of the entry for `request`, where it is there already."""
    return _find(cache_folder(), request, sorted(set(searched)))


def same_contents(key: str, other: str) -> bool:
    """Whether two entries were made from the same files with the same contents, by whatever compiler and flags."""
    return key.partition("-")[0] == other.partition("-")[0]


def files_of(entry: Path) -> tuple[str, ...]:
    """The files that took part in the build of an entry: the shader and all that it imports."""
    return tuple(json.loads((entry / _FILES).read_text()))


def _find(cache: Path, request: str, searched: list[str]) -> Path | None:
    for record in _read_index(cache, request):
        entry = cache / "entries" / record["entry"]
        unchanged = all(_file_digest(path) == known for path, known in record["files"])
        if unchanged and record["rivals"] == _rivals(record["files"], searched) and _is_sound(entry):
            return entry
    return None


def _build(cache: Path, request: str, searched: list[str], build: Callable[[Path], Iterable[str]]) -> Path:
    _remove_leftovers(cache / "building", request)
    files: list[tuple[str, str]] | None = None
    for _ in range(5):
        folder = cache / "building" / f"{request}.{uuid.uuid4().hex}"
        folder.mkdir()
        try:
            started, before = time.time_ns(), files
            files = [(path, _file_digest(path)) for path in build(folder)]
            rivals = _rivals(files, searched)
            if files != before and any(_modified_since(path, started) for path in (*dict(files), *rivals)):
                # Saved while it was being compiled: what was built may be neither version. Or the clock that stamps
                # the file is ahead of ours, and then a second build finds the same contents.
                continue
            contents = digest(*(f"{path}\0{content}" for path, content in files))
            entry = cache / "entries" / f"{contents}-{request}"
            (folder / _FILES).write_text(json.dumps([path for path, _ in files]))
            _put(folder, entry)
            _write_index(cache, request, {"entry": entry.name, "files": files, "rivals": rivals})
            return entry
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    raise OSError("the shader kept changing while it was being compiled")


def _put(folder: Path, entry: Path) -> None:
    """Make `folder` the entry, in one step, unless the same is there already."""
    if _is_sound(entry):
        return
    sums = {name: _file_digest(str(folder / name)) for name in sorted(os.listdir(folder))}
    (folder / _CHECKSUMS).write_text(json.dumps(sums))
    if entry.exists():  # written by a machine that crashed, or damaged since
        damaged = folder.with_suffix(".damaged")
        os.rename(entry, damaged)
        shutil.rmtree(damaged, ignore_errors=True)
    os.rename(folder, entry)


def _read_index(cache: Path, request: str) -> list[dict]:
    try:
        records = json.loads((cache / "index" / f"{request}.json").read_text())
        return [
            {"entry": str(record["entry"]), "files": [(p, d) for p, d in record["files"]], "rivals": record["rivals"]}
            for record in records
        ]
    except (OSError, ValueError, LookupError, TypeError):  # not there, or damaged
        return []


def _write_index(cache: Path, request: str, record: dict) -> None:
    records = [record, *(other for other in _read_index(cache, request) if other["entry"] != record["entry"])]
    aside = cache / "index" / f"{request}.tmp"
    aside.write_text(json.dumps(records[:_BUILDS_REMEMBERED]))
    os.replace(aside, cache / "index" / f"{request}.json")
    for forgotten in records[_BUILDS_REMEMBERED:]:
        shutil.rmtree(cache / "entries" / forgotten["entry"], ignore_errors=True)


def _is_sound(entry: Path) -> bool:
    try:
        sums = json.loads((entry / _CHECKSUMS).read_text())
        return bool(sums) and all(_file_digest(str(entry / name)) == known for name, known in sums.items())
    except (OSError, ValueError, AttributeError):
        return False


def _file_digest(path: str) -> str:
    try:
        with open(path, "rb") as file:
            return digest(file.read())
    except OSError:
        return "missing"


def _modified_since(path: str, moment_ns: int) -> bool:
    try:
        return os.stat(path).st_mtime_ns >= moment_ns
    except OSError:
        return True


def _rivals(files: Iterable[Sequence[str]], searched: list[str]) -> list[str]:
    """The files that exist where slangc may look for an import before, or beside, where it found it.

    A build is out of date when one appears, though none of its own files changed. What an import may have been called
    is the path from any folder that is searched; slangc reads `_` as `-` too, and prefers a module compiled before.
    Of a symbolic link, slangc tells only where it leads: the others' targets count as rivals.
    """
    found = [path for path, _ in files]
    folders = {*searched, *map(os.path.dirname, found)}
    names = {os.path.relpath(path, folder) for path in found for folder in folders if path.startswith(folder + os.sep)}
    names |= {name.replace("_", "-") for name in names}
    names |= {os.path.splitext(name)[0] + ".slang-module" for name in names}
    candidates = {os.path.join(folder, name) for folder in folders for name in names}
    candidates |= {os.path.realpath(link) for folder in folders for link in _links(folder)}
    return sorted(path for path in candidates.difference(found) if os.path.exists(path))


def _links(folder: str) -> list[str]:
    try:
        with os.scandir(folder) as items:
            return [item.path for item in items if item.name.endswith(".slang") and item.is_symlink()]
    except OSError:
        return []


def _remove_leftovers(building: Path, request: str) -> None:
    """Remove what builds that were killed left behind: of this request, whose lock we hold, or long ago."""
    for item in building.iterdir():
        with contextlib.suppress(OSError):
            if item.name.startswith(request) or time.time() - item.stat().st_mtime > _STALE_SECONDS:
                shutil.rmtree(item, ignore_errors=True)
