"""A webhook on loopback, which hears what it is told."""

import http.server
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class _Hook(http.server.BaseHTTPRequestHandler):
    server: "WebhookServer"

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.heard.append((self.headers["Content-Type"], json.loads(body)))
        status = self.server.answers.pop(0) if self.server.answers else 200
        if status == 0:  # it drips: a byte now and then, and never a whole answer
            while not self.server.released.wait(0.05):
                try:
                    self.wfile.write(b"H")
                except OSError:
                    return
            return
        self.send_response(status)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"ok")

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name is inherited
        pass


class WebhookServer(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Hook)
        self.heard: list[tuple[str, Any]] = []
        self.answers: list[int] = []
        self.released = threading.Event()
        self.url = f"http://127.0.0.1:{self.server_address[1]}/services/T0/B0/secret"


@contextmanager
def webhook_server() -> Iterator[WebhookServer]:
    server = WebhookServer()
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield server
    finally:
        server.released.set()
        server.shutdown()
        server.server_close()
        thread.join()
