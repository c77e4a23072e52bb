"""The command line: `ollama-modal`. It posts jobs and reads what is there; the work itself is done by workers in `up`.

Data goes to stdout, talk to stderr. Exit codes: 0 done, 1 the work failed, 2 the call was wrong, 130 interrupted.
What takes long to import is imported by the command that needs it: listing jobs is to feel instant.
"""

import atexit
import os
import re
import shlex
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from typer.exceptions import TyperException

from jobs.cli.job_commands import LISTED, WAYS, JobCommands, exit_code, prune_request
from jobs.cli.output import log_warnings, put, put_json, say, settle_streams
from jobs.core.clock import SystemClock
from jobs.core.errors import FAILURE_CLASSES, BadRequest, Refused
from jobs.core.sanitize import plain
from jobs.home.home import Home, home_of
from jobs.ledger.job import KINDS, JobState
from jobs.version import VERSION

if TYPE_CHECKING:
    from jobs.home.gateway_client import Remote

IDLE = (
    "nothing is working the queue; the job waits until `up` runs",
    "hint: start it: `ollama-modal up`",
)

REMOTE_LOOK_EVERY = timedelta(seconds=1)
"""Each look is a request across the network."""

app = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Many open models behind one address. Jobs survive; the GPU sleeps.",
)

