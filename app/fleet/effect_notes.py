"""What is said at the start about keys of a fleet file that have no effect where it is used, and what counts instead.

Each note is a line. What every file has that Modal alone reads is one line for all of it; the rest is said where
somebody meant something by it: a line each, with what to do. Pure.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

from app.fleet.effects import KEYS, RENTED_ALERTS, set_keys
from app.fleet.schema import Fleet, OllamaSettings

WEBHOOK = "alerts.webhook_secret"
"""It has a line of its own, since something else does the same."""

NOT_SIMULATED = ("flash_attention", "load_timeout_seconds", "load_mode")
"""Of an Ollama's settings, those that the simulator does not know."""

_ENGINES_OWN = {"load_mode": "LLAMA_ARG_LOAD_MODE"}
"""What is told to the engine of an Ollama, by the engine's own name for it."""


@dataclass(frozen=True)
class OneMachine:
    """What `up` found, and what it was told beside the file.

    Args:
        environ: its environment.
        tiers: those that a server here is of.
        found: where an Ollama answers that was there already; it stands for all tiers.
        simulated: the servers only pretend.
        quota: was said beside the file.
        pull_from: the variable that said in place of the file what may be pulled from, if one did.
        not_ours: why the models directory is not ours to keep.

    """

    environ: Mapping[str, str]
    tiers: Sequence[str]
    found: str | None = None
    simulated: bool = False
    quota: bool = False
    pull_from: str | None = None
    not_ours: str | None = None


def of_modal(fleet: Fleet, machine: OneMachine) -> str:
    """The keys that mean something on Modal alone, in one line; what has a line of its own is left out."""
    own = ("tiers.", WEBHOOK) if machine.found else (WEBHOOK,)
    keys = [pattern for pattern in set_keys(fleet) if not KEYS[pattern].here and not pattern.startswith(own)]
    parts = [_of_table(table, list(group)) for table, group in groupby(keys, lambda key: key.partition(".")[0])]
    if kinds := [kind for kind in fleet.alerts.kinds if kind in RENTED_ALERTS]:
        parts.append(f"the kinds {', '.join(kinds)} of [alerts]")
    said = f"of the fleet file, this is Modal's and has no effect on one machine: {'; '.join(parts)}"
    if machine.simulated:
        ollama = {pattern.rpartition(".")[2] for pattern in set_keys(fleet)}
        unknown = [key for key in NOT_SIMULATED if key in ollama]
        said += f"; and since servers are simulated, {', '.join(unknown)} of their ollama"
    return said


def _of_table(table: str, keys: Sequence[str]) -> str:
    every = [key for key in KEYS if key.partition(".")[0] == table]
    if all(not KEYS[key].here for key in every):
        return f"[{table}]"
    return f"{', '.join(key.removeprefix(f'{table}.').removeprefix('*.') for key in keys)} of [{table}]"


def on_one_machine(fleet: Fleet, machine: OneMachine) -> Iterator[str]:
    """What somebody may have meant, and does not get: a line each."""
    if machine.found is not None:
        yield _of_found(fleet, machine.found)
    else:
        yield from _of_tiers(fleet, machine)
        yield from _of_environment(fleet, machine)
    keys = set_keys(fleet)
    if machine.not_ours:
        yield (
            "[volume], alerts.quota_percent, and pinned and warmed of [[models]] have no effect: no night can run,"
            f" since {machine.not_ours}; name a directory of yours by --models, or have `up` start its servers itself"
        )
    elif machine.quota:
        yield f"volume.quota_gb = {fleet.volume.quota_gb} has no effect: --quota counts"
    if machine.pull_from and "registries.allowed" in keys:
        yield f"registries.allowed has no effect: {machine.pull_from} of the environment counts"
    if WEBHOOK in keys:
        yield f"{WEBHOOK} has no effect: on one machine OLLAMA_MODAL_WEBHOOK of the environment says whom to tell"
    yield from _of_alerts(fleet)


def _of_found(fleet: Fleet, url: str) -> str:
    wanted = [f"{name}: {_assigned(tier.ollama)}" for name, tier in fleet.tiers.items()]
    return (
        f"[tiers] has no effect: the Ollama at {url} was running already, is used as it is, and stands for all tiers;"
        f" `up {_options(fleet.tiers)}` starts a server for each beside it,"
        f" or set in its own environment what the file says of {'; of '.join(wanted)}"
    )


