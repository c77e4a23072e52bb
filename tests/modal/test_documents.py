"""app/README, typed: the first deployment and what comes after it, by the real client on the control plane."""

import os
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from app.resources import DICTS
from jobs.testing.models import LIBRARY
from jobs.testing.registry.server import RegistryDouble
from tests.modal.platform.containers import Settings
from tests.modal.platform.isolation import unshare
from tests.modal.platform.plane import Platform
from tests.support.checkout import ROOT
from tests.support.document_commands import NOT_RUN, Command, Typist, commands, write_prompts
from tests.support.processes import free_port, gpu_programs
from tests.support.waiting import PATIENCE

pytestmark = pytest.mark.skipif(not unshare(), reason="this kernel lets nobody mount, so no volume can be at /models")

APP = "ollama-service"
LINE = r"(?m)^omk_[\w-]{43}$\n^{} sha256:\w{{64}} {}$"
KEYS_NEW = "ollama-modal keys new me --line --scope admin"
DEPLOY = "modal deploy -m app.deploy"
EXPORT = "export OLLAMA_MODAL_URL=https://…-gateway.us-east.modal.direct OLLAMA_MODAL_KEY=omk_…"

SAYS: dict[str, str] = {
    "modal workspace proxy-tokens create --name ollama-modal": r"wk-made1[\s\S]*ws-made1",
    "modal secret create ollama-proxy-token MODAL_PROXY_TOKEN_ID=wk-… MODAL_PROXY_TOKEN_SECRET=ws-…": (
        r"ollama-proxy-token"
    ),
    KEYS_NEW: r"(?m)^omk_[\w-]{43}$",
    'modal secret create ollama-api-keys OLLAMA_MODAL_KEYS="$(cat FILE)"': r"ollama-api-keys",
    DEPLOY: r"App deployed",
    "modal run -m app.jobs::pull --model llama3.2": r"pull done: llama3\.2:latest, 20 MB",
    EXPORT: r"^$",
    'curl -H "Authorization: Bearer $OLLAMA_MODAL_KEY" $OLLAMA_MODAL_URL/api/chat'
    """   -d '{"model": "llama3.2", "messages": [{"role": "user", "content": "hello"}]}'""": r'"done":true',
    "ollama-modal status": r"gateway +http://127\.0\.0\.1:\d+ answers[\s\S]*models +1, 20 MB",
    "modal environment create test": r"test",
    "modal workspace proxy-tokens allow wk-… test": r"wk-made1",
    "modal secret create --env test ollama-proxy-token MODAL_PROXY_TOKEN_ID=wk-… MODAL_PROXY_TOKEN_SECRET=ws-…": (
        r"ollama-proxy-token"
    ),
    'modal secret create --env test ollama-api-keys OLLAMA_MODAL_KEYS="$(cat FILE)"': r"ollama-api-keys",
    "modal deploy --env test -m app.deploy": r"App deployed",
    "ollama-modal batch prompts.jsonl --dry-run": r"2 lines, [\s\S]*nothing is posted",
    'ollama-modal batch prompts.csv --model llama3.2 --prompt "Summarise: {text}" --by 8h --max-dollars 3'
    " --out answers.csv": r"batch batch_\w+ is done: 2 of 2 lines, [\s\S]*its results are in ",
    "ollama-modal batches": r"(?m)^batch_\w+ +completed +2 +100 %",
    "ollama-modal batch BATCH": r"batch batch_\w+: completed after ",
    "ollama-modal batch BATCH --results --out results.jsonl": r"its results are in ",
    "modal secret create ollama-webhook OLLAMA_MODAL_WEBHOOK=https://hooks.slack.com/services/…": r"ollama-webhook",
    "ollama-modal keys new alice --scope chat --models 'llama*' --models 'hf.co/*'"
    " --rpm 60 --concurrent 4 --expires 90d": (r"(?m)^omk_[\w-]{43}$"),
    "ollama-modal keys list": r"(?m)^alice +active +chat +llama\*,hf\.co/\* +rpm=60 concurrent=4 ",
    "ollama-modal keys set alice --rpm 120 --limit dollars=5/month": r"(?m)^key alice: active, version 2$",
    "ollama-modal keys rotate alice --overlap 24h": r"(?m)^omk_[\w-]{43}$",
    "ollama-modal keys revoke alice": r"(?m)^key alice is revoked$",
    'modal secret create --force ollama-api-keys OLLAMA_MODAL_KEYS="$(cat FILE)"': r"ollama-api-keys",
    "modal app rollover ollama-service": r"Rollover completed",
    'ollama-modal keys new signer --scope admin --public-key "$(cat ~/.ollama/id_ed25519.pub)"': r"OLLAMA_AUTH=1",
    'curl -N -H "x-api-key: $OLLAMA_MODAL_KEY" $OLLAMA_MODAL_URL/ops/v1/jobs/ID/events': r'"state": ?"succeeded"',
    "ollama-modal keys new prometheus --scope admin-only": r"(?m)^omk_[\w-]{43}$",
    "modal app stop --yes ollama-service": r"^$",
    "modal volume delete --yes ollama-model-weights": r"^$",
    "modal volume delete --yes ollama-batches": r"^$",
    **{f"modal dict delete --yes {name}": r"^$" for name in ("ollama-ledger", *DICTS.values())},
    "modal queue delete --yes ollama-jobs": r"^$",
    "modal secret delete --yes ollama-api-keys": r"^$",
    "modal secret delete --yes ollama-proxy-token": r"^$",
    "modal secret delete --yes ollama-webhook": r"^$",
}
"""What each must print; of what they print, the part that the text around it promises."""


