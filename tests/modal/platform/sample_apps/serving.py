"""A server with a child process, like the real ones: its child answers on the port until it is drained."""

import os
import subprocess
import sys

import modal

app = modal.App("serving")
weights = modal.Volume.from_name("tiny-weights", create_if_missing=True, version=2)
MOUNT = os.environ.get("SAMPLE_MOUNT", "/weights")


@app.server(
    port=11434,
    gpu="A10G",
    image=modal.Image.debian_slim(),
    volumes={MOUNT: weights.with_mount_options(read_only=True)},
    secrets=[],
    max_containers=2,
    scaledown_window=300,
    startup_timeout=120,
    exit_grace_period=30,
    target_concurrency=4,
)
class Web:
    @modal.enter()
    def start(self) -> None:
        listen = [sys.executable, "-m", "http.server", "--bind", "127.0.0.1", os.environ["PORT"]]
        self.child = subprocess.Popen([*listen, "--directory", MOUNT], cwd="/", start_new_session=True)

    @modal.exit()
    def stop(self) -> None:
        self.child.terminate()
        print("drained", self.child.wait(timeout=10))
