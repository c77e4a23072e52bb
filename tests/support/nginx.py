"""A real nginx in front of a gateway, with the few lines of configuration that people write."""

import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.processes import free_port
from tests.support.waiting import PATIENCE, until

NGINX = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
MISSING = None if NGINX else "no nginx on PATH; on Debian `apt-get install nginx-light` lifts this"


@contextmanager
def nginx(folder: Path, locations: str) -> Iterator[str]:
    """The address of a server with these locations."""
    port = free_port()
    temp = "".join(
        f'{what}_temp_path "{folder}/{what}";' for what in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    config = folder / "nginx.conf"
    config.write_text(
        f"""daemon off; master_process off; worker_processes 1;
        pid "{folder}/nginx.pid"; error_log "{folder}/error.log";
        events {{ worker_connections 256; }}
        http {{ access_log off; {temp} server {{ listen 127.0.0.1:{port}; {locations} }} }}"""
    )
    assert NGINX is not None
    process = subprocess.Popen([NGINX, "-c", str(config), "-e", str(folder / "error.log")], cwd=folder)

    def answers() -> bool:
        assert process.poll() is None, (folder / "error.log").read_text()
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    try:
        until(answers, "nginx")
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(timeout=PATIENCE)
