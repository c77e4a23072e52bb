"""The registry client against Docker's own registry, which a test fills through its push API."""

import hashlib
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from jobs.core.clock import SystemClock
from jobs.core.errors import NotFound
from jobs.core.model_name import ModelName
from jobs.core.progress import Progress
from jobs.registry.client import Registry
from jobs.testing.models import MANIFEST_TYPE, SimModel, arbitrary
from tests.support.waiting import PATIENCE, until

PROGRAM = shutil.which("docker-registry") or shutil.which("registry")

CONFIG = """
version: 0.1
log: {{level: info, accesslog: {{disabled: true}}}}
storage: {{filesystem: {{rootdirectory: {root}}}}}
http: {{addr: "127.0.0.1:0"}}
"""

pytestmark = pytest.mark.skipif(
    PROGRAM is None, reason="needs Docker's registry: apt-get install docker-registry (the service need not run)"
)


@pytest.fixture(scope="module")
def registry_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    assert PROGRAM is not None
    folder = tmp_path_factory.mktemp("registry")
    config = folder / "config.yml"
    config.write_text(CONFIG.format(root=folder / "data"))
    log = folder / "log"
    with log.open("wb") as output, subprocess.Popen([PROGRAM, "serve", config], stdout=output, stderr=output) as server:
        try:
            yield _address(server, log)
        finally:
            server.terminate()


def _address(server: subprocess.Popen[bytes], log: Path) -> str:
    """The registry picks a free port and tells it in its log."""

    def address() -> str:
        assert server.poll() is None, log.read_text()
        listens = re.search(r"listening on (127\.0\.0\.1:\d+)", log.read_text())
        return listens[1] if listens else ""

    return f"http://{until(address, 'the start of the registry', shows=log.read_text)}"


def push(url: str, model: SimModel) -> None:
    base = f"{url}/v2/{model.name.repository}"
    with httpx.Client(timeout=PATIENCE) as client:
        for digest, layer in model.blobs.items():
            begun = client.post(f"{base}/blobs/uploads/").raise_for_status()
            location = begun.url.join(begun.headers["Location"]).copy_merge_params({"digest": digest})
            client.put(location, content=layer.read()).raise_for_status()
        headers = {"Content-Type": MANIFEST_TYPE}
        client.put(f"{base}/manifests/{model.name.tag}", content=model.manifest, headers=headers).raise_for_status()


def test_a_model_pushed_to_dockers_registry_comes_back_whole(registry_url: str, tmp_path: Path) -> None:
    """The manifest, and blobs in ranges, are what was pushed; a second fetch brings nothing twice."""
    model = arbitrary("odd:v1", 3_000_000, layers=3)
    push(registry_url, model)
    registry = Registry(mirrors={"registry.ollama.ai": registry_url}, connections=4, range_bytes=300_000)
    manifest = registry.manifest(model.name)
    assert manifest.raw == model.manifest
    for _ in range(2):
        progress = Progress(SystemClock())
        registry.fetch_all(model.name, manifest.blobs, lambda layer: tmp_path / layer.filename, progress=progress)
        assert progress.read().completed == model.size
    for blob in manifest.blobs:
        assert hashlib.sha256((tmp_path / blob.filename).read_bytes()).hexdigest() == blob.hex


def test_dockers_registry_says_not_found_as_we_read_it(registry_url: str) -> None:
    """A tag that was never pushed is NotFound."""
    with pytest.raises(NotFound, match="has no odd:nothing"):
        Registry(mirrors={"registry.ollama.ai": registry_url}).manifest(ModelName.parse("odd:nothing"))
