"""Stands for `ollama serve` where only what lies around it is measured: it answers after so many seconds, loads any
model in so many, and writes the time of each step into a file. That it began, whoever starts it has written.

Run by a plain Python, by what COLD_RIG_SCRIPT in its environment says: FILE,SECONDS TO ANSWER,SECONDS OF A LOAD. Models
whose load takes another time have it in COLD_RIG_LOADS, a JSON object by name.
"""

import json
import os
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

FILE, ANSWERS_IN, LOADS_IN = os.environ["COLD_RIG_SCRIPT"].split(",")
LOADS = json.loads(os.environ.get("COLD_RIG_LOADS", "{}"))


def note(step: str, moment: float | None = None) -> None:
    """Write the step down: one line, in one piece."""
    line = f"{os.environ.get('MODAL_TASK_ID', '-')} {step} {moment or time.time():.6f}\n"
    descriptor = os.open(FILE, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    os.write(descriptor, line.encode())
    os.close(descriptor)


MOMENT = "2126-01-01T00:00:00Z"
LOAD = 'level=INFO source=server.go:1 msg="starting llama-server" cmd="llama-server --model /models/blobs/sha256-{}"'
LOADED = 'level=INFO source=server.go:2 msg="llama-server started in 0.1 seconds"'


class Engine(BaseHTTPRequestHandler):
    """Answers as much as a server and a gateway ask of an Ollama."""

    protocol_version = "HTTP/1.1"
    #: The models in memory. Added to under `loading`; who asks for one that is there waits for no other's load.
    loaded: ClassVar[set[str]] = set()
    loading = threading.Lock()

    def do_GET(self) -> None:
        running = [
            {"name": name, "model": name, "size": 1, "size_vram": 1, "digest": "", "expires_at": MOMENT}
            for name in sorted(self.loaded)
        ]
        self._answer({"models": running} if self.path == "/api/ps" else {"version": "0.32.15"})

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers.get("content-length", "0"))))
        done = {"model": asked["model"], "created_at": MOMENT, "done": True, "done_reason": "stop"}
        if self.path == "/api/generate":
            self._load(asked["model"])
            self._answer({**done, "response": "", "done_reason": "load"})
            return
        note("asked")
        self._answer({**done, "message": {"role": "assistant", "content": "hello"}, "eval_count": 1})

    def _load(self, name: str) -> None:
        if name in self.loaded:
            return
        with self.loading:
            if name in self.loaded:
                return
            note("load")
            note("view", Path(os.environ["OLLAMA_MODELS"], "manifests").stat().st_ctime)  # when it came to its name
            print(LOAD.format("0" * 64), flush=True)
            time.sleep(float(LOADS.get(name, LOADS_IN)))
            self.loaded.add(name)
            note("loaded")
            print(LOADED, flush=True)

    def _answer(self, document: dict[str, Any]) -> None:
        body = json.dumps(document).encode() + b"\n"
        head = f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
        self.wfile.write(head.encode() + body)  # in one piece: of two the second would wait for an acknowledgement

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def main() -> None:
    time.sleep(float(ANSWERS_IN))
    host, _, port = os.environ["OLLAMA_HOST"].rpartition(":")
    with ThreadingHTTPServer((host, int(port)), Engine) as server:
        note("answers")
        server.serve_forever()


if __name__ == "__main__":
    main()
