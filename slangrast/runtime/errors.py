"""`ShaderError`: what slangc or the C++ compiler said, as file, line and source line."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Diagnostic:
    """One message of a compiler about one place in a shader."""

    file: str
    line: int
    column: int
    message: str
    severity: str = "error"

    def source_line(self) -> str | None:
        """The text of the line it speaks of, or None where the file cannot be read."""
        try:
            lines = Path(self.file).read_text(errors="replace").splitlines()
        except OSError:
            return None
        return lines[self.line - 1] if 0 < self.line <= len(lines) else None

    def __str__(self) -> str:
        place = ":".join(str(part) for part in (self.file, self.line, self.column) if part)
        text = f"{place}: {self.severity}: {self.message}" if place else f"{self.severity}: {self.message}"
        source = self.source_line()
        if source is not None:
            text += f"\n    {source.expandtabs(1)}"
            if self.column:
                text += f"\n    {' ' * (self.column - 1)}^"
        return text


class ShaderError(RuntimeError):
    """A shader does not compile, or needs what its engine does not have.

    `diagnostics` holds one `Diagnostic` (file, line, column, message) for each thing said;
    `str()` shows each with its source line.
    """

    def __init__(self, summary: str, diagnostics: list[Diagnostic] | None = None, output: str = "") -> None:
        super().__init__(summary)
        self.summary = summary
        self.diagnostics = diagnostics or []
        self.output = output

    def __str__(self) -> str:
        if self.diagnostics:
            return "\n".join([self.summary, *map(str, self.diagnostics)])
        return f"{self.summary}\n{self.output}".rstrip()

    def __reduce__(self) -> tuple[type[ShaderError], tuple[str, list[Diagnostic], str]]:
        return type(self), (self.summary, self.diagnostics, self.output)


class KernelError(ShaderError):
    """A kernel did something wrong as it ran, in a build that checks: `debug=True`, or `engine="simt"`.

    `diagnostics[0]` has file and line in the shader. `kernel` (its name, with `.bwd` or `.fwd`), `argument` (with the
    fields of a struct, and `.grad`), `index`, `shape`, `block` and `thread` are empty where they do not apply.
    """

    def __init__(
        self,
        summary: str,
        diagnostics: list[Diagnostic] | None = None,
        output: str = "",
        *,
        kernel: str = "",
        argument: str = "",
        index: tuple[int, ...] = (),
        shape: tuple[int, ...] = (),
        block: tuple[int, ...] = (),
        thread: tuple[int, ...] = (),
    ) -> None:
        super().__init__(summary, diagnostics, output)
        self.kernel, self.argument, self.index, self.shape = kernel, argument, index, shape
        self.block, self.thread = block, thread

    def __reduce__(self) -> tuple:  # all but what is in the arguments is in __dict__
        return type(self), (self.summary, self.diagnostics, self.output), self.__dict__


class MissingProgramError(ShaderError):
    """The CUDA engine cannot build, for a program that it runs is not on this machine."""


_SLANGC_HEADER = re.compile(r"^(?P<severity>[a-z ]*error|warning|note)\s*(?:\[(?P<code>E\d+)\])?: (?P<title>.*)$")
_SLANGC_PLACE = re.compile(r"^\s*--> (?P<file>.*):(?P<line>\d+):(?P<column>\d+)\s*$")
_SLANGC_DETAIL = re.compile(r"^\s*\|\s*(?:\^[\^~]*\s*)?(?P<detail>[^\s^~].*)$")  # beside the caret


def parse_slangc_output(output: str) -> list[Diagnostic]:
    """The errors in what slangc printed; warnings and notes are left out."""
    found: list[dict] = []
    for line in output.splitlines():
        if header := _SLANGC_HEADER.match(line):
            code = f"[{header['code']}] " if header["code"] else ""
            found.append({"severity": header["severity"], "title": code + header["title"], "detail": ""})
        elif found and "file" not in found[-1] and (place := _SLANGC_PLACE.match(line)):
            found[-1].update(file=place["file"], line=int(place["line"]), column=int(place["column"]))
        elif found and not found[-1]["detail"] and (detail := _SLANGC_DETAIL.match(line)):
            found[-1]["detail"] = detail["detail"]
    return [
        Diagnostic(
            file=entry.get("file", ""),
            line=entry.get("line", 0),
            column=entry.get("column", 0),
            message=": ".join(
                filter(None, [entry["title"], entry["detail"] * (entry["detail"] not in entry["title"])])
            ),
        )
        for entry in found
        if entry["severity"].endswith("error")
    ]


_NVCC_ERROR = re.compile(r"^(?P<file>\S.*?)\((?P<line>\d+)\): (?:catastrophic )?error.*?: (?P<message>.*)$")


def parse_nvcc_output(output: str) -> list[Diagnostic]:
    """The errors in what nvcc or NVRTC printed. `#line` makes them speak of the .slang file."""
    return [
        Diagnostic(match["file"], int(match["line"]), 0, match["message"])
        for match in map(_NVCC_ERROR.match, output.splitlines())
        if match
    ]


_HOST_ERROR = re.compile(r"^(?P<file>\S.*?):(?P<line>\d+):(?:(?P<column>\d+):)? (?:fatal )?error: (?P<message>.*)$")


def parse_host_compiler_output(output: str) -> list[Diagnostic]:
    """The errors in what g++ or clang++ printed. `#line` makes them speak of the .slang file."""
    return [
        Diagnostic(match["file"], int(match["line"]), int(match["column"] or 0), match["message"])
        for match in map(_HOST_ERROR.match, output.splitlines())
        if match
    ]
