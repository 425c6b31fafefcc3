"""The examples in the docstrings of all public names run, and print what they say."""

from __future__ import annotations

import doctest
import inspect

import pytest

import slangrast

NEEDED = {"antialias", "edge_gradients", "interpolate", "mip_stack", "peel", "rasterize", "texture"}


def find_examples() -> list[doctest.DocTest]:
    """Those of public functions, of classes and their methods, and of the functions in public modules."""
    # An example brings its own imports, so that a reader can copy it.
    finder = doctest.DocTestFinder(exclude_empty=True)
    public = [(name, getattr(slangrast, name)) for name in slangrast.__all__]
    return [
        test
        for name, thing in public
        for test in finder.find(thing, name, module=thing if inspect.ismodule(thing) else None, globs={})
        if test.examples
    ]


EXAMPLES = find_examples()


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.name)
def test_an_example_prints_what_it_says(example: doctest.DocTest) -> None:
    said: list[str] = []
    doctest.DocTestRunner(verbose=False).run(example, out=said.append)
    assert not said, "".join(said)


def test_the_hard_path_has_examples() -> None:
    assert {example.name for example in EXAMPLES} >= NEEDED


def test_an_example_that_is_wrong_is_seen() -> None:
    def add() -> None:
        """
        >>> 1 + 1
        3
        """

    (example,) = doctest.DocTestFinder().find(add, "add")
    with pytest.raises(AssertionError, match=r"Expected:\s+3\s+Got:\s+2"):
        test_an_example_prints_what_it_says(example)
