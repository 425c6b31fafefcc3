"""The page over HTTP, for this machine only."""

from __future__ import annotations

import json
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import resources

from .session import Session

HOST = "127.0.0.1"
_LARGEST_BODY = 65536
_SECONDS_BETWEEN_SIGNS_OF_LIFE = 10.0
# The page brings its own style and script, shows pictures that are in its data, and talks to nobody but this server.
_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


def make_server(session: Session, port: int) -> ThreadingHTTPServer:
    """A server for the page of `session` on 127.0.0.1; port 0 takes a free one.

    Raises:
        OSError: the port is taken.
    """

    class Handler(_Handler):
        pass

    Handler.session = session
    try:
        server = ThreadingHTTPServer((HOST, port), Handler)
    except OSError as error:
        raise OSError(f"watch: port {port} cannot be used ({error.strerror}): take another, or --port 0") from None
    server.daemon_threads = True
    return server


class _Handler(BaseHTTPRequestHandler):
    session: Session
    server: ThreadingHTTPServer

    def do_GET(self) -> None:
        if not self._is_for_us():
            return
        if self.path == "/":
            page = resources.files(__package__).joinpath("page.html").read_bytes()
            self._answer(HTTPStatus.OK, page, "text/html; charset=utf-8")
        elif self.path == "/states":
            self._send_states()
        else:
            self._answer(HTTPStatus.NOT_FOUND, b"there is only /\n")

    def do_POST(self) -> None:
        if not self._is_for_us():
            return
        if self.path != "/values":
            self._answer(HTTPStatus.NOT_FOUND, b"there is only /values\n")
            return
        # A page elsewhere can send neither this type nor its own origin without being refused.
        if self.headers.get("Content-Type") != "application/json":
            self._answer(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, b"values must be application/json\n")
            return
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal() or int(length) > _LARGEST_BODY:
            self.close_connection = True
            self._answer(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, b"too much\n")
            return
        try:
            values = json.loads(self.rfile.read(int(length)))
            if not isinstance(values, dict):
                raise ValueError("values must be an object of numbers by name")
            self.session.set_values(values)
        except ValueError as error:
            self._answer(HTTPStatus.BAD_REQUEST, f"{error}\n".encode())
            return
        self._answer(HTTPStatus.NO_CONTENT)

    def _is_for_us(self) -> bool:
        """Refuse requests under another host's name: a page elsewhere may have had its name resolve to this machine."""
        port = self.server.server_address[1]
        names = [f"{name}:{port}" for name in (HOST, "localhost")]
        origin = self.headers.get("Origin")
        if self.headers.get("Host") in names and origin in (None, *(f"http://{name}" for name in names)):
            return True
        self.close_connection = True
        self._answer(HTTPStatus.FORBIDDEN, b"this page is for its own machine only\n")
        return False

    def _send_states(self) -> None:
        """Server-sent events: the state now, and each that follows, as long as the page listens."""
        self.send_response(HTTPStatus.OK)
        self._send_headers("text/event-stream")
        self.end_headers()
        seen = -1
        try:
            while True:
                number, text = self.session.next_state(seen, _SECONDS_BETWEEN_SIGNS_OF_LIFE)
                if number < 0:
                    return
                # A comment, where nothing is new: writing it is how we learn that the page is gone.
                self.wfile.write(f"data: {text}\n\n".encode() if number > seen else b":\n\n")
                self.wfile.flush()
                seen = number
        except (BrokenPipeError, ConnectionResetError):
            pass
        finally:
            self.close_connection = True

    def _answer(self, status: HTTPStatus, body: bytes = b"", kind: str = "text/plain; charset=utf-8") -> None:
        self.send_response(status)
        self._send_headers(kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _send_headers(self, kind: str) -> None:
        self.send_header("Content-Type", kind)
        self.send_header("Content-Security-Policy", _POLICY)
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Referrer-Policy", "no-referrer")
        self.send_header("Cache-Control", "no-store")

    def log_message(self, format: str, *arguments: object) -> None:
        """Nothing: the terminal is for what the shader author needs to see."""
