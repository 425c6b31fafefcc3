"""The state behind the page: the values of its sliders, the last good rendering, and the error, if there is one."""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Mapping
from typing import Any

from slangrast.runtime import Diagnostic, ShaderError, watch

from .pictures import pictures_of
from .scene import Rendering, Scene, Slider


class Session:
    """Renders the scene in a thread of its own whenever the shader or a slider has changed."""

    def __init__(self, scene: Scene) -> None:
        self._scene = scene
        self._sliders: list[Slider] = []
        self._values: dict[str, float] = {}
        self._state: dict[str, Any] = {"title": scene.subject.title, "size": scene.size, "faces": len(scene.triangles)}
        self._number = 0  # of the state; those who wait are told when it grows
        self._changed = threading.Condition()
        self._stale, self._reloaded, self._ended = True, True, False
        self._thread = threading.Thread(target=self._run, name="slangrast viewer", daemon=True)

    def __enter__(self) -> Session:
        self._watch = watch(
            self._scene.subject.path,
            on_reload=lambda modules: self._ask_for_rendering(reloaded=True),
            on_error=self._show_error,
            on_optimised=lambda modules: self._ask_for_rendering(reloaded=False),
        )
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        with self._changed:
            self._ended = True
            self._changed.notify_all()
        self._watch.stop()
        self._thread.join()

    def set_values(self, values: Mapping[str, Any]) -> None:
        """Take over the values of sliders, by name.

        Raises:
            ValueError: a name is that of no slider, or a value no finite number.
        """
        with self._changed:
            for name, value in values.items():
                if name not in self._values:
                    raise ValueError(f"no slider is called {name!r}; there are {sorted(self._values)}")
                if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
                    raise ValueError(f"{name} must be a finite number, got {value!r}")
            self._values.update({name: float(value) for name, value in values.items()})
            self._stale = True
            self._changed.notify_all()

    def next_state(self, after: int, timeout: float) -> tuple[int, str]:
        """The number and the JSON text of the first state after number `after`; of the present one after `timeout`.

        After the end, the number is -1.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._number > after or self._ended, timeout)
            return (-1 if self._ended else self._number), json.dumps(self._state)

    def _ask_for_rendering(self, *, reloaded: bool) -> None:
        with self._changed:
            self._stale = True
            self._reloaded |= reloaded
            self._changed.notify_all()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._stale or self._ended)
                if self._ended:
                    return
                self._stale, reloaded, self._reloaded = False, self._reloaded, False
            try:
                if reloaded:
                    self._renew_sliders()
                with self._changed:
                    values, sliders = dict(self._values), list(self._sliders)
                rendering = self._scene.render(values)
                if "pictures" not in self._state:  # the first has compiled as well: time another
                    rendering = self._scene.render(values)
                broken = self._watch.error  # of the file as it is; what was rendered is then the last good one
                self._publish(_shown(rendering, sliders, values), error=_in_words(broken) if broken else None)
            except ShaderError as error:
                self._show_error(error)
            except Exception as error:  # of a formula that no longer fits, or a value out of range: shown, not fatal
                self._publish({}, error={"summary": f"{error}", "places": []})

    def _renew_sliders(self) -> None:
        """The formula's fields may have changed. What the user set stays."""
        sliders = self._scene.sliders()
        with self._changed:
            self._sliders = sliders
            self._values = {slider.name: self._values.get(slider.name, slider.value) for slider in sliders}

    def _show_error(self, error: ShaderError) -> None:
        self._publish({}, error=_in_words(error))

    def _publish(self, change: Mapping[str, Any], error: Mapping[str, Any] | None) -> None:
        with self._changed:
            self._number += 1
            self._state = {**self._state, **change, "error": error, "number": self._number}
            self._changed.notify_all()


def _shown(rendering: Rendering, sliders: list[Slider], values: Mapping[str, float]) -> dict[str, Any]:
    return {
        "pictures": pictures_of(rendering),
        "loss": rendering.loss if math.isfinite(rendering.loss) else None,  # JSON has no word for NaN
        "forward_ms": rendering.forward_ms,
        "backward_ms": rendering.backward_ms,
        "not_finite": rendering.not_finite,
        "sliders": [
            {**vars(slider), "value": values[slider.name], "gradient": rendering.gradients.get(slider.name)}
            for slider in sliders
        ],
    }


def _in_words(error: ShaderError) -> dict[str, Any]:
    # Where an imported file is at fault, the files that import it complain too: the first is the cause.
    places = [_place(diagnostic) for diagnostic in error.diagnostics if diagnostic.line]
    return {"summary": error.summary, "places": places or [_no_place(error)]}


def _place(diagnostic: Diagnostic) -> dict[str, Any]:
    return {
        "file": diagnostic.file,
        "line": diagnostic.line,
        "column": diagnostic.column,
        "message": diagnostic.message,
        "source": (diagnostic.source_line() or "").expandtabs(1),
    }


def _no_place(error: ShaderError) -> dict[str, Any]:
    message = "\n".join(diagnostic.message for diagnostic in error.diagnostics) or error.output
    return {"file": "", "line": 0, "column": 0, "message": message, "source": ""}
