"""The servers of one machine report in the ledger, and their last word is that they have ended."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

from app.local.server_reports import ServerReporter
from jobs.core.clock import SystemClock
from jobs.store.sqlite import SqliteDict
from tests.support.waiting import PATIENCE

ANSWERS = {"/api/version": {"version": "0.32.15"}, "/api/tags": {"models": []}, "/api/ps": {"models": []}}


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps(ANSWERS[self.path]).encode())

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def server() -> Iterator[str]:
    """The address of a server without models."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join(PATIENCE)


class Stopping(SqliteDict):
    """Has the reporter stopped, by another thread, at the moment at which it writes that a server serves."""

    reporter: ServerReporter
    stopper: Thread | None = None

    def put(self, key: str, value: Any, *, skip_if_exists: bool = False) -> bool:
        if value["state"] == "serving":
            self.stopper = Thread(target=self.reporter.stop)
            self.stopper.start()
            self.stopper.join(0.5)  # one that does not wait for this has written its own by then
        return super().put(key, value, skip_if_exists=skip_if_exists)


def test_a_report_under_way_is_not_the_last_word(tmp_path: Path) -> None:
    """A report that is written while the stack stops does not stand behind the last one, which says ended."""
    facts = Stopping(tmp_path / "facts.sqlite")
    with server() as url:
        facts.reporter = reporter = ServerReporter({"local": url}, facts, SystemClock())
        reporter.report_all()
        assert facts.stopper is not None
        facts.stopper.join(PATIENCE)

    assert facts.get("server/local/local")["state"] == "ended"
    facts.close()