Name = Annotated[str, typer.Argument(metavar="MODEL", help="For example llama3.2, deepseek-r1:32b, hf.co/user/repo:Q4")]
Id = Annotated[str, typer.Argument(metavar="ID", help="A job's id, or as much of its beginning as is unique")]
Wait = Annotated[bool, typer.Option("--wait/--no-wait", help="Follow the job to its end, or print its id and return")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON on stdout")]
Attempts = Annotated[int | None, typer.Option("--attempts", metavar="N", min=1, help="How often to try in all")]
Url = Annotated[
    str | None, typer.Option("--url", envvar="OLLAMA_MODAL_URL", help="Ask the gateway there, instead of this machine")
]
Key = Annotated[
    str | None, typer.Option("--key", envvar="OLLAMA_MODAL_KEY", help="Its key; the variable shows it to nobody else")
]


@dataclass(frozen=True)
class Here:
    """What the commands about this machine work with: the home, the clock, and the desk over the home's ledger."""

    home: Home
    commands: JobCommands
    clock: SystemClock

    @property
    def now(self) -> datetime:
        return self.commands.now


def here() -> Here:
    clock = SystemClock()
    home = home_of(os.environ)
    ledger, stack = home.ledger(clock), home.read_stack()
    commands = JobCommands(
        ledger,
        clock,
        is_worked=lambda: home.up_pid() is not None,
        idle=IDLE,
        log=str(home.logs / "up.log"),
        rate_limit=stack.rate_limit if stack else None,
    )
    return Here(home, commands, clock)


def commands_at(url: str | None, key: str | None) -> JobCommands:
    """The desk of the gateway there, or that of this machine."""
    if not url:
        return here().commands
    clock = SystemClock()
    return JobCommands(
        remote_at(url, key),
        clock,
        is_worked=lambda: True,  # where a gateway answers, it sends for workers
        idle=IDLE,
        log=f"with whoever runs {url}",
        worded=lambda text: text if os.environ.get("OLLAMA_MODAL_URL") else with_url(text, url),
        look_every=REMOTE_LOOK_EVERY,
    )


def remote_at(url: str, key: str | None) -> "Remote":
    from jobs.home.gateway_client import Remote  # noqa: PLC0415 - brings httpx, which takes long to import

    remote = Remote(url, key, clock=SystemClock())
    atexit.register(remote.close)  # a command ends by an exception, from wherever it is
    return remote


def with_url(text: str, url: str) -> str:
    """The commands in a text, as they are typed for the gateway there."""
    return re.sub(r"`ollama-modal (\w+)", lambda found: f"{found[0]} --url {shlex.quote(url)}", text)


def done(code: int) -> NoReturn:
    raise typer.Exit(code)


@app.callback(invoke_without_command=True)
def start(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit")] = False,
) -> None:
    if version:
        put(f"ollama-modal {VERSION}")
    elif context.invoked_subcommand is None:
        for line in context.get_help().splitlines():
            say(line)
        raise typer.Exit(2)


# -- commands that post a job ------------------------------------------------------------------------------------------


@app.command()
def pull(
    model: Name,
    *,
    wait: Wait = True,
    way: Annotated[
        str, typer.Option(metavar="|".join(WAYS), help="How: our own puller, or an Ollama server's")
    ] = "auto",
    rate_limit: Annotated[str | None, typer.Option(metavar="SIZE", help="At most so much a second, like 20MB")] = None,
    attempts: Attempts = None,
    url: Url = None,
    key: Key = None,
    json: Json = False,
) -> None:
    """Bring a model here, through the queue. One that is under way is shared."""
    done(commands_at(url, key).pull(model, wait=wait, way=way, rate_limit=rate_limit, attempts=attempts, json=json))


@app.command()
def verify(
    model: Annotated[str | None, typer.Argument(metavar="[MODEL]", help="All models when left out")] = None,
    *,
    wait: Wait = True,
    attempts: Attempts = None,
    url: Url = None,
    key: Key = None,
    json: Json = False,
) -> None:
    """Hash every byte of a model, or of all. What is damaged is fetched again."""
    done(commands_at(url, key).verify(model, wait=wait, attempts=attempts, json=json))


@app.command()
def warm(
    model: Name,
    *,
    tier: Annotated[str | None, typer.Option(metavar="NAME", help="Where; by the model's size when left out")] = None,
    wait: Wait = True,
    attempts: Attempts = None,
    url: Url = None,
    key: Key = None,
    json: Json = False,
) -> None:
    """Load a model. The next question to it is answered at once."""
    done(commands_at(url, key).warm(model, tier=tier, wait=wait, attempts=attempts, json=json))


@app.command()
def delete(
    model: Name, *, wait: Wait = True, attempts: Attempts = None, url: Url = None, key: Key = None, json: Json = False
) -> None:
    """Remove a model and the blobs that no other model needs."""
    done(commands_at(url, key).delete(model, wait=wait, attempts=attempts, json=json))


@app.command()
def prune(
    *,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan; change nothing, post nothing")] = False,
    unused_days: Annotated[
        float | None, typer.Option(metavar="N", help="Also models that nobody used for so many days")
    ] = None,
    empty_trash: Annotated[bool, typer.Option("--empty-trash", help="Do not wait for the trash's grace")] = False,
    wait: Wait = True,
    attempts: Attempts = None,
    url: Url = None,
    key: Key = None,
    json: Json = False,
) -> None:
    """Move to the trash what nobody needs. What lay there for its grace is deleted."""
    request = prune_request(unused_days, empty_trash)
    if not dry_run:
        done(commands_at(url, key).prune(request, wait=wait, attempts=attempts, json=json))
    if url:
        from jobs.cli.remote_status import Foretold  # noqa: PLC0415 - brings httpx, which takes long to import

        done(commands_at(url, key).outlook(Foretold(remote_at(url, key).prune_plan(request)), json=json))
    at = here()
    from jobs.home.prune_preview import dry_run as look  # noqa: PLC0415 - brings httpx, which takes long to import

    done(at.commands.outlook(look(at.home, at.clock, request), json=json))


@app.command()
def rollback(
    model: Name, *, wait: Wait = True, attempts: Attempts = None, url: Url = None, key: Key = None, json: Json = False
) -> None:
    """Bring back the version of a model that was there before. Again, and the newer one is back."""
    done(commands_at(url, key).rollback(model, wait=wait, attempts=attempts, json=json))


# -- commands about jobs -----------------------------------------------------------------------------------------------


@app.command("jobs")
def list_jobs(
    *,
    state: Annotated[str | None, typer.Option(metavar="STATE", help=f"Only these: {', '.join(JobState)}")] = None,
    kind: Annotated[str | None, typer.Option(metavar="KIND", help=f"Only these: {', '.join(KINDS)}")] = None,
    since: Annotated[str | None, typer.Option(metavar="SPAN", help="Posted no longer ago, like 90d or 12h")] = None,
    limit: Annotated[int, typer.Option(metavar="N", min=0, help="How many of the newest; 0 for all")] = LISTED,
    dead: Annotated[bool, typer.Option("--dead", help="Those that failed for good, by class, with the remedy")] = False,
    url: Url = None,
    key: Key = None,
    json: Json = False,
) -> None:
    """List the jobs, newest first."""
    at = commands_at(url, key)
    if dead:
        done(at.dead(since=since, json=json))
    done(at.browse(state=state, kind=kind, since=since, limit=limit, json=json))


@app.command("job")
def tell_job(
    id: Id,
    *,
    follow: Annotated[bool, typer.Option("--follow", help="Follow it to its end; exit as the job does")] = False,
    url: Url = None,
    key: Key = None,
    json: Json = False,
) -> None:
    """Tell a job's story: what was asked, what happened, and what to do."""
    done(commands_at(url, key).tell(id, follow=follow, json=json))


@app.command()
def cancel(id: Id, url: Url = None, key: Key = None, json: Json = False) -> None:
    """Ask a job to stop. What was fetched for it is thrown away."""
    done(commands_at(url, key).cancel(id, json=json))


@app.command()
def retry(
    id: Annotated[
        str, typer.Argument(metavar="[ID]", help="A job's id, or as much of its beginning as is unique")
    ] = "",
    *,
    every: Annotated[bool, typer.Option("--all", help="Every job that failed for good")] = False,
    failure_class: Annotated[
        str | None, typer.Option("--class", metavar="NAME", help=f"Of those, only {', '.join(FAILURE_CLASSES)}")
    ] = None,
    wait: Wait = True,
    url: Url = None,
    key: Key = None,
    json: Json = False,
) -> None:
    """Post an ended job again, exactly as it was posted; or all that failed, after an outage."""
    if bool(id) == every:
        raise BadRequest("name one job, or say --all", hint="`ollama-modal jobs --dead` shows what could be retried")
    if failure_class is not None and not every:
        raise BadRequest("--class goes with --all", hint="`ollama-modal retry --all --class network`")
    at = commands_at(url, key)
    done(at.retry_all(failure_class, json=json) if every else at.retry(id, wait=wait, json=json))


# -- commands about what is there --------------------------------------------------------------------------------------


@app.command()
def models(url: Url = None, key: Key = None, json: Json = False) -> None:
    """List the models. Those that are not whole are complained about."""
    # Both bring httpx, which takes long to import.
    if url:
        from jobs.cli.remote_status import found  # noqa: PLC0415

        done(commands_at(url, key).models(found(remote_at(url, key)), json=json))
    from jobs.home.status import listed  # noqa: PLC0415

    at = here()
    done(at.commands.models(listed(at.home, at.clock), json=json))


@app.command()
def route(
    model: Name,
    *,
    context: Annotated[int | None, typer.Option("--context", metavar="N", min=1, help="With so long a context")] = None,
    url: Url = None,
    key: Key = None,
    json: Json = False,
) -> None:
    """Tell on which tier a model is answered. And why, in words and numbers."""
    from jobs.cli.remote_status import way  # noqa: PLC0415 - brings httpx, which takes long to import

    found = remote_at(url or own_gateway(), key).route(model, context)
    show(found, way(found), json=json)


def own_gateway() -> str:
    """Where the gateway of this machine answers.

    Raises:
        Refused: it does not run.

    """
    home = home_of(os.environ)
    stack = home.read_stack()
    if home.up_pid() is None or stack is None or stack.gateway is None:
        raise Refused("no gateway runs on this machine", hint="start it: `ollama-modal up`; or name another by --url")
    return stack.gateway


@app.command()
def status(url: Url = None, key: Key = None, json: Json = False) -> None:
    """Tell what runs. That is `up`, its servers, the models, the queue; or a gateway and its tiers."""
    # Both bring httpx, which takes long to import.
    if url:
        from jobs.cli.remote_status import standing  # noqa: PLC0415

        remote = remote_at(url, key)
        health = {**remote.health(), "night": remote.night()}
        show(health, standing(health, url, commands_at(url, key).now), json=json)
        return
    from jobs.home.status import surveyed  # noqa: PLC0415

    at = here()
    found = surveyed(at.home, at.clock, at.commands.reader.select()[0], key)
    show(found.as_json(), found.lines(at.now), json=json)


def show(document: Mapping[str, Any], lines: Iterable[str], *, json: bool) -> None:
    """For a program, or for a person."""
    if json:
        put_json(document)
        return
    for line in lines:
        put(line)


# -- the entry ---------------------------------------------------------------------------------------------------------


def run(application: typer.Typer = app) -> NoReturn:
    """Run the command line on `sys.argv`, and exit. The one place where what went wrong becomes words and a code."""
    settle_streams()
    log_warnings()
    sys.exit(exit_code(lambda: _code(application)))


def _code(application: typer.Typer) -> int:
    try:
        outcome = typer.main.get_command(application).main(prog_name="ollama-modal", standalone_mode=False)
    except TyperException as error:
        say(f"error: {plain(error.format_message()).rstrip('.')}")
        say("hint: `ollama-modal --help` lists commands, `ollama-modal COMMAND --help` their options")
        return error.exit_code
    return outcome if isinstance(outcome, int) else 0
