"""The command line: `ollama-modal`. It posts jobs and reads what is there; the work itself is done by workers in `up`.

Data goes to stdout, talk to stderr. Exit codes: 0 done, 1 the work failed, 2 the call was wrong, 130 interrupted.
What takes long to import is imported by the command that needs it: listing jobs is to feel instant.
"""

import atexit
import inspect
import os
import re
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, NoReturn

import typer
from typer.exceptions import TyperException

from jobs.batches.records import is_batch_id
from jobs.cli.completion import job_and_batch_ids, job_ids, model_names
from jobs.cli.help import CommandGroup
from jobs.cli.job_commands import LISTED, JobCommands, Preview, cancel_batch, exit_code, who
from jobs.cli.output import put, put_lines, say, settle_streams, show
from jobs.cli.signature import parameter, with_signature
from jobs.cli.warnings_log import log_warnings
from jobs.core.clock import Clock, SystemClock
from jobs.core.errors import FAILURE_CLASSES, BadRequest, Refused, Trouble
from jobs.core.model_name import ModelName
from jobs.core.sanitize import plain
from jobs.home.home import Home, home_of
from jobs.home.local_jobs import LocalJobs
from jobs.ledger.all_jobs import JobFilter
from jobs.ledger.job import JobState
from jobs.ledger.kinds import KINDS, Kind, Kinds, Parameter, with_commands
from jobs.listing import newest
from jobs.version import VERSION

if TYPE_CHECKING:
    from jobs.archive.archived import ArchivedJobs
    from jobs.home.gateway_client import GatewayClient
    from jobs.home.local_batches import LocalBatches
    from jobs.home.remote_batches import RemoteBatches
    from jobs.ledger.job import Job

IDLE = ("nothing is working the queue; the job waits until `up` runs", "hint: start it: `ollama-modal up`")

IDLE_BATCH = ("nothing is working the queue; the batch waits until `up` runs", IDLE[1])

REMOTE_POLL_EVERY = timedelta(seconds=1)
"""Each look is a request across the network."""

app = typer.Typer(
    cls=CommandGroup,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Many open models behind one address. Jobs survive; the GPU sleeps.",
)