def typed() -> list[Command]:
    return [command for command in commands("app/README.md") if command.text not in NOT_RUN]


def test_each_command_of_the_deployment_is_typed_here() -> None:
    """No command of app/README is without what it must print, and nothing is expected of one that is not there."""
    assert [command.text for command in typed()] == list(SAYS)


def removing() -> list[Command]:
    """Those at the end that take all of it away."""
    return [command for command in typed() if re.match(r"modal (app stop|\w+ delete) ", command.text)]


class Deployment:
    """A workspace in which nothing is yet, and who deploys there for the first time."""

    def __init__(self, platform: Platform, home: Path, gateway: int, ollama: int) -> None:
        self.platform = platform
        self.url = f"http://127.0.0.1:{gateway}"
        self.key = ""
        self.job = ""
        self.batch = ""
        self._folder = home
        (home / "prompts.csv").write_text("id,text\n1,one\n2,two\n")
        self._ollama = ollama
        self._file = home / "lines"
        (home / ".ollama").mkdir()
        (home / ".ollama" / "id_ed25519.pub").write_text(
            "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f me@laptop\n"
        )

    def fill(self, text: str) -> str:
        """What the reader has by now in the place of what stands for it."""
        text = (
            text.replace("wk-…", "wk-made1")
            .replace("ws-…", "ws-made1")
            .replace("cat FILE", f"cat {shlex.quote(str(self._file))}")
        )
        text = text.replace("prompts.jsonl", shlex.quote(str(write_prompts(self._folder)))).replace("BATCH", self.batch)
        for name in ("prompts.csv", "answers.csv", "results.jsonl"):
            text = text.replace(name, shlex.quote(str(self._folder / name)))
        text = text.replace("https://…-gateway.us-east.modal.direct", self.url).replace("omk_…", self.key)
        return text.replace("/ID/", f"/{self.job}/").replace("/services/…", "/services/none")

    def after(self, command: str, said: str) -> None:
        """What the world does once a command was typed."""
        if command == KEYS_NEW:
            [self.key, line] = [each for each in said.splitlines() if each.startswith(("omk_", "me sha256:"))]
            self._file.write_text(f"{line}\n")
        elif command == DEPLOY:
            self.platform.apps.server_urls[APP, "Gateway"] = self.url
            self.platform.open_server(APP, "OllamaA10G", port=self._ollama, token=("wk-made1", "ws-made1"))
            self.start_gateway()
        elif command.startswith("modal run -m app.jobs::pull"):
            self.job = re.findall(r"job (\w+-\d+)", said)[0]
        elif command.startswith("ollama-modal batch prompts.csv"):
            [self.batch] = re.findall(r"posted (batch_\w+)", said)
        elif command.startswith("modal app rollover"):
            self.start_gateway()

    def start_gateway(self) -> None:
        """As the deployment keeps one, Modal starts it."""
        self.platform.wait_ready(self.platform.start_server(APP, "Gateway"))


