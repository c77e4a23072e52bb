"""A server that does as a test says, down to the byte."""

import json
import select
import socket
import struct
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Self


@dataclass
class HeardRequest:
    """A request as it came over the wire."""

    method: str
    path: str
    headers: list[tuple[str, str]]
    body: bytes

    def header(self, name: str) -> str:
        return next((value for key, value in self.headers if key.lower() == name), "")

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def only_looks(self) -> bool:
        """Whether somebody is there, as a gateway asks of servers here and of those of a platform."""
        return self.path == "/api/version" or (self.path == "/api/ps" and bool(self.header("modal-session-id")))

    @property
    def only_loads(self) -> bool:
        return self.path == "/api/generate" and not {"prompt", "keep_alive"} & set(self.json)


class Connection:
    """The server's end of one connection."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self._buffer = bytearray()

    def heard(self) -> HeardRequest | None:
        """The next request; None when the other side has left."""
        while b"\r\n\r\n" not in self._buffer:
            if not self._more():
                return None
        head = self._taken(self._buffer.index(b"\r\n\r\n") + 4)[:-4]
        first, *lines = head.decode("latin-1").split("\r\n")
        method, path, _ = first.split(" ")
        headers = [(name, value.strip()) for name, _, value in (line.partition(":") for line in lines)]
        length = int(next((value for name, value in headers if name.lower() == "content-length"), 0))
        while len(self._buffer) < length:
            if not self._more():
                return None
        return HeardRequest(method, path, headers, self._taken(length))

    def _taken(self, count: int) -> bytes:
        taken = bytes(self._buffer[:count])
        del self._buffer[:count]
        return taken

    def _more(self) -> bool:
        try:
            piece = self.sock.recv(65536)
        except OSError:
            return False
        self._buffer += piece
        return bool(piece)

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)

    def head(self, status: int = 200, kind: str = "application/json", *more: str) -> None:
        lines = [f"HTTP/1.1 {status} Whatever", f"Content-Type: {kind}", *more]
        self.send("\r\n".join([*lines, "", ""]).encode())

    def document(self, document: Any, status: int = 200) -> None:
        body = json.dumps(document).encode()
        self.head(status, "application/json; charset=utf-8", f"Content-Length: {len(body)}")
        self.send(body)

    def begin(self, kind: str) -> None:
        self.head(200, kind, "Transfer-Encoding: chunked")

    def chunk(self, piece: bytes) -> None:
        self.send(b"%x\r\n%b\r\n" % (len(piece), piece))

    def end(self) -> None:
        self.send(b"0\r\n\r\n")

    def await_end(self) -> None:
        """Wait until the other side closes."""
        while self._more():
            pass

    def is_left(self) -> bool:
        """Whether the other side has closed by now."""
        readable, _, _ = select.select([self.sock], [], [], 0)
        return bool(readable) and not self._more()

    def reset(self) -> None:
        """Close as a process that is killed: the other side gets an error instead of an end."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()

    def close(self) -> None:
        with suppress(OSError):
            self.sock.shutdown(socket.SHUT_RDWR)
        self.sock.close()


Script = Callable[[HeardRequest, Connection], None]


class ScriptedServer:
    """A server whose every answer is a test's. It is awake and loads what it is asked to, unless told otherwise."""

    def __init__(
        self, script: Script, port: int = 0, *, asleep: int = 0, hang_ups: int = 0, opening: Script | None = None
    ) -> None:
        self._script = script
        self._opening = opening or self._opens
        self._asleep = asleep
        self._hang_ups = hang_ups
        self._listener = socket.create_server(("127.0.0.1", port))
        self.port: int = self._listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.heard: list[HeardRequest] = []
        self.lines: set[Connection] = set()
        #: How many connections there were. Counted by the thread that takes them.
        self.accepted = 0
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    @property
    def asked(self) -> list[HeardRequest]:
        """What callers asked, without what the gateway asks by itself."""
        return [each for each in self.heard if not each.only_looks and not each.only_loads]

    @property
    def loads(self) -> list[HeardRequest]:
        return [each for each in self.heard if each.only_loads]

    def close(self) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # wakes whoever accepts, who else would keep the port
        self._listener.close()
        for line in list(self.lines):
            line.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            self.accepted += 1
            if self._hang_ups:
                self._hang_ups -= 1
                Connection(sock).reset()
                continue
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(target=self._serve, args=(Connection(sock),), daemon=True).start()

    def _serve(self, line: Connection) -> None:
        with self._lock:
            self.lines.add(line)
        try:
            while (heard := line.heard()) is not None:
                with self._lock:
                    self.heard.append(heard)
                if self._asleep:
                    self._asleep -= 1
                    line.head(503, "text/plain", "Content-Length: 0")
                elif heard.only_looks or heard.only_loads:
                    self._opening(heard, line)
                else:
                    self._script(heard, line)
        except OSError:
            pass
        finally:
            with self._lock:
                self.lines.discard(line)
            line.close()

    @staticmethod
    def _opens(heard: HeardRequest, line: Connection) -> None:
        if heard.only_looks:
            line.document({"version": "0.0.1"})
        else:
            line.document({"model": heard.json["model"], "done": True, "done_reason": "load"})


class HeldServer:
    """A server that sleeps, or loads, for as long as a test holds it."""

    def __init__(self, *, awake: bool = True, loaded: bool = True) -> None:
        self.awake, self.loaded = threading.Event(), threading.Event()
        if awake:
            self.awake.set()
        if loaded:
            self.loaded.set()

    def __call__(self, heard: HeardRequest, line: Connection) -> None:
        if not self.awake.is_set():
            line.head(503, "text/plain", "Content-Length: 0")
        elif heard.only_looks:
            line.document({"version": "1"})
        else:
            while not self.loaded.wait(0.02):
                if line.is_left():
                    return
            line.document({"done": True, "done_reason": "load"})