Name = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="For example llama3.2, deepseek-r1:32b, hf.co/user/repo:Q4",
        autocompletion=model_names,
    ),
]
Names = Annotated[
    list[str],
    typer.Argument(
        metavar="MODEL...", help="One or more, like llama3.2 hf.co/user/repo:Q4", autocompletion=model_names
    ),
]
NamesOrAll = Annotated[
    list[str] | None,
    typer.Argument(metavar="[MODEL]...", help="All models when left out", autocompletion=model_names),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print the plan; change nothing, post nothing")]
IdArgument = Annotated[
    str,
    typer.Argument(metavar="ID", help="A job's id, or as much of its beginning as is unique", autocompletion=job_ids),
]
CancelledArgument = Annotated[
    str,
    typer.Argument(
        metavar="ID",
        help="A job's id, or as much of its beginning as is unique; or a batch's",
        autocompletion=job_and_batch_ids,
    ),
]
Wait = Annotated[bool, typer.Option("--wait/--no-wait", help="Follow the job to its end, or print its id and return")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON on stdout")]
AttemptsOption = Annotated[int | None, typer.Option("--attempts", metavar="N", min=1, help="How often to try in all")]
Url = Annotated[
    str | None, typer.Option("--url", envvar="OLLAMA_MODAL_URL", help="Ask the gateway there, instead of this machine")
]
KeyOption = Annotated[
    str | None, typer.Option("--key", envvar="OLLAMA_MODAL_KEY", help="Its key; the variable shows it to nobody else")
]


class ThisMachine(NamedTuple):
    """What the commands about this machine work with: the home, and the commands over its ledger."""

    home: Home
    commands: JobCommands


def this_machine() -> ThisMachine:
    clock = SystemClock()
    home = home_of(os.environ)
    jobs = LocalJobs(home, clock, who)
    commands = JobCommands(
        jobs,
        clock,
        is_worked=lambda: home.up_pid() is not None,
        idle=IDLE,
        log=str(home.logs / "up.log"),
        dead=lambda: _dead(home, clock),
        defaults=lambda: _defaults(home),
        archived=lambda since: archived_jobs(home).since(since),
        archived_begin=lambda text: archived_jobs(home).beginning(text),
        listed=lambda fitting, limit: _listed(home, clock, fitting, limit),
        refusal=lambda kind, name: _refusal(home, clock, kind, name),
        acts=jobs.act,
    )
    return ThisMachine(home, commands)


def archived_jobs(home: Home) -> "ArchivedJobs":
    """The jobs that have left the ledger of this machine."""
    from jobs.archive.archived import ArchivedJobs, archive_at  # noqa: PLC0415 - a list of new jobs needs none of it

    return ArchivedJobs(archive_at(home.root))


def _listed(home: Home, clock: Clock, fitting: JobFilter, limit: int | None) -> "tuple[Sequence[Job], int | None]":
    archive = archived_jobs(home) if home.archive.exists() else newest.EmptyArchive()
    return newest.chosen(home.reader(clock), archive, fitting, limit, clock.now())


def _dead(home: Home, clock: Clock) -> "Sequence[Job]":
    from jobs.listing.dead_memory import known_jobs  # noqa: PLC0415 - listing jobs is to feel instant without it

    return known_jobs(home.reader(clock), clock.now()).dead


def _defaults(home: Home) -> Mapping[str, Any]:
    """What `up` was told for jobs that name no value of their own."""
    stack = home.read_stack()
    return {"rate_limit": stack.rate_limit} if stack else {}


def _refusal(home: Home, clock: Clock, kind: Kind, name: ModelName) -> Trouble | None:
    """Why a job about this model would come to nothing on this machine."""
    if kind.needs == "nothing":
        stack = home.read_stack()
        return stack.registries.refusal(name) if stack and kind.name == "pull" else None
    # Listing jobs is to feel instant, and needs none of it.
    from jobs.home.names_here import names_here  # noqa: PLC0415
    from jobs.models.near_names import absent  # noqa: PLC0415

    known = names_here(home, clock, trash=kind.needs == "model or trash")
    missing = None if known is None else absent(name, known)
    stack = home.read_stack()
    if missing is None or stack is None:
        return missing
    from jobs.home.status import aliases_here  # noqa: PLC0415
    from jobs.models.aliases import no_model  # noqa: PLC0415

    alias = aliases_here(home, stack).of(name)
    return no_model(name, alias, kind.name) if alias else missing


def commands_at(url: str | None, key: str | None) -> JobCommands:
    """The commands over the jobs of the gateway there, or of this machine."""
    if not url:
        return this_machine().commands
    clock, remote = SystemClock(), remote_at(url, key)
    url = remote.url  # without the key that it may have held
    return JobCommands(
        remote,
        clock,
        is_worked=lambda: True,  # where a gateway answers, it sends for workers
        idle=IDLE,
        log=f"with whoever runs {url}",
        worded=lambda text: text if os.environ.get("OLLAMA_MODAL_URL") else with_url(text, url),
        dead=remote.dead,
        poll_every=REMOTE_POLL_EVERY,
        refusal=lambda kind, name: remote.refusal(kind.name, str(name)),
        refuses_itself=True,
    )


def remote_at(url: str, key: str | None) -> "GatewayClient":
    from jobs.home.gateway_client import GatewayClient  # noqa: PLC0415 - listing jobs is to feel instant without it

    remote = GatewayClient(url, key, clock=SystemClock())
    atexit.register(remote.close)  # a command ends by an exception, from wherever it is
    return remote


def batches_at(url: str | None, key: str | None) -> "LocalBatches | RemoteBatches":
    """The batches of the gateway there, or of this machine."""
    if url:
        return remote_at(url, key).batches
    from jobs.home.local_batches import LocalBatches  # noqa: PLC0415 - listing jobs is to feel instant without it

    at = this_machine()
    return LocalBatches(at.home, at.commands.clock, who, at.commands.acts)


def with_url(text: str, url: str) -> str:
    """The commands in a text, as they are typed for the gateway there; what is for one machine alone stays as it is."""
    callbacks = {
        each.name or each.callback.__name__: each.callback for each in app.registered_commands if each.callback
    }
    there = {name for name, callback in callbacks.items() if "url" in inspect.signature(callback).parameters}

    def ours(command: re.Match[str]) -> str:
        is_there = command[1] in there and " --fleet" not in command[2] and " --url" not in command[2]
        return f"`ollama-modal {command[1]} --url {shlex.quote(url)}{command[2]}`" if is_there else command[0]

    return re.sub(r"`ollama-modal (\w+)([^`]*)`", ours, text)


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

_MODELS = {"one": [parameter("models", Names)], "one or all": [parameter("models", NamesOrAll, None)], "all": []}
_OF_ALL = [
    parameter("wait", Wait, True),
    parameter("attempts", AttemptsOption, None),
    parameter("url", Url, None),
    parameter("key", KeyOption, None),
    parameter("json", Json, False),
]


def add_post_commands(to: typer.Typer, kinds: Kinds = KINDS) -> None:
    """A command for each kind of job, made from its record."""
    for kind in with_commands(kinds).values():
        to.command(kind.name)(_post_command(kind))


def _post_command(kind: Kind) -> Callable[..., None]:
    def post(
        *, url: str | None, key: str | None, dry_run: bool = False, models: list[str] | None = None, **typed: Any
    ) -> None:
        if dry_run:
            done(show_dry_run(kind, typed, url, key))
        done(commands_at(url, key).post(kind, models or (), **typed))

    own = [parameter("dry_run", DryRun, False)] if kind.has_dry_run else []
    own += map(_option, kind.parameters)
    return with_signature(post, kind.name, kind.help, [*_MODELS[kind.model], *own, *_OF_ALL])


def _option(of: Parameter) -> inspect.Parameter:
    metavar, values = "|".join(of.choices) or of.metavar, lambda: list(of.choices)
    option = typer.Option(of.option, metavar=metavar, help=of.help, autocompletion=values if of.choices else None)
    if of.value_type is bool:
        return parameter(of.name, Annotated[bool, option], False)
    return parameter(of.name, Annotated[of.typed_as | None, option], of.default)


def show_dry_run(kind: Kind, typed: Mapping[str, Any], url: str | None, key: str | None) -> int:
    """Show what a job would do; post nothing."""
    request = kind.request(None, kind.read(typed)).request
    if url:
        from jobs.cli.remote_status import RemotePreview  # noqa: PLC0415 - listing jobs is to feel instant without it

        preview: Preview = RemotePreview(remote_at(url, key).prune_plan(request))
        return commands_at(url, key).show_preview(preview, json=typed["json"])
    from jobs.home.prune_preview import dry_run  # noqa: PLC0415 - brings httpx, which takes long to import

    at = this_machine()
    return at.commands.show_preview(dry_run(at.home, at.commands.clock, request), json=typed["json"])


add_post_commands(app)


# -- commands about jobs -----------------------------------------------------------------------------------------------


@app.command("jobs")
def list_jobs(
    *,
    state: Annotated[
        str | None,
        typer.Option(metavar="STATE", help=f"Only these: {', '.join(JobState)}", autocompletion=lambda: list(JobState)),
    ] = None,
    kind: Annotated[
        str | None,
        typer.Option(metavar="KIND", help=f"Only these: {', '.join(KINDS)}", autocompletion=lambda: list(KINDS)),
    ] = None,
    since: Annotated[str | None, typer.Option(metavar="WHEN", help="Posted since then, like 90d or 2026-09-15")] = None,
    limit: Annotated[int, typer.Option(metavar="N", min=0, help="How many of the newest; 0 for all")] = LISTED,
    dead: Annotated[bool, typer.Option("--dead", help="Those that failed for good, by class, with the remedy")] = False,
    url: Url = None,
    key: KeyOption = None,
    json: Json = False,
) -> None:
    """List the jobs, newest first."""
    at = commands_at(url, key)
    done(at.list_jobs(state=state, kind=kind, since=since, limit=limit, dead=dead, json=json))


@app.command("job")
def show_job(
    id: IdArgument,
    *,
    follow: Annotated[bool, typer.Option("--follow", help="Follow it to its end; exit as the job does")] = False,
    url: Url = None,
    key: KeyOption = None,
    json: Json = False,
) -> None:
    """Tell a job's story: what was asked, what happened, and what to do."""
    done(commands_at(url, key).show_job(id, follow=follow, json=json))


@app.command()
def cancel(id: CancelledArgument, url: Url = None, key: KeyOption = None, json: Json = False) -> None:
    """Ask a job to stop, and what was fetched for it is thrown away; or a batch, and what is done of it stays."""
    if is_batch_id(id):
        done(cancel_batch(batches_at(url, key), id, json=json))
    done(commands_at(url, key).cancel(id, json=json))


@app.command()
def retry(
    id: Annotated[
        str,
        typer.Argument(
            metavar="[ID]", help="A job's id, or as much of its beginning as is unique", autocompletion=job_ids
        ),
    ] = "",
    *,
    every: Annotated[bool, typer.Option("--all", help="Every job that failed for good")] = False,
    failure_class: Annotated[
        str | None, typer.Option("--class", metavar="NAME", help=f"Of those, only {', '.join(FAILURE_CLASSES)}")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Post all of them without being asked on a terminal")] = False,
    anyway: Annotated[
        bool, typer.Option("--anyway", help="A delete or rollback, though those weights were changed since")
    ] = False,
    wait: Wait = True,
    url: Url = None,
    key: KeyOption = None,
    json: Json = False,
) -> None:
    """Post an ended job again, exactly as it was posted; or all that failed, after an outage.

    With `--all`, nothing that takes weights away is posted.
    """
    chosen: dict[str, Any] = {"every": every, "failure_class": failure_class, "yes": yes, "anyway": anyway}
    done(commands_at(url, key).retry(id, **chosen, wait=wait, json=json))


@app.command()
def dismiss(id: IdArgument, url: Url = None, key: KeyOption = None, json: Json = False) -> None:
    """Hear no more of a job that failed for good. It keeps its story, and is no alarm any more."""
    done(commands_at(url, key).dismiss(id, json=json))


# -- commands about what is there --------------------------------------------------------------------------------------


@app.command()
def models(url: Url = None, key: KeyOption = None, json: Json = False) -> None:
    """List the models. Those that are not whole are complained about."""
    if url:
        from jobs.cli.remote_status import remote_models  # noqa: PLC0415 - listing jobs is to feel instant without it

        done(commands_at(url, key).list_models(remote_models(remote_at(url, key)), json=json))
    from jobs.home.status import local_models  # noqa: PLC0415

    at = this_machine()
    done(at.commands.list_models(local_models(at.home, at.commands.clock), json=json))


@app.command("route")
def show_route(
    model: Name,
    *,
    context: Annotated[int | None, typer.Option("--context", metavar="N", min=1, help="With so long a context")] = None,
    url: Url = None,
    key: KeyOption = None,
    json: Json = False,
) -> None:
    """Tell on which tier a model is answered. And why, in words and numbers."""
    gateway = gateway_url(url)
    from jobs.cli.remote_status import route_lines  # noqa: PLC0415 - listing jobs is to feel instant without it

    route = remote_at(gateway, key).route(model, context)
    show(route, route_lines(route), json=json)


def gateway_url(url: str | None) -> str:
    """Where the gateway answers that is named, or that of this machine.

    Raises:
        Refused: it does not run.

    """
    if url:
        return url
    home = home_of(os.environ)
    stack = home.read_stack()
    if home.up_pid() is None or stack is None or stack.gateway is None:
        raise Refused("no gateway runs on this machine", hint="start it: `ollama-modal up`; or name another by --url")
    return stack.gateway


@app.command()
def status(url: Url = None, key: KeyOption = None, json: Json = False) -> None:
    """Tell what runs. That is `up`, its servers, the models, the queue; or a gateway and its tiers."""
    if url:
        from jobs.cli.remote_status import status_lines  # noqa: PLC0415 - as above

        remote = remote_at(url, key)
        health = {**remote.health(), "night": remote.night()}
        show(health, status_lines(health, remote.url, commands_at(url, key).now), json=json)
        return
    from jobs.home.status import local_status  # noqa: PLC0415

    at = this_machine()
    survey = local_status(at.home, at.commands.clock, key)
    show(survey.as_json(), survey.lines(at.commands.now), json=json)


@app.command("help")
def show_help(
    context: typer.Context,
    names: Annotated[list[str] | None, typer.Argument(metavar="[COMMAND]...", help="All of them when left out")] = None,
) -> None:
    """Tell what a command does, and its options."""
    above = context.parent
    assert above is not None
    for name in names or ():
        group = above.command
        if not isinstance(group, typer.core.TyperGroup) or (command := group.get_command(above, name)) is None:
            raise BadRequest(f"there is no command {plain(name, 40)!r}", hint="`ollama-modal help` lists commands")
        above = typer.Context(command, info_name=name, parent=above)
    put_lines(above.get_help().splitlines())


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
        say("hint: `ollama-modal help` lists commands, `ollama-modal help COMMAND` their options")
        return error.exit_code
    return outcome if isinstance(outcome, int) else 0