def _assigned(settings: OllamaSettings) -> str:
    return " ".join(f"{name}={value}" for name, value in settings.environ().items())


def _options(tiers: Iterable[str]) -> str:
    return " ".join(f"--tier {name}" for name in tiers)


def _of_tiers(fleet: Fleet, machine: OneMachine) -> Iterator[str]:
    for name in fleet.tiers:
        if name not in machine.tiers:
            windows = any(window.tier == name for window in fleet.windows)
            yield (
                f"tiers.{name} has no effect: --tier names others; models declared for it go where they fit"
                f"{', and its windows load nothing' if windows else ''}; `up {_options([name])}` has a server of it"
            )
    for name in machine.tiers:
        if machine.simulated and name in fleet.tiers and fleet.tiers[name].engine != "ollama":
            engine = fleet.tiers[name].engine
            yield f'tiers.{name}.engine = "{engine}" has no effect: a simulated server speaks as Ollama'
        if name not in fleet.tiers:
            yield f"the file says nothing of tier {name}: its server takes Ollama's own settings"
    if len(machine.tiers) > 1 and not machine.simulated:
        yield (
            f"{', '.join(machine.tiers)} are servers of their own on one machine: none unloads a model to make room"
            f" for another's; `up {_options(machine.tiers[:1])}` starts that one alone"
        )


def _of_environment(fleet: Fleet, machine: OneMachine) -> Iterator[str]:
    """What an operator says in his own environment counts for all servers."""
    declared = {name: fleet.tiers[name].ollama for name in machine.tiers if name in fleet.tiers}
    for key in OllamaSettings.model_fields:
        variable = variable_of(key)
        said = machine.environ.get(variable, "").strip()
        beaten = [
            f"tiers.{name}.ollama.{key} = {getattr(settings, key)}"
            for name, settings in declared.items()
            if said and settings.environ().get(variable, said) != said
        ]
        if beaten:
            yield (
                f"{' and '.join(beaten)} {'has' if len(beaten) == 1 else 'have'} no effect:"
                f" {variable}={said} of the environment counts; unset it, and the file does"
            )


def variable_of(key: str) -> str:
    """The variable by which an Ollama server is told what a key of `[tiers.X.ollama]` says."""
    return _ENGINES_OWN.get(key) or f"OLLAMA_{key.removesuffix('_seconds').upper()}"


def _of_alerts(fleet: Fleet) -> Iterator[str]:
    alerts = fleet.alerts
    for key, kind in {"quota_percent": "quota", "nightly_late_hours": "nightly"}.items():
        if kind not in alerts.kinds:
            yield f"alerts.{key} = {getattr(alerts, key)} has no effect: {kind!r} is none of alerts.kinds"


def in_a_deployment(fleet: Fleet) -> Iterator[str]:
    """What has none in a deployment, or has none for what another key says: a line each."""
    for pattern, paths in set_keys(fleet).items():
        if not KEYS[pattern].deployed:
            yield f"{', '.join(paths)} {'has' if len(paths) == 1 else 'have'} no effect in a deployment"
    for index, window in enumerate(fleet.windows):
        if not fleet.tier(window.tier).own_wakes_per_day:
            yield f"windows[{index}] has no effect: tiers.{window.tier}.own_wakes_per_day is 0, so it never opens"
    for index, model in enumerate(fleet.models):
        if model.warmed and not fleet.tier(model.tier).own_wakes_per_day:
            yield (
                f"models[{index}].warmed has no effect at night: tiers.{model.tier}.own_wakes_per_day is 0;"
                " servers that callers wake load it all the same"
            )
    yield from _of_alerts(fleet)
    if fleet.alerts.webhook_secret and not fleet.alerts.kinds:
        yield f"{WEBHOOK} has no effect: alerts.kinds is empty, so there is nothing to tell"
    if fleet.alerts.on_budget != "alert" and fleet.alerts.monthly_budget_dollars is None:
        said = f'alerts.on_budget = "{fleet.alerts.on_budget}"'
        yield f"{said} has no effect: alerts.monthly_budget_dollars says no budget"
    if "budget" not in fleet.alerts.kinds and fleet.alerts.monthly_budget_dollars is not None:
        yield (
            f"alerts.monthly_budget_dollars = {fleet.alerts.monthly_budget_dollars:g} is shown, and nobody is told:"
            " 'budget' is none of alerts.kinds"
        )
