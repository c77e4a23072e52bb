"""What `modal run -m app.jobs::batch` and `::batches` do on the caller's machine: `ollama-modal`'s own commands, on the
deployment's ledger and volume."""

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from app.deployment.batches.deployed_batches import DeployedBatches
from app.deployment.batches.deployed_estimates import DeployedEstimates
from app.deployment.modal_cli import IDLE, ModalCommands, worded
from app.resources import ledger, queue, remote_batches_volume
from jobs.batches.records import is_batch_id
from jobs.cli.batches.batch_commands import BatchCommands, Wanted
from jobs.cli.batches.batch_options import deadline_of, dollars_of, start_of
from jobs.cli.batches.batch_source import source_of
from jobs.cli.batches.results_file import ResultsFile
from jobs.cli.job_commands import JobCommands, cancel_batch, who
from jobs.cli.output import can_ask, confirmed
from jobs.core.errors import BadRequest
from jobs.ledger.kinds import KINDS
from jobs.ledger.ledger import Ledger


def deployed_batches(at: ModalCommands, commands: JobCommands) -> DeployedBatches:
    """The batches of the deployment."""
    return DeployedBatches(
        facts=ledger,
        ledger=Ledger(queue, ledger, commands.clock),
        volume=remote_batches_volume,
        fleet=cache(at.launcher.fleet),
        clock=commands.clock,
        who=who,
        acts=commands.acts,
        is_deployed=lambda: at.launcher.deployed,
    )


def batch_commands(at: ModalCommands, commands: JobCommands) -> BatchCommands:
    """The commands about batches."""
    batches = deployed_batches(at, commands)
    return BatchCommands(
        batches=batches,
        estimate=DeployedEstimates(batches),
        clock=commands.clock,
        pull=lambda model: commands.bring(KINDS["pull"], model),
        confirmed=lambda question: confirmed(question) if can_ask() else None,
        is_worked=commands.is_worked,
        idle=IDLE,
        poll_every=commands.poll_every,
        worded=worded,
    )


def batch(at: ModalCommands, commands: JobCommands, *, file: str, id: str, **typed: Any) -> int:
    """Post a file of prompts, or tell of a batch. An option that is empty, or 0, was left out."""
    given = {name: value or None for name, value in typed.items()}
    out = ResultsFile(Path(given["out"]), overwrite=bool(given["yes"])) if given["out"] else None
    on = batch_commands(at, commands)
    if bool(file) == bool(id):
        raise BadRequest("which batch?", hint="name its lines, --file FILE, or one that is posted, --id ID")
    if id:
        if not is_batch_id(id):
            raise BadRequest(f"{id!r} is no batch's id", hint="`ollama-modal batches` lists them")
        _need_none(given, _OF_A_FILE, "goes with --file")
        json = bool(given["json"])
        return (
            on.results(id, out) if given["results"] else on.show(id, follow=bool(given["follow"]), out=out, json=json)
        )
    _need_none(given, ("results", "follow"), "goes with --id")
    if out is not None and (given["dry_run"] or not typed["wait"]):
        raise BadRequest("--out is written when it is done, and nobody waits for that", hint="leave --out out")
    words = {name: given[name] for name in ("endpoint", "model", "prompt", "system")}
    source = source_of(Path(file), **words)
    wanted = Wanted(
        expires_at=deadline_of(given["by"], on.now),
        start=start_of(given["start"]),
        max_dollars=dollars_of(given["max_dollars"]),
        out=out,
        dry_run=bool(given["dry_run"]),
        wait=bool(typed["wait"]),
        pull=bool(given["pull"]),
        json=bool(given["json"]),
    )
    return on.post(source, wanted)


_OF_A_FILE = ("endpoint", "model", "prompt", "system", "by", "start", "max_dollars", "dry_run", "pull")


def _need_none(given: Mapping[str, Any], names: tuple[str, ...], why: str) -> None:
    option = next((name for name in names if given[name] is not None), None)
    if option is not None:
        raise BadRequest(f"--{option.replace('_', '-')} {why}")


def batches(at: ModalCommands, commands: JobCommands, *, limit: int, json: bool) -> int:
    """List the batches."""
    return batch_commands(at, commands).all(limit, json=json)


def cancel(at: ModalCommands, commands: JobCommands, id: str, *, json: bool) -> int:
    """Ask a batch to end."""
    return cancel_batch(deployed_batches(at, commands), id, json=json)
