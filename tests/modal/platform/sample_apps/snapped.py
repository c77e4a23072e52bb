"""A server whose memory is to be taken down once it has imported what it needs: it says what of it runs when."""

import os

import modal

app = modal.App("snapped")
print("module", flush=True)


@app.server(port=11434, image=modal.Image.debian_slim(), enable_memory_snapshot=True, max_containers=1)
class Snapped:
    @modal.enter(snap=True)
    def imports(self) -> None:
        self.pid = os.getpid()
        print("before", flush=True)

    @modal.enter()
    def start(self) -> None:
        print("after", self.pid == os.getpid(), flush=True)
