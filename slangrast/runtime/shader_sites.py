"""Makes generated text tell, as it runs, which line of the shader it is at: what checked builds need beside `#line`.

A tensor access that stands in the shader has its line from `#line`. But much of what a shader calls is Slang's own
library (`DiffTensorView.load`, `WaveActiveSum`), whose functions have lines of files that nobody has. Each of them is
given a last parameter that takes its caller's place by default, and keeps it while it runs (host/checked/site.h).
"""

from __future__ import annotations

import os
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

_LINE_MARK = re.compile(r'^#line (\d+)(?: "(.*)")?$')
_DECLARATION = re.compile(r"^(?:extern \"C\" )?__(?:device|global)__ (?!static )[^=;]*\)(;?)$")
_NAME = re.compile(r"\w+$")
# A reverse step of Slang's library, and how the record that it is given came to be: fields are set, or it is a copy.
_REVERSE_STEP = re.compile(r"\bs_bwdProp_\w+\(&(\w+)[,)]")
_RECORD = re.compile(r"^\s*\(&(\w+)\)->\w+ = ")
_COPY = re.compile(r"^\s*(?:\w+ )?(\w+) = (\w+);$")
# A call of a wave operation of Slang's library.
_WAVE_CALL = re.compile(r"\b((?:Wave|Quad)\w+?)_\d+\(")

# Which functions of a DiffTensorView take each element once (in Slang's library, or written by a shader's author), and
# what they do to it. Those that only call them, s_apply_ and s_bwdProp_, begin otherwise.
_STORES_ONCE = re.compile(r"^(?!s_)\w*(?:_storeOnce|_storeOnce_forward|_loadOnce_backward)_\d+$")
_READS_GRADIENT_ONCE = re.compile(r"^(?!s_)\w*_storeOnce_backward_\d+$")


@dataclass
class _Function:
    name: str
    first: int  # the number of its line among those of the text
    end: int  # of the brace that closes it
    in_library: bool


def mark_sites(program: str, *, promises: bool) -> str:
    """`program` with callers' places in library functions. With `promises`, what takes an element once says so."""
    lines = program.split("\n")
    places = _places(lines)
    functions = _functions(lines, places)
    prototypes = {name for number, line in enumerate(lines) if (name := _declared(line, ";"))}
    for number, line in enumerate(lines):
        if _declared(line, ";") and not _is_shader(places[number][1]):
            lines[number] = _with_parameter(line.removesuffix(";"), " = slangrast::Site::here()") + ";"
    for function in functions:
        guards = ""
        if function.in_library:
            # A default argument is given once, and a prototype comes first.
            default = "" if function.name in prototypes else " = slangrast::Site::here()"
            lines[function.first] = _with_parameter(lines[function.first], default)
            guards += " slangrast::Caller slangrast_caller(slangrast_site);"
        else:
            _keep_to_shader(lines, function, places)
            _give_reverse_steps_their_lines(lines, function, places)
            _give_waves_their_lines(lines, function, places)
        if promises and _STORES_ONCE.match(function.name):
            guards += " slangrast::Promised slangrast_promised(slangrast::Promise::stores_once);"
        if promises and _READS_GRADIENT_ONCE.match(function.name):
            guards += " slangrast::Promised slangrast_promised(slangrast::Promise::reads_gradient_once);"
        lines[function.first + 1] += guards
    return "\n".join(lines)


@dataclass(frozen=True)
class KernelPlace:
    """Where a kernel stands in a shader."""

    file: str
    line: int  # of its declaration
    statement: int  # the line of its first statement, where a breakpoint stops


def kernel_places(program: str) -> dict[str, KernelPlace]:
    """The place of each kernel and derivative, by the name of its entry point."""
    lines = program.split("\n")
    places = _places(lines)
    found = {}
    for function in _functions(lines, places):
        if function.name.startswith("__kernel__"):
            inside = [number for number in range(function.first, function.end) if _is_shader(places[number][1])]
            code = [n for n in inside if n > function.first + 1 and lines[n].strip() and not lines[n].startswith("#")]
            line, file = places[inside[0]] if inside else (0, "")
            statement = places[code[0]][0] if code else line
            found[function.name.removeprefix("__kernel__")] = KernelPlace(file, line, statement)
    return found


def _places(lines: list[str]) -> list[tuple[int, str]]:
    """For each line of the text, the line and file that `#line` gives it."""
    places = []
    number, file = 0, ""
    for line in lines:
        if match := _LINE_MARK.match(line):
            number, file = int(match[1]), file if match[2] is None else match[2]
            places.append((number, file))  # what follows it has this number
        else:
            places.append((number, file))
            number += 1
    return places