@pytest.fixture
def deployment(tmp_path: Path) -> Iterator[Deployment]:
    gpu_programs(tmp_path)
    ollama, gateway = free_port(), free_port()
    environ = {
        "OLLAMA_MODAL_PROBE_SECONDS": "1",
        "OLLAMA_MODAL_GATEWAY_PORT": str(gateway),
        "OLLAMA_HOST": f"127.0.0.1:{ollama}",
    }
    settings = Settings(path_prefix=tmp_path, environ=environ, idle_seconds=20, commit_seconds=0.5)
    with RegistryDouble(LIBRARY) as registry, Platform(settings=settings) as platform:
        platform.environments.names.remove("test")
        settings.environ["OLLAMA_MODAL_REGISTRY"] = registry.url
        yield Deployment(platform, tmp_path, gateway, ollama)


FIRST_USE = "; ".join(
    (
        "import modal",
        *(
            f'modal.Dict.from_name("{name}", create_if_missing=True).hydrate()'
            for name in ("ollama-ledger", *DICTS.values())
        ),
        'modal.Queue.from_name("ollama-jobs", create_if_missing=True).hydrate()',
    )
)
"""What a tick or a job makes."""


@pytest.fixture
def reader(deployment: Deployment, tmp_path: Path) -> Typist:
    """Who types, in the environment of this checkout."""
    environ = {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "HOME": str(tmp_path),
        "COLUMNS": "500",
        "OLLAMA_MODAL_REGISTRY": deployment.platform.settings.environ["OLLAMA_MODAL_REGISTRY"],
        **deployment.platform.environ(),
    }
    return Typist(environ, ROOT, deployment.fill)


@pytest.mark.timeout(900)  # it types more than twenty commands, most of which start Modal's client
def test_the_first_deployment_goes_as_it_is_told(deployment: Deployment, reader: Typist) -> None:
    """Typed in their order, app/README's commands succeed, from the first token to an answer and a change of keys."""
    for command in typed():
        if command not in removing():
            said = reader.type(command)
            assert re.search(SAYS[command.text], said.strip()), f"{command}\n{said}"
            deployment.after(command.text, said)
    headers = {"authorization": f"Bearer {deployment.key}"}
    assert (
        httpx.get(f"{deployment.url}/api/tags", headers=headers, timeout=PATIENCE).json()["models"][0]["name"]
        == "llama3.2:latest"
    )


@pytest.mark.timeout(900)  # as above, with half as many
def test_removing_leaves_nothing(deployment: Deployment, reader: Typist) -> None:
    """What app/README says to remove is all that a deployment and its secrets have made."""
    made = [
        each for each in typed() if each.text in {KEYS_NEW, DEPLOY} or each.text.startswith("modal secret create o")
    ]
    for command in made:
        said = reader.type(command)
        if command.text == KEYS_NEW:
            deployment.after(KEYS_NEW, said)
    reader.type(Command("", 0, f"python -c '{FIRST_USE}'"))
    platform = deployment.platform
    kept = [each.named for each in (platform.volumes, platform.dicts, platform.queues, platform.secrets)]
    assert platform.apps.deployed
    assert all(each.ids for each in kept)

    for command in removing():
        said = reader.type(command)
        assert re.search(SAYS[command.text], said.strip()), f"{command}\n{said}"

    assert not platform.apps.deployed
    assert not [each.ids for each in kept if each.ids]
