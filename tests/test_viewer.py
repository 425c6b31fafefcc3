"""`slangrast watch`: its page in a browser, what its server refuses, and what it shows of a shader."""

from __future__ import annotations

import dataclasses
import http.client
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import slangrast as sr
from slangrast.viewer import pictures
from slangrast.viewer.scene import Scene
from slangrast.viewer.server import make_server
from slangrast.viewer.session import Session, _shown
from slangrast.viewer.subject import find_subject

REPOSITORY = Path(__file__).parent.parent
FALLOFF = """import falloff;

struct Steep : IFalloff
{
    float scale;

    [Differentiable]
    CoverageValue evaluate(float x)
    {
        return coverage_of(0.5f + 0.5f * tanh(scale * x));
    }
};
"""
MILLISECONDS = 120_000  # for what takes three seconds, where the machine has much else to do


@pytest.fixture(scope="module")
def formula(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("formulas") / "steep.slang"
    path.write_text(FALLOFF)
    return path


@pytest.fixture(scope="module")
def scene(formula: Path) -> Scene:
    return Scene(find_subject(str(formula)), "cube", 48)


@contextmanager
def served(session: Any) -> Iterator[int]:
    """The port of a running server."""
    with make_server(session, 0) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join()


# In a browser.


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install playwright")
    names = ("chromium", "chromium-browser", "google-chrome")
    program = next(filter(None, map(shutil.which, names)), None)
    if program is None:
        pytest.skip(f"needs a browser, and there is none of {', '.join(names)}")
    with playwright.sync_playwright() as driver:
        # Chromium's sandbox does not start for root, and the page is our own.
        browser = driver.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def page(browser: Any, scene: Scene) -> Iterator[Any]:
    """The page of a formula, once it shows an image. Whatever it logs or throws is an error."""
    with Session(scene) as session, served(session) as port:
        page = browser.new_page(viewport={"width": 1200, "height": 900})
        page.set_default_timeout(MILLISECONDS)
        troubles: list[str] = []
        page.on("console", lambda message: troubles.append(message.text))
        page.on("pageerror", lambda error: troubles.append(str(error)))
        page.goto(f"http://127.0.0.1:{port}/")
        page.wait_for_selector("#picture:not([hidden])")
        yield page
        page.close()
    assert troubles == []


def picture_of(page: Any, name: str = "picture") -> str:
    return page.get_attribute(f"#{name}", "src")


def settled_picture_of(page: Any, name: str = "picture") -> str:
    """The picture once nothing is being rendered any more."""
    number = None
    while number != (number := page.get_attribute("html", "data-number")):
        page.wait_for_timeout(500)
    return picture_of(page, name)


def wait_for_another(page: Any, before: str, name: str = "picture") -> None:
    page.wait_for_function("([name, before]) => document.getElementById(name).src !== before", arg=[name, before])


def test_the_page_shows_images_and_numbers(page: Any) -> None:
    assert page.title() == "steep.slang:Steep · slangrast watch"
    assert re.search(r"12 faces, 48² · forward [\d.]+ ms, backward [\d.]+ ms · loss [\d.]+$", page.inner_text("#facts"))
    sizes = page.evaluate("['picture', 'gradient'].map(name => document.getElementById(name).naturalWidth)")
    assert sizes == [48, 48]
    assert page.locator("#sliders label").all_inner_texts() == [
        "sigma: softness of coverage", "gamma: softness of depth", "scale", "azimuth", "elevation",
    ]  # fmt: skip
    shown = {picture_of(page)}
    for name in ("silhouette", "depth", "colour"):
        page.click(f"text={name}")
        shown.add(picture_of(page))
    assert len(shown) == 3


@pytest.mark.parametrize("name", ["sigma", "gamma", "own.scale", "azimuth"])
def test_a_slider_changes_the_image(page: Any, name: str) -> None:
    before, numbers = settled_picture_of(page), page.locator(f"[id='{name}'] + input")
    number = numbers.input_value()
    page.focus(f"[id='{name}']")
    for _ in range(60):
        page.keyboard.press("ArrowLeft")
    wait_for_another(page, before)
    assert numbers.input_value() != number
    if name != "azimuth":
        assert re.match("∂ loss −?[1-9]", page.inner_text(f"[data-gradient='{name}']"))
    changed = settled_picture_of(page)
    numbers.fill(number)
    numbers.press("Enter")
    wait_for_another(page, changed)


def test_a_drag_turns_the_camera(page: Any) -> None:
    before, box = settled_picture_of(page), page.locator("#picture").bounding_box()
    page.mouse.move(box["x"] + 100, box["y"] + 100)
    page.mouse.down()
    page.mouse.move(box["x"] + 180, box["y"] + 130, steps=3)
    page.mouse.up()
    wait_for_another(page, before)
    assert page.input_value("#azimuth") != "30" and page.input_value("#elevation") != "25"


def test_an_edit_changes_the_image(page: Any, formula: Path) -> None:
    """Also the sliders, where it changes the fields."""
    before, gradient = settled_picture_of(page), picture_of(page, "gradient")
    edited = FALLOFF.replace("tanh(scale * x)", "tanh(scale * x + shift)")
    formula.write_text(edited.replace("float scale;", "float scale;\n    float shift;"))
    page.wait_for_selector("[id='own.shift']")
    assert picture_of(page) != before and picture_of(page, "gradient") != gradient
    formula.write_text(FALLOFF)
    page.wait_for_selector("[id='own.shift']", state="detached")
    assert settled_picture_of(page) == before


def test_an_error_is_shown_with_its_line_until_it_is_gone(page: Any, formula: Path) -> None:
    before = settled_picture_of(page)
    assert page.is_hidden("#error")
    formula.write_text(FALLOFF.replace("scale * x)", "<b>scael</b> * x)").replace("<b>", "").replace("</b>", ""))
    page.wait_for_selector("#error:not([hidden])")
    text = page.inner_text("#error")
    assert "return coverage_of(0.5f + 0.5f * tanh(scael * x));" in text
    assert f"{formula}, line 10" in text and "scael" in text
    caret = page.locator("#error pre").first.text_content().splitlines()
    assert caret[1].index("^") == caret[0].index("scael")
    assert picture_of(page) == before  # the last good image stays
    formula.write_text(FALLOFF)
    page.wait_for_selector("#error", state="hidden")


# The server, with nothing behind it.


class Nothing:
    """Stands in for a session that has one state."""

    def __init__(self) -> None:
        self.values: list[dict] = []

    def next_state(self, after: int, timeout: float) -> tuple[int, str]:
        return (1, '{"number": 1}') if after < 1 else (-1, "")

    def set_values(self, values: dict) -> None:
        if "unknown" in values:
            raise ValueError("no slider is called 'unknown'")
        self.values.append(values)


@pytest.fixture
def nothing() -> Nothing:
    return Nothing()


@pytest.fixture
def port(nothing: Nothing) -> Iterator[int]:
    with served(nothing) as port:
        yield port


def ask(port: int, method: str, path: str, body: str | None = None, **headers: str) -> tuple[int, str, dict[str, str]]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
        response = connection.getresponse()
        return response.status, response.read().decode(), dict(response.getheaders())
    finally:
        connection.close()


def test_it_serves_its_page_and_its_states_and_nothing_else(port: int) -> None:
    status, page, headers = ask(port, "GET", "/")
    assert status == 200 and page.startswith("<!doctype html>")
    assert "default-src 'none'" in headers["Content-Security-Policy"]
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert not re.search(r"https?://|@import|<link rel=.stylesheet|src=", page), "the page must bring all that it needs"
    assert ask(port, "GET", "/states")[1] == 'data: {"number": 1}\n\n'
    for path in ("/page.html", "/server.py", "/../cli.py", "//etc/passwd", "/?x", "/values"):
        assert ask(port, "GET", path)[0] == 404
    for method in ("PUT", "DELETE", "OPTIONS"):
        assert ask(port, method, "/")[0] == 501


@pytest.mark.parametrize(
    "host", ["example.com", "127.0.0.1", "localhost:1", "127.0.0.1.example.com:{port}", "[::1]:{port}"]
)
def test_another_host_name_is_refused(port: int, nothing: Nothing, host: str) -> None:
    """A page elsewhere may have had its name resolve to 127.0.0.1."""
    host = host.format(port=port)
    for method, path in (("GET", "/"), ("GET", "/states"), ("POST", "/values")):
        assert ask(port, method, path, "{}", Host=host, Content_Type="application/json")[0] == 403
    assert nothing.values == []


def test_localhost_is_a_name_for_it(port: int) -> None:
    assert ask(port, "GET", "/", Host=f"localhost:{port}")[0] == 200


def test_values_come_from_its_own_page_only(port: int, nothing: Nothing) -> None:
    own = {"Content_Type": "application/json", "Origin": f"http://127.0.0.1:{port}"}
    assert ask(port, "POST", "/values", '{"sigma": 0.1}', **own)[0] == 204
    assert nothing.values == [{"sigma": 0.1}]
    assert ask(port, "POST", "/values", "{}", **{**own, "Origin": "http://example.com"})[0] == 403
    assert ask(port, "POST", "/values", "{}", **{**own, "Origin": "null"})[0] == 403
    assert ask(port, "POST", "/values", "{}", Content_Type="text/plain")[0] == 415
    for body in ("{", "[1]", '{"unknown": 1}'):
        assert ask(port, "POST", "/values", body, **own)[0] == 400
    assert ask(port, "POST", "/values", " " * 65537, **own)[0] == 413
    assert ask(port, "POST", "/elsewhere", "{}", **own)[0] == 404
    assert len(nothing.values) == 1


def test_it_listens_on_this_machine_only(port: int, nothing: Nothing) -> None:
    with socket.socket() as connection:
        connection.settimeout(5)
        with pytest.raises(OSError):
            connection.connect(("127.0.0.2", port))  # another address of this machine
    with pytest.raises(OSError, match=rf"watch: port {port} cannot be used \(.*\): take another, or --port 0"):
        make_server(nothing, port)  # type: ignore[arg-type]


# What it shows.


def test_subjects(formula: Path, tmp_path: Path) -> None:
    assert find_subject("coverage").title == "coverage.slang"
    assert find_subject("coverage").kind == ""
    shipped = find_subject(f"{REPOSITORY / 'shaders' / 'coverage.slang'}:Distance")
    assert (shipped.kind, shipped.struct) == ("coverage", "Distance")
    assert (find_subject(str(formula)).kind, find_subject(str(formula)).struct) == ("falloff", "Steep")
    with pytest.raises(FileNotFoundError, match=r"no file .*missing\.slang"):
        find_subject(str(tmp_path / "missing.slang"))
    with pytest.raises(ValueError, match=r"has no formula Flat; it has \['Steep'\]\. A formula is a struct that"):
        find_subject(f"{formula}:Flat")
    several = tmp_path / "several.slang"
    several.write_text(FALLOFF + FALLOFF.replace("Steep", "Other"))
    with pytest.raises(ValueError, match=r"has several formulas: name one of .*:Steep, .*:Other"):
        find_subject(str(several))
    several.write_text("float f() { return 1; }\n")
    with pytest.raises(ValueError, match=r"has no formula\. .* For kernels, use slangrast\.watch in a program"):
        find_subject(str(several))


def test_the_gradient_draws_edges_to_the_right(scene: Scene) -> None:
    values = {slider.name: slider.value for slider in scene.sliders()}
    rendering = scene.render({**values, "azimuth": 0.0, "elevation": 0.0, "sigma": 1e-2})
    assert rendering.not_finite == 0
    assert float(rendering.pull[:, 0].max()) > 0
    assert float(rendering.pull[:, 0].min()) > -0.05 * float(rendering.pull[:, 0].max())
    assert set(rendering.gradients) >= {"sigma", "own.scale"}
    # The square face is seen head on: what reaches above and below draws as much up as down.
    assert abs(float(rendering.pull[:, 1].sum())) < 0.05 * float(rendering.pull[:, 0].sum())


def test_hues_are_directions() -> None:
    hues = pictures._hues(np.radians([0, 60, 120, 180, 240, 300]))
    colours = [[255, 0, 0], [255, 255, 0], [0, 255, 0], [0, 255, 255], [0, 0, 255], [255, 0, 255]]
    np.testing.assert_allclose(hues, colours, atol=1e-9)


def test_values_of_sliders(scene: Scene) -> None:
    session = Session(scene)
    session._renew_sliders()
    session.set_values({"sigma": 1, "own.scale": -2.5})
    assert session._values["sigma"] == 1.0 and session._values["own.scale"] == -2.5
    with pytest.raises(ValueError, match=r"no slider is called 'zeta'; there are \['azimuth'"):
        session.set_values({"sigma": 3.0, "zeta": 1.0})
    for value in (float("nan"), "1", None, True, [1]):
        with pytest.raises(ValueError, match="gamma must be a finite number, got"):
            session.set_values({"sigma": 3.0, "gamma": value})
    assert session._values["sigma"] == 1.0  # all or none


def state_where(session: Session, holds: Callable[[dict], bool]) -> dict:
    """The first state, from the present one on, of which that holds."""
    number = -1
    ended = time.monotonic() + MILLISECONDS / 1000
    while time.monotonic() < ended:
        number, text = session.next_state(number, 1.0)
        state = json.loads(text)
        if holds(state):
            return state
    raise TimeoutError(text[:1000])


def test_an_error_stays_beside_what_the_last_good_build_renders(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    watch = SimpleNamespace(error=sr.ShaderError("it does not compile"), stop=lambda: None)
    monkeypatch.setattr("slangrast.viewer.session.watch", lambda *arguments, **callbacks: watch)
    with Session(scene) as session:
        first = state_where(session, lambda state: "pictures" in state)
        assert first["error"]["summary"] == "it does not compile"
        watch.error = None
        session.set_values({"azimuth": 77.0})
        assert state_where(session, lambda state: state["error"] is None)["pictures"] != first["pictures"]


@pytest.mark.parametrize("loss", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_has_a_word_in_json(scene: Scene, loss: float) -> None:
    sliders = scene.sliders()
    values = {slider.name: slider.value for slider in sliders}
    shown = _shown(dataclasses.replace(scene.render(values), loss=loss), sliders, values)
    assert json.loads(json.dumps(shown, allow_nan=False))["loss"] is None


def test_sliders_of_vectors_and_what_cannot_be_slid(tmp_path: Path) -> None:
    phong = Scene(find_subject("shaders/fragment.slang:Phong"), "plane", 32).sliders()
    assert {"own.light[2]", "own.shininess"} <= {slider.name for slider in phong}
    own = tmp_path / "own.slang"
    own.write_text(FALLOFF.replace("float scale;", "TensorView<float> table;").replace("scale", "table[0]"))
    with pytest.raises(ValueError, match="field table of Steep is a tensor, which the page cannot make up"):
        Scene(find_subject(str(own))).sliders()
    with pytest.raises(ValueError, match="size must be from 16 to 1024 pixels, got 8"):
        Scene(find_subject(str(own)), size=8)


def test_scenes_from_files(tmp_path: Path) -> None:
    sr.save_mesh(tmp_path / "far.obj", sr.Mesh(sr.cube(50.0).vertices + 1000, sr.cube().triangles))
    scene = Scene(find_subject("coverage"), str(tmp_path / "far.obj"), 32)
    vertices = scene.attributes["vertices"]
    assert float(vertices.norm(dim=1).max()) == pytest.approx(1)
    assert float(vertices.mean(dim=0).abs().max()) < 1e-5
    with pytest.raises(FileNotFoundError, match="nothing"):
        Scene(find_subject("coverage"), "nothing")


# The command.


def test_the_command_says_where_it_is_and_ends_with_ctrl_c(formula: Path) -> None:
    options = ["--scene", "cube", "--size", "48", "--port", "0"]
    command = [sys.executable, "-m", "slangrast", "watch", str(formula), *options]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    # As from a terminal: a shell that runs this in the background would have it ignore Ctrl-C.
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip
    try:
        assert process.stdout is not None
        said = process.stdout.readline()
        found = re.fullmatch(r"steep\.slang:Steep is live at (http://127\.0\.0\.1:\d+/) \(Ctrl-C ends\)\n", said)
        assert found, said
        with urllib.request.urlopen(f"{found[1]}states", timeout=120) as states:
            state = json.loads(states.readline().removeprefix(b"data: "))
        assert state["title"] == "steep.slang:Steep"
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    finally:
        process.kill()
        process.communicate()
    assert (process.returncode, errors) == (0, "")


def test_the_command_refuses_what_it_cannot_show(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from slangrast.cli import main

    assert main(["watch", str(tmp_path / "missing.slang")]) == 2
    assert "no file" in capsys.readouterr().err
