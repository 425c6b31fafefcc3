"""`slangrast watch`, from its arguments to Ctrl-C."""

from __future__ import annotations

from .scene import Scene
from .server import HOST, make_server
from .session import Session
from .subject import find_subject


def run_viewer(shader: str, shape: str = "sphere", *, port: int = 8000, size: int = 256) -> int:
    """Serve the live page of a shader until Ctrl-C; the exit code.

    Args:
        shader: "file.slang:Struct", a .slang file with one formula, or the name or path of a shipped shader.
        shape: "sphere", "cube", "torus", "plane" or a mesh file.
        port: of 127.0.0.1; 0 takes a free one.
        size: of the images, in pixels.

    Raises:
        FileNotFoundError, ValueError: there is no such file, formula or shape.
        OSError: the port is taken.
    """
    subject = find_subject(shader)
    with Session(Scene(subject, shape, size)) as session, make_server(session, port) as server:
        print(f"{subject.title} is live at http://{HOST}:{server.server_address[1]}/ (Ctrl-C ends)", flush=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            print()
    return 0
