"""A model registry over real sockets, for tests, benchmarks and the demo: `python -m jobs.testing.registry --port 0`.

    GET, HEAD /v2/…/manifests/<tag or digest>    GET, HEAD /v2/…/blobs/<digest> -> 307 to the CDN
    GET /token (when it asks for one)             GET, HEAD /cdn/<digest>?… on a port of its own, signed, expiring
    POST, DELETE /_faults   GET /_counters

It speaks the protocol of registry.ollama.ai as far as pulling goes, counts what it serves, and misbehaves on demand.
It holds no weights: blobs are made as they are sent, or sent from files. It never listens beyond loopback.
"""

import argparse
import signal
import threading
from pathlib import Path
from typing import Self

from jobs.testing.models import LIBRARY
from jobs.testing.registry.http import RegistryServer
from jobs.testing.registry.stock import RegistryStock
from jobs.testing.toy_models import all_toys


class RegistryDouble(RegistryStock):
    """The registry and its CDN, each on a port of its own. Start it, or use it as a context manager."""

    #: Both are replaced by `start`, and read by `stop` and `hang_up`: one thread calls them all.
    _servers: tuple[RegistryServer, ...] = ()
    _threads: tuple[threading.Thread, ...] = ()

    def start(self) -> Self:
        self.stopping.clear()
        self._servers = RegistryServer(self, self._port), RegistryServer(self, 0)
        self.url, self.cdn_url = (f"http://127.0.0.1:{each.server_port}" for each in self._servers)
        self._threads = tuple(threading.Thread(target=each.serve_forever, args=(0.02,)) for each in self._servers)
        for thread in self._threads:
            thread.start()
        return self

    def stop(self) -> None:
        """Close every connection and join every thread."""
        self.stopping.set()
        for server in self._servers:
            server.shutdown()
        self.hang_up()
        for server in self._servers:
            server.server_close()
        for thread in self._threads:
            thread.join()

    def hang_up(self) -> None:
        """Close every connection that is open, as a restarted registry would; new ones are welcome."""
        for server in self._servers:
            server.hang_up()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()


def main() -> None:
    """Serve until a signal; the address stands on stdout's first line."""
    parser = argparse.ArgumentParser(prog="python -m jobs.testing.registry", description="A registry that simulates.")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--throttle", type=int, metavar="BYTES", help="bytes per second, all answers together")
    parser.add_argument("--files", type=Path, help="a folder with blobs as sha256-<hex>, sent by the kernel")
    parser.add_argument("--token", action="store_true", help="ask for a bearer token")
    parser.add_argument("--toys", action="store_true", help="hold toy weights alone, which a real engine runs")
    given = parser.parse_args()
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    models = all_toys() if given.toys else LIBRARY
    double = RegistryDouble(models, port=given.port, throttle=given.throttle, files=given.files, token=given.token)
    with double:
        print(double.url, flush=True)
        signal.sigwait({signal.SIGINT, signal.SIGTERM})
