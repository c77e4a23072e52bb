"""What the shell offers for an argument that is being typed. Nothing is better than a shell that waits."""

import os
from datetime import timedelta
from itertools import islice

import typer

from jobs.core.clock import SystemClock
from jobs.core.errors import Trouble
from jobs.core.model_name import ModelName
from jobs.home.home import home_of

PATIENCE = timedelta(seconds=2)
"""A shell that waits longer for a gateway seems to hang."""

IDS = 50
"""The newest jobs, which are those that are spoken of."""


def job_ids(incomplete: str) -> list[tuple[str, str]]:
    """The newest jobs of this machine, each with what it is about; those of a gateway are not asked for."""
    if os.environ.get("OLLAMA_MODAL_URL"):
        return []
    try:
        jobs = list(islice(home_of(os.environ).reader(SystemClock()).newest_first(), IDS))
    except Trouble:  # as below
        return []
    return [(job.id, f"{job.kind} {job.subject}, {job.state}") for job in jobs if job.id.startswith(incomplete)]


def job_and_batch_ids(incomplete: str) -> list[str | tuple[str, str]]:
    """The newest of both: each can be asked to stop."""
    return [*job_ids(incomplete), *batch_ids(incomplete)]


def batch_ids(incomplete: str) -> list[str]:
    """The newest batches of this machine; those of a gateway are not asked for."""
    if os.environ.get("OLLAMA_MODAL_URL"):
        return []
    from jobs.batches.records import BatchRecord  # noqa: PLC0415 - as below
    from jobs.store import keys  # noqa: PLC0415

    try:
        facts = dict(home_of(os.environ).read_facts().items(keys.BATCH))
    except Trouble:  # as below
        return []
    batches = sorted(map(BatchRecord.from_json, facts.values()), key=lambda each: each.created_at, reverse=True)
    return [each.id for each in batches[:IDS] if each.id.startswith(incomplete)]


def batches_and_files(incomplete: str) -> list[str]:
    """The newest batches, and the files that lines may come from."""
    folder, _, begin = incomplete.rpartition("/")
    at = f"{folder}/" if folder or incomplete.startswith("/") else ""
    try:
        entries = sorted(os.scandir(at or "."), key=lambda entry: entry.name)
    except OSError:  # the command that is being typed will say what it is
        entries = []
    fitting = [entry for entry in entries if entry.name.startswith(begin) and (begin or entry.name[0] != ".")]
    files = [f"{at}{entry.name}" for entry in fitting if entry.name.endswith((".jsonl", ".ndjson", ".csv", ".tsv"))]
    return [*files, *(f"{at}{entry.name}/" for entry in fitting if entry.is_dir()), *batch_ids(incomplete)]


def model_names(context: typer.Context, incomplete: str) -> list[str]:
    """The models that are here, or at the gateway of `--url`, by the shortest name that means each."""
    # Both bring what takes long to import, and no command itself needs either.
    try:
        if url := context.params.get("url") or os.environ.get("OLLAMA_MODAL_URL"):
            from jobs.core.retry import NEVER  # noqa: PLC0415
            from jobs.home.gateway_client import GatewayClient, address, client_for  # noqa: PLC0415

            key = context.params.get("key") or os.environ.get("OLLAMA_MODAL_KEY")
            url, key = address(url, key)
            asking = client_for(url, PATIENCE)
            with GatewayClient(url, key, clock=SystemClock(), client=asking, policy=NEVER) as gateway:
                names = [ModelName.parse(each.name) for each in gateway.models()[0]]
        else:
            from jobs.home.names_here import names_here  # noqa: PLC0415

            names = names_here(home_of(os.environ), SystemClock(), trash=False) or []
    except Trouble:  # the command that is being typed will say what it is
        return []
    typed = context.params.get("models") or []
    shown = [str(name).removesuffix(":latest") for name in names]
    return sorted(name for name in shown if name.startswith(incomplete) and name not in typed)