def _is_shader(file: str) -> bool:
    """Slang's own library has bare names, such as hlsl.meta.slang."""
    return os.path.isabs(file)


def _functions(lines: list[str], places: list[tuple[int, str]]) -> list[_Function]:
    found = []
    for first, line in enumerate(lines):
        if (name := _declared(line, "")) and lines[first + 1] == "{":
            end = next(number for number in range(first, len(lines)) if lines[number] == "}")
            # By what is inside: the mark before a derivative's first line may still be that of the function before.
            in_library = not any(_is_shader(places[number][1]) for number in range(first, end))
            found.append(_Function(name, first, end, in_library))
    return found


def _declared(line: str, end: str) -> str:
    """The name of the function that a line declares, a prototype if `end` is a semicolon; empty where there is none."""
    match = _DECLARATION.match(line)
    if not match or match[1] != end:
        return ""
    depth = 0
    for place in range(len(line) - len(end) - 1, -1, -1):  # to the parenthesis that opens the parameters
        depth += (line[place] == ")") - (line[place] == "(")
        if depth == 0:
            found = _NAME.search(line[:place])
            return found[0] if found else ""
    return ""


def _with_parameter(declaration: str, default: str) -> str:
    opened = declaration.removesuffix(")")
    comma = "" if opened.endswith("(") else ", "
    return f"{opened}{comma}slangrast::Site slangrast_site{default})"


def _keep_to_shader(lines: list[str], function: _Function, places: list[tuple[int, str]]) -> None:
    """Give what slangc put inline from its library, in a function of the shader, the line of the shader before it."""
    inside = range(function.first, function.end + 1)
    last = next(places[number] for number in inside if _is_shader(places[number][1]))
    for number in inside:
        line, file = places[number]
        is_mark = _LINE_MARK.match(lines[number]) is not None
        if _is_shader(file):
            last = (line, file)
        else:
            lines[number] = f'#line {last[0]} "{last[1]}"' + ("" if is_mark else f"\n{lines[number]}")
    # What follows the function goes on with the numbers, and the file, that it had.
    line, file = places[function.end]
    lines[function.end] += f'\n#line {line + 1} "{file}"'


def _give_reverse_steps_their_lines(lines: list[str], function: _Function, places: list[tuple[int, str]]) -> None:
    """In a derivative, give each reverse step the line of what it reverses: slangc may have given it a later one.

    That is where the record was made that the step is given.
    """
    made: dict[str, tuple[int, str]] = {}
    copies: dict[str, list[str]] = {}
    for number in range(function.first, function.end):
        if (record := _RECORD.match(lines[number])) and _is_shader(places[number][1]):
            made.setdefault(record[1], places[number])
        elif copy := _COPY.match(lines[number]):
            copies.setdefault(copy[1], []).append(copy[2])
    for number in range(function.first, function.end):
        if step := _REVERSE_STEP.search(lines[number]):
            names = [step[1]]
            for name in names:  # which grows
                names += [original for original in copies.get(name, []) if original not in names]
            if origin := next((made[name] for name in names if name in made), None):
                line, file = places[number + 1]
                after = f'\n#line {line} "{file}"' if _is_shader(file) else ""
                lines[number] = f'#line {origin[0]} "{origin[1]}"\n{lines[number]}{after}'


def _give_waves_their_lines(lines: list[str], function: _Function, places: list[tuple[int, str]]) -> None:
    """Give each wave operation its line: slangc loses it where it adds a mask to the call, and the line before is left.

    That is the next line of the shader that has its name and was not yet taken, up to what comes after it in the text.
    """
    taken: Counter[tuple[int, str]] = Counter()
    for number in range(function.first, function.end):
        line, file = places[number]
        call = _WAVE_CALL.search(lines[number])
        if not call or not _is_shader(file):
            continue
        after = [places[n] for n in range(number, function.end) if lines[n].strip() and not _LINE_MARK.match(lines[n])]
        later = next((n for n, other in after if other == file and n > line), None)
        source = _source_lines(file)[line - 1 : later]
        uses = [(line + k, text.count(call[1] + "(")) for k, text in enumerate(source)]
        if found := next((n for n, count in uses if count > taken[n, call[1]]), None):
            taken[found, call[1]] += 1
            lines[number] = f'#line {found} "{file}"\n{lines[number]}\n#line {places[number + 1][0]} "{file}"'


def _source_lines(file: str) -> list[str]:
    try:
        return Path(file).read_text(errors="replace").splitlines()
    except OSError:
        return []
