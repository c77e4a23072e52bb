"""`ollama-modal batch` and `batches`: many prompts of a file, answered once each, on this machine or at a gateway.

Each imports what it needs when it is run: every command imports this file.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, get_args

import typer

from jobs.batches.records import BatchStart, is_batch_id
from jobs.cli.completion import batches_and_files, model_names
from jobs.cli.main import IDLE_BATCH, Json, KeyOption, Url, app, batches_at, commands_at, done, this_machine
from jobs.cli.output import can_ask, confirmed
from jobs.core.errors import BadRequest
from jobs.ledger.kinds import KINDS

if TYPE_CHECKING:
    from jobs.cli.batches.batch_commands import BatchCommands, Estimating

LISTED = 20
"""Batches that fit on a screen."""

STARTS = get_args(BatchStart)


FileOrId = Annotated[
    str,
    typer.Argument(
        metavar="FILE|ID",
        help="Lines as OpenAI's batches have them, or CSV with --prompt; or a batch's id",
        autocompletion=batches_and_files,
    ),
]
EndpointOption = Annotated[
    str | None, typer.Option(metavar="PATH", help="What each line asks for; what the first line does when left out")
]
ModelOption = Annotated[str | None, typer.Option(metavar="MODEL", help="Answers all lines", autocompletion=model_names)]
PromptOption = Annotated[
    str | None, typer.Option(metavar="TEXT", help='Of CSV: what is asked of each row, like "Summarise: {text}"')
]
SystemOption = Annotated[str | None, typer.Option(metavar="TEXT", help="Of CSV: what is said before")]
ByOption = Annotated[
    str | None, typer.Option(metavar="WHEN", help="Until when it has to be done, like 07:00 or 8h; a day when left out")
]
StartOption = Annotated[
    str | None,
    typer.Option(
        metavar="|".join(STARTS),
        help="When it may begin; the fleet's when left out",
        autocompletion=lambda: list(STARTS),
    ),
]
DollarsOption = Annotated[float | None, typer.Option(metavar="N", help="What it may cost at most")]
OutOption = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Where results go when it is done; .csv for rows of CSV")
]


@app.command()
def batch(
    what: FileOrId,
    *,
    endpoint: EndpointOption = None,
    model: ModelOption = None,
    prompt: PromptOption = None,
    system: SystemOption = None,
    by: ByOption = None,
    start: StartOption = None,
    max_dollars: DollarsOption = None,
    out: OutOption = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Tell what it takes; post nothing")] = False,
    pull: Annotated[bool, typer.Option("--pull", help="Bring models that are not here, without being asked")] = False,
    results: Annotated[bool, typer.Option("--results", help="Of an id: its results, as lines or to --out")] = False,
    follow: Annotated[bool, typer.Option("--follow", help="Of an id: follow it to its end")] = False,
    wait: Annotated[
        bool, typer.Option("--wait/--no-wait", help="Follow it to its end, or print its id and return")
    ] = True,
    yes: Annotated[bool, typer.Option("--yes", help="Replace the file of --out where there is one")] = False,
    url: Url = None,
    key: KeyOption = None,
    json: Json = False,
) -> None:
    """Post a file of prompts as one batch, and follow it; or tell of a batch by its id.

    Each line is checked, and it is told what it takes, before one runs. Ctrl-C leaves it running.
    """
    from jobs.cli.batches.results_file import ResultsFile  # noqa: PLC0415 - every command imports this file

    file = ResultsFile(out, overwrite=yes) if out is not None else None
    at = _commands_at(url, key)
    if is_batch_id(what) and not Path(what).exists():
        of_file = {
            "--endpoint": endpoint, "--model": model, "--prompt": prompt, "--system": system, "--by": by,
            "--start": start, "--max-dollars": max_dollars, "--dry-run": dry_run or None, "--pull": pull or None,
        }  # fmt: skip
        _need_none(of_file, f"goes with a file, and {what} is a batch")
        done(at.results(what, file) if results else at.show(what, follow=follow, out=file, json=json))
    _need_none(
        {"--results": results or None, "--follow": follow or None},
        "goes with a batch's id",
        hint="`ollama-modal batches` lists them",
    )
    if file is not None and (dry_run or not wait):
        raise BadRequest(
            "--out is written when it is done, and nobody waits for that",
            hint="leave --out out, and fetch results by `ollama-modal batch ID --results --out FILE`",
        )
    if file is not None:
        file.need_other(Path(what))
    from jobs.cli.batches.batch_commands import Wanted  # noqa: PLC0415 - as above
    from jobs.cli.batches.batch_options import deadline_of, dollars_of, start_of  # noqa: PLC0415
    from jobs.cli.batches.batch_source import source_of  # noqa: PLC0415

    wanted = Wanted(
        expires_at=deadline_of(by, at.now),
        start=start_of(start),
        max_dollars=dollars_of(max_dollars),
        out=file,
        dry_run=dry_run,
        wait=wait,
        pull=pull,
        json=json,
    )
    source = source_of(Path(what), endpoint=endpoint, model=model, prompt=prompt, system=system)
    done(at.post(source, wanted))


@app.command()
def batches(
    *,
    limit: Annotated[int, typer.Option(metavar="N", min=0, help="How many of the newest; 0 for all")] = LISTED,
    url: Url = None,
    key: KeyOption = None,
    json: Json = False,
) -> None:
    """List the batches, newest first: how far each is, what it took, and what it waits for."""
    done(_commands_at(url, key).all(limit, json=json))


def _commands_at(url: str | None, key: str | None) -> "BatchCommands":
    from jobs.cli.batches.batch_commands import BatchCommands  # noqa: PLC0415 - every command imports this file
    from jobs.home.local_batches import LocalBatches  # noqa: PLC0415

    jobs = commands_at(url, key)
    batches = batches_at(url, key)
    estimate: Estimating
    if isinstance(batches, LocalBatches):
        from app.local.commands.local_estimates import LocalEstimates  # noqa: PLC0415 - as above

        estimate = LocalEstimates(this_machine().home, jobs.clock)
    else:
        estimate = batches.estimate
    return BatchCommands(
        batches=batches,
        estimate=estimate,
        clock=jobs.clock,
        pull=lambda model: jobs.bring(KINDS["pull"], model),
        confirmed=lambda question: confirmed(question) if can_ask() else None,
        is_worked=jobs.is_worked,
        idle=IDLE_BATCH,
        worded=jobs.worded,
    )


def _need_none(given: Mapping[str, object], why: str, hint: str | None = None) -> None:
    """Insist that none of these options was given."""
    option = next((name for name, value in given.items() if value is not None), None)
    if option is not None:
        raise BadRequest(f"{option} {why}", hint=hint)
