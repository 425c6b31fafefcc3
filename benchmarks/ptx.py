"""Loops of a kernel in PTX, and how many instructions a turn of one takes."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

_ENTRY = re.compile(r"\.entry\s+(\w+)\s*\(.*?\)[^{]*\{(.*?)^\}", re.DOTALL | re.MULTILINE)
_LABEL = re.compile(r"^(\$\w+):")
_INSTRUCTION = re.compile(r"^(?:@!?%p\d+\s+)?([a-z][\w.]*)\s*(.*?);")
_KINDS = {
    "special": ("ex2", "lg2", "rcp", "rsqrt", "sqrt", "sin", "cos", "tanh", "div"),
    "memory": ("ld", "st", "atom", "red"),
    "shuffle": ("shfl", "vote", "redux", "activemask", "match", "bar"),
}


@dataclass
class Block:
    """Instructions that run together, and where they may lead."""

    instructions: list[str] = field(default_factory=list)
    next: list[str] = field(default_factory=list)


@dataclass
class Loop:
    """A loop, by the labels of its blocks; of those inside it each turn is one."""

    blocks: dict[str, Block]
    header: str
    inner: dict[str, set[str]]  # the loops inside, by their headers

    def shortest(self) -> list[str]:
        """The instructions of the turn that has the fewest."""
        return self._turn(min)

    def longest(self) -> list[str]:
        """The instructions of the turn that has the most, each loop inside it gone through once."""
        return self._turn(max)

    def largest_inner(self) -> Loop:
        """The largest of the loops inside it, or itself where there is none."""
        if not self.inner:
            return self
        header = max(self.inner, key=lambda one: sum(len(self.blocks[label].instructions) for label in self.inner[one]))
        labels = self.inner[header]
        inside = {one: part for one, part in self.inner.items() if one != header and one in labels}
        return Loop({label: self.blocks[label] for label in labels}, header, inside)

    def _turn(self, choose: Callable[..., list[str]]) -> list[str]:
        known: dict[str, list[str] | None] = {}

        def rest(label: str) -> list[str] | None:
            """From a block to the end of the turn; None for what leads out of the loop."""
            if label not in known:
                ends = [[] if target == self.header else rest(target) for target in self._after(label)]
                left = [end for end in ends if end is not None]
                known[label] = self.blocks[label].instructions + choose(left, key=len) if left else None
            return known[label]

        turn = rest(self.header)
        assert turn is not None, "a loop has a turn"
        return turn

    def _after(self, label: str) -> list[str]:
        """Where a block leads, in the loop; at the end of an inner loop, to what comes after that one."""
        found: list[str] = []
        for target in self.blocks[label].next:
            inner = self.inner.get(target, set())
            if label in inner:
                found += [exit for one in inner for exit in self.blocks[one].next if exit not in inner]
            else:
                found.append(target)
        return [target for target in found if target in self.blocks]


def entries(ptx: str) -> dict[str, str]:
    """The body of each kernel, by name."""
    return dict(_ENTRY.findall(ptx))


def blocks_of(body: str) -> dict[str, Block]:
    """The blocks of a kernel, in their order; the first is called "start"."""
    blocks: dict[str, Block] = {}
    label, block = "start", Block()

    def end(following: str | None) -> None:
        if following is not None:
            block.next.append(following)
        blocks[label] = block

    for line in map(str.strip, body.splitlines()):
        if found := _LABEL.match(line):
            end(found[1])
            label, block = found[1], Block()
        elif found := _INSTRUCTION.match(line):
            opcode, operands = found[1], found[2]
            if opcode.startswith("call"):
                raise ValueError(f"PTX: a call, of which the instructions are not counted: {line}")
            block.instructions.append(opcode)
            if opcode.startswith("bra"):
                block.next.append(operands.strip())
            if opcode.startswith(("bra", "ret", "exit")):
                falls_through = line.startswith("@")
                following = f"{label}'" if falls_through else None
                end(following)
                label, block = f"{label}'", Block()
    end(None)
    return blocks


def largest_loop(body: str) -> Loop:
    """The loop of a kernel that holds the most instructions."""
    blocks = blocks_of(body)
    reachable = _reachable("start", blocks)
    blocks = {label: block for label, block in blocks.items() if label in reachable}
    dominators = _dominators(blocks)
    loops: dict[str, set[str]] = {}
    for label, block in blocks.items():
        for header in block.next:
            if header in dominators[label]:
                loops.setdefault(header, {header}).update(_leading_to(label, header, blocks))
    if not loops:
        raise ValueError("PTX: the kernel has no loop")
    size = {header: sum(len(blocks[label].instructions) for label in labels) for header, labels in loops.items()}
    header = max(size, key=lambda one: size[one])
    inner = {one: labels for one, labels in loops.items() if one != header and one in loops[header]}
    return Loop({label: blocks[label] for label in loops[header]}, header, inner)


def kinds_of(instructions: Iterable[str]) -> Counter[str]:
    """How many are of each kind: special functions, memory, shuffles, other."""
    counts: Counter[str] = Counter()
    for opcode in instructions:
        name = opcode.split(".")[0]
        counts[next((kind for kind, names in _KINDS.items() if name in names), "other")] += 1
    return counts


def _reachable(start: str, blocks: dict[str, Block]) -> set[str]:
    found, left = {start}, [start]
    while left:
        new = set(blocks[left.pop()].next) - found
        found |= new
        left += new
    return found


def _dominators(blocks: dict[str, Block]) -> dict[str, set[str]]:
    """Of each block, those that every way to it passes, itself among them."""
    before: dict[str, list[str]] = {label: [] for label in blocks}
    for label, block in blocks.items():
        for target in block.next:
            before[target].append(label)
    every = set(blocks)
    found = {label: {label} if label == "start" else every for label in blocks}
    changed = True
    while changed:
        changed = False
        for label in blocks:
            if label == "start":
                continue
            new = {label} | set.intersection(*(found[one] for one in before[label]))
            changed |= new != found[label]
            found[label] = new
    return found


def _leading_to(label: str, header: str, blocks: dict[str, Block]) -> set[str]:
    """The blocks from which `label` can be reached without passing `header`."""
    before: dict[str, set[str]] = {}
    for one, block in blocks.items():
        for target in block.next:
            before.setdefault(target, set()).add(one)
    found, left = {label}, [label]
    while left:
        one = left.pop()
        if one == header:
            continue
        new = before.get(one, set()) - found
        found |= new
        left += new
    return found
