"""The table of keys is complete and true: what each key of a fleet file does in a deployment, and on one machine."""

import tomllib
from collections.abc import Callable, Iterator, Mapping
from copy import deepcopy
from datetime import UTC, datetime, timedelta
from typing import Any, get_args, get_origin

import pytest
from pydantic import BaseModel

from app.accounting.key_budgets import KnownSpending
from app.accounting.spending import estimate
from app.deployment.server_container import tier_settings
from app.endpoint import server_options
from app.fleet.effect_notes import WEBHOOK, OneMachine, in_a_deployment, of_modal, on_one_machine
from app.fleet.effects import KEYS, set_keys
from app.fleet.file import FLEET_FILE
from app.fleet.parameters import ParametersConfig
from app.fleet.schema import Fleet, parse
from app.gateway.admission_parts import month_budget
from app.gateway.cross_origin import allowed_origins
from app.local.plan import StackPlan, allowed_registries
from app.scheduler.alert_rules import AlertFacts, incidents
from app.scheduler.night_plan import Actual, night
from app.scheduler.wake_budget import Wakes
from jobs.access.budgets import span_of
from jobs.core.clock import isoformat
from jobs.core.model_name import ModelName
from jobs.ledger.job import Job, JobState
from jobs.listing.dead_memory import KnownJobs
from jobs.store import keys
from jobs.telemetry.container_time import Metered
from jobs.testing.clock import HandClock
from jobs.weights.history import Memory
from jobs.weights.manifest import ModelDetails
from jobs.weights.prune_plan import WeightsUse, plan
from jobs.weights.survey import Survey, SurveyedModel
from tests.support.checkout import ROOT
from tests.support.models_directory import sample

NOW = datetime(2026, 6, 15, 7, tzinfo=UTC)

CHANGES: Mapping[str, tuple[str, Any]] = {
    "tiers.*.gpu": ("tiers.a10g.gpu", "L4"),
    "tiers.*.vram_gb": ("tiers.a10g.vram_gb", 20),
    "tiers.*.cpu_cores": ("tiers.a10g.cpu_cores", 2),
    "tiers.*.memory_gb": ("tiers.a10g.memory_gb", 8),
    "tiers.*.min_containers": ("tiers.a10g.min_containers", 1),
    "tiers.*.max_containers": ("tiers.a10g.max_containers", 9),
    "tiers.*.buffer_containers": ("tiers.a10g.buffer_containers", 1),
    "tiers.*.scaledown_window_seconds": ("tiers.a10g.scaledown_window_seconds", 60),
    "tiers.*.startup_timeout_seconds": ("tiers.a10g.startup_timeout_seconds", 100),
    "tiers.*.target_concurrency": ("tiers.a10g.target_concurrency", 9),
    "tiers.*.exit_grace_seconds": ("tiers.a10g.exit_grace_seconds", 9),
    "tiers.*.own_wakes_per_day": ("tiers.a10g.own_wakes_per_day", 9),
    "tiers.*.readers_ahead": ("tiers.a10g.readers_ahead", 9),
    "tiers.*.engine": ("tiers.a10g.engine", "llama-server"),
    "tiers.*.ollama.context_length": ("tiers.a10g.ollama.context_length", 2048),
    "tiers.*.ollama.num_parallel": ("tiers.a10g.ollama.num_parallel", 9),
    "tiers.*.ollama.max_loaded_models": ("tiers.a10g.ollama.max_loaded_models", 9),
    "tiers.*.ollama.flash_attention": ("tiers.a10g.ollama.flash_attention", False),
    "tiers.*.ollama.kv_cache_type": ("tiers.a10g.ollama.kv_cache_type", "q4_0"),
    "tiers.*.ollama.keep_alive_seconds": ("tiers.a10g.ollama.keep_alive_seconds", 9),
    "tiers.*.ollama.load_timeout_seconds": ("tiers.a10g.ollama.load_timeout_seconds", 99),
    "tiers.*.ollama.load_mode": ("tiers.a10g.ollama.load_mode", "none"),
    "models[].name": ("models.0.name", "qwen3"),
    "models[].tier": ("models.0.tier", "h100"),
    "models[].pinned": ("models.0.pinned", False),
    "models[].warmed": ("models.0.warmed", False),
    "models[].context": ("models.0.context", 2048),
    "models[].parameters.temperature": ("models.0.parameters.temperature", 0.5),
    "models[].parameters.top_p": ("models.0.parameters.top_p", 0.5),
    "models[].parameters.top_k": ("models.0.parameters.top_k", 9),
    "models[].parameters.min_p": ("models.0.parameters.min_p", 0.5),
    "models[].parameters.typical_p": ("models.0.parameters.typical_p", 0.5),
    "models[].parameters.seed": ("models.0.parameters.seed", 9),
    "models[].parameters.stop": ("models.0.parameters.stop", ["x"]),
    "models[].parameters.num_predict": ("models.0.parameters.num_predict", 9),
    "models[].parameters.repeat_penalty": ("models.0.parameters.repeat_penalty", 1.5),
    "models[].parameters.repeat_last_n": ("models.0.parameters.repeat_last_n", 9),
    "models[].parameters.presence_penalty": ("models.0.parameters.presence_penalty", 0.5),
    "models[].parameters.frequency_penalty": ("models.0.parameters.frequency_penalty", 0.5),
    "models[].system": ("models.0.system", "Be long."),
    "aliases.*": ("aliases.gpt-4o", "deepseek-r1:32b"),
    "windows[].tier": ("windows.0.tier", "h100"),
    "windows[].start": ("windows.0.start", "0 20 * * *"),
    "windows[].hours": ("windows.0.hours", 9),
    "windows[].models": ("windows.0.models", ["qwen3"]),
    "registries.allowed": ("registries.allowed", ["registry.ollama.ai"]),
    "gateway.origins": ("gateway.origins", ["https://chat.example.com"]),
    "keys.charge_cold": ("keys.charge_cold", True),
    "keys.defaults.rpm": ("keys.defaults.rpm", 9),
    "keys.defaults.tpm": ("keys.defaults.tpm", 9),
    "keys.defaults.concurrent": ("keys.defaults.concurrent", 9),
    "keys.defaults.requests": ("keys.defaults.requests", "9/day"),
    "keys.defaults.tokens": ("keys.defaults.tokens", "9/day"),
    "keys.defaults.gpu_seconds": ("keys.defaults.gpu_seconds", "9/day"),
    "keys.defaults.dollars": ("keys.defaults.dollars", "9/day"),
    "keys.defaults.tiers": ("keys.defaults.tiers", ["h100"]),
    "keys.defaults.wake": ("keys.defaults.wake", False),
    "keys.defaults.hold": ("keys.defaults.hold", False),
    "batches.start": ("batches.start", "now"),
    "batches.quota_gb": ("batches.quota_gb", 9),
    "batches.keep_days": ("batches.keep_days", 9),
    "batches.most_lines": ("batches.most_lines", 9),
    "batches.most_file_mb": ("batches.most_file_mb", 9),
    "batches.at_once": ("batches.at_once", 9),
    "volume.quota_gb": ("volume.quota_gb", 9),
    "volume.retention.unused_days": ("volume.retention.unused_days", 9),
    "volume.retention.trash_days": ("volume.retention.trash_days", 9),
    "volume.retention.unfinished_hours": ("volume.retention.unfinished_hours", 9),
    "volume.retention.verify_days": ("volume.retention.verify_days", 1),
    "schedule.timezone": ("schedule.timezone", "America/New_York"),
    "schedule.nightly_hour": ("schedule.nightly_hour", 9),
    "schedule.tick_minutes": ("schedule.tick_minutes", 30),
    "alerts.kinds": ("alerts.kinds", ["pinned"]),
    "alerts.quota_percent": ("alerts.quota_percent", 99),
    "alerts.nightly_late_hours": ("alerts.nightly_late_hours", 9),
    "alerts.monthly_budget_dollars": ("alerts.monthly_budget_dollars", 10_000.0),
    "alerts.on_budget": ("alerts.on_budget", "refuse"),
    "alerts.webhook_secret": ("alerts.webhook_secret", "other"),
    "prices.as_of": ("prices.as_of", datetime(2026, 1, 1, tzinfo=UTC).date()),
    "prices.source": ("prices.source", "a friend"),
    "prices.cpu_core": ("prices.cpu_core", 0.01),
    "prices.memory_gib": ("prices.memory_gib", 0.01),
    "prices.gpu.*": ("prices.gpu.A10", 0.01),
}
"""For each key another value than the file has."""

SHOWN_ELSEWHERE = {"alerts.webhook_secret": "tests/modal/test_alerts.py"}
"""What a deployment does with these only a deployment shows."""


def document() -> dict[str, Any]:
    """The shipped file, with what it leaves out."""
    found = tomllib.loads(FLEET_FILE.read_text("utf-8"))
    found["windows"] = [{"tier": "a10g", "start": "0 8 * * *", "hours": 2, "models": ["llama3.2"]}]
    found["tiers"]["a10g"]["ollama"] |= {"kv_cache_type": "f16", "load_mode": "dio"}
    found["tiers"]["a10g"] |= {"readers_ahead": 8, "engine": "ollama"}
    found["alerts"]["webhook_secret"] = "ollama-webhook"
    zero = dict.fromkeys(ParametersConfig.model_fields, 0)
    found["models"][0] |= {"context": 4096, "parameters": {**zero, "stop": ["end"]}, "system": "Be brief."}
    found["aliases"] = {"gpt-4o": "llama3.2"}
    found["alerts"]["on_budget"] = "no_wakes"
    budgets = dict.fromkeys(("requests", "tokens", "gpu_seconds", "dollars"), "5/month")
    counts, switches = dict.fromkeys(("rpm", "tpm", "concurrent"), 5), {"wake": True, "hold": True}
    found["keys"] = {"charge_cold": False, "defaults": {**counts, **budgets, "tiers": ["a10g"], **switches}}
    sizes = {"quota_gb": 5, "keep_days": 5, "most_lines": 5, "most_file_mb": 5, "at_once": 5}
    found["batches"] = {"start": "window", **sizes}
    return found


def fleet_with(**changes: Any) -> Fleet:
    """With other values, by their paths, in which an underscore pair stands for a point."""
    return changed(document(), {path.replace("__", "."): value for path, value in changes.items()})


def changed(found: dict[str, Any], changes: Mapping[str, Any]) -> Fleet:
    found = deepcopy(found)
    for path, value in changes.items():
        table: Any = found
        *parents, last = path.split(".")
        for name in parents:
            table = table[int(name) if name.isdecimal() else name]
        table[last] = value
    return parse(found, "test")


def patterns(model: type[BaseModel], above: str = "") -> Iterator[str]:
    """All keys that there are, as the table writes them."""
    for key, field in model.model_fields.items():
        yield from _patterns_of(field.annotation, f"{above}{key}")


def _patterns_of(annotation: Any, path: str) -> Iterator[str]:
    inner = get_args(annotation)
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield from patterns(annotation, f"{path}.")
    elif get_origin(annotation) is dict:
        yield from _patterns_of(inner[1], f"{path}.*")
    elif get_origin(annotation) is list and isinstance(inner[0], type) and issubclass(inner[0], BaseModel):
        yield from patterns(inner[0], f"{path}[].")
    else:
        yield path


def test_every_key_is_in_the_table() -> None:
    """The table has each key of the schema and no other, and the file that these tests change sets all of them."""
    assert list(KEYS) == list(patterns(Fleet))
    assert set(set_keys(fleet_with())) == set(KEYS) == set(CHANGES)


# -- each has its effect -----------------------------------------------------------------------------------------------


def _night_and_alerts(fleet: Fleet, *, rented: bool) -> dict[str, Any]:
    """What is posted at night, and what is told, of a service where a lot is wrong."""
    tiny = sample("llama3.2", b"weights")
    whole = SurveyedModel(tiny.name, tiny.manifest.digest, tiny.manifest.size, NOW, tiny.manifest, ModelDetails())
    other = sample("phi4", b"other weights")
    found = (whole, SurveyedModel(other.name, other.manifest.digest, 9, NOW, other.manifest, ModelDetails()))
    verified = {each.name.folded(): NOW - timedelta(days=5) for each in found}
    pruning = plan(Survey(found, (), (), (), (), 0), WeightsUse(), fleet.retention(), NOW)
    steps = night(fleet, Actual(found, {}, Memory(verified=verified), pruning), NOW).steps
    meter = Metered("h100", "c", NOW - timedelta(days=9), NOW, {"cold": 0, "warming": 0, "serving": 700_000, "idle": 0})
    entries = {
        keys.WEIGHTS_ROOM: {"used": 950_000_000_000},
        keys.WEIGHTS_MODELS: {},
        keys.NIGHT_RAN: {"v": 1, "at": isoformat(NOW - timedelta(days=1))},
        meter.key: meter.as_json(),
    }
    waiting = Job("1", "pull", "phi4:latest", "weights", JobState.QUEUED, {}, 1, NOW - timedelta(minutes=40), "me")
    facts = AlertFacts(entries, KnownJobs((), (waiting,)), (), (), NOW - timedelta(hours=6), NOW, rented=rented)
    return {"night": steps, "alerts": incidents(fleet, facts)}


def _everywhere(fleet: Fleet) -> dict[str, Any]:
    hours = [NOW.replace(hour=hour) for hour in range(24)]
    return {
        "retention": fleet.retention(),
        "times": fleet.schedule.times,
        "windows": [fleet.windows_open(at) for at in hours],
        "settings": fleet.settings_by_model,
        "aliases": fleet.named,
        "origins": allowed_origins({}, fleet).allow("https://chat.example.com"),
        "declared": [fleet.declared_tier(ModelName.parse(name)) for name in ("llama3.2", "qwen3", "deepseek-r1:32b")],
    }


def _limits(fleet: Fleet, *, rented: bool) -> dict[str, Any]:
    """What keys are limited to, and what the month's budget stops."""
    clock = HandClock(NOW)
    prices = KnownSpending(dict, fleet, clock, rented=rented).tariff(span_of("month", NOW, UTC))
    stops = month_budget(fleet, dict, clock) if rented else None
    return {
        "default limits": fleet.default_limits(rented=rented),
        "charged": prices.charges_cold,
        "stops": stops and (stops.dollars, stops.stops),
    }


def deployed(fleet: Fleet) -> dict[str, Any]:
    """What a deployment makes of a fleet file."""
    asked = {name: server_options(fleet, name) for name in fleet.tiers}
    spent = estimate({}, fleet, NOW, NOW).as_json()
    return {
        **_everywhere(fleet),
        **_limits(fleet, rented=True),
        **_night_and_alerts(fleet, rented=True),
        "asked of Modal": [{**each, "image": None, "volumes": None} for each in asked.values()],
        "servers": [tier_settings(fleet, name) for name in fleet.tiers],
        "capacities": fleet.catalog_tiers(),
        "registries": fleet.may_pull_from(),
        "batches": fleet.batches.limits,
        "wakes": [Wakes({}, fleet).budget(name) for name in fleet.tiers],  # type: ignore[arg-type]
        "prices": (spent, [fleet.dollars_per_hour(name) for name in fleet.tiers]),
    }


def stack_plan(fleet: Fleet | None, *tiers: str) -> StackPlan:
    return StackPlan(
        simulate=False,
        tiers=tiers,
        models=None,
        host="127.0.0.1",
        port=0,
        registries=allowed_registries({}, fleet, is_loopback=True),
        origins=allowed_origins({}, fleet),
        retention=(fleet or fleet_with()).retention(),
        rate_limit=None,
        concurrency=1,
        fleet=fleet,
        fleet_file=None,
        fleet_text=None,
    )


def here(fleet: Fleet) -> dict[str, Any]:
    """What `up` makes of it."""
    asked = stack_plan(fleet)
    return {
        **_everywhere(fleet),
        **_limits(fleet, rented=False),
        **_night_and_alerts(fleet, rented=False),
        "tiers": asked.server_tiers,
        "capacities": [*asked.capacities({})],
        "environments": [asked.tuning(name, {}) for name in asked.server_tiers],
        "startup": [asked.startup(name) for name in asked.server_tiers],
        "engines": [asked.engine(name) for name in asked.server_tiers],
        "registries": asked.registries,
        "batches": asked.batches,
        "prices": fleet.prices,  # as the page shows them
    }


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("place", [deployed, here])
def test_a_key_does_what_the_table_says(key: str, place: Callable[[Fleet], dict[str, Any]]) -> None:
    """Another value changes what comes of it where the table says that it does something, and nothing elsewhere."""
    if place is deployed and key in SHOWN_ELSEWHERE:
        assert "webhook_secret" in (ROOT / SHOWN_ELSEWHERE[key]).read_text("utf-8")
        return
    path, value = CHANGES[key]
    before, after = place(fleet_with()), place(changed(document(), {path: value}))

    different = [what for what in before if before[what] != after[what]]

    assert bool(different) == bool(KEYS[key].deployed if place is deployed else KEYS[key].here), different


# -- or is named -------------------------------------------------------------------------------------------------------

BARE = OneMachine({}, ("a10g", "h100"), simulated=True)


def test_what_is_modals_is_named_once() -> None:
    """The keys of the shipped file that mean something on Modal alone are one line; a file like it needs no more."""
    fleet = parse(tomllib.loads(FLEET_FILE.read_text("utf-8")), "test")

    line = of_modal(fleet, OneMachine({}, ("a10g", "h100")))

    assert line == (
        "of the fleet file, this is Modal's and has no effect on one machine: gpu, cpu_cores, memory_gb,"
        " min_containers, max_containers, buffer_containers, scaledown_window_seconds, target_concurrency,"
        " exit_grace_seconds, own_wakes_per_day of [tiers]; monthly_budget_dollars of [alerts];"
        " the kinds budget, wakes, platform of [alerts]"
    )
    assert of_modal(fleet, BARE).endswith("simulated, flash_attention, load_timeout_seconds of their ollama")
    assert of_modal(fleet, OneMachine({}, ("local",), found="http://127.0.0.1:11434")) == (
        "of the fleet file, this is Modal's and has no effect on one machine: monthly_budget_dollars of [alerts];"
        " the kinds budget, wakes, platform of [alerts]"
    )
    assert list(on_one_machine(fleet, BARE)) == []
    assert list(in_a_deployment(fleet)) == []


def test_whatever_does_nothing_here_is_named() -> None:
    """No key that does nothing on one machine goes without a word."""
    fleet = fleet_with()
    said = " ".join([of_modal(fleet, BARE), *on_one_machine(fleet, BARE)])

    silent = [key for key, effect in KEYS.items() if not effect.here]

    assert WEBHOOK in silent
    named = [key for key in silent if key.rpartition(".")[2] in said or f"; [{key.partition('.')[0]}]" in said]
    assert named == silent


def test_only_what_a_file_says_is_named() -> None:
    """Of what a file leaves out, nothing is said."""
    found = document()
    del found["alerts"]["monthly_budget_dollars"], found["alerts"]["on_budget"]
    found["alerts"] |= {"kinds": ["quota", "nightly"]}
    line = of_modal(parse(found, "test"), BARE)
    assert "[alerts]" not in line
    assert "registries" not in " ".join(on_one_machine(fleet_with(), OneMachine({}, ("a10g",), pull_from=None)))


def notes(fleet: Fleet, **machine: Any) -> list[str]:
    return list(on_one_machine(fleet, OneMachine(**{"environ": {}, "tiers": ("a10g", "h100"), **machine})))


def test_simulated_servers_speak_as_ollama() -> None:
    """Where servers only pretend, an engine that is declared is said to do nothing."""
    fleet = fleet_with(tiers__a10g__engine="llama-server")
    said = 'tiers.a10g.engine = "llama-server" has no effect: a simulated server speaks as Ollama'

    assert said in notes(fleet, simulated=True)
    assert said not in notes(fleet)


def test_a_found_ollama_is_told_how_it_would_be_tuned() -> None:
    """Where one answers already, all of [tiers] is said to do nothing, with what to set there and what to type."""
    [webhook, *_] = list(notes(fleet_with(), simulated=True))
    [found, same] = notes(fleet_with(), tiers=("local",), found="http://127.0.0.1:11434")

    assert same == webhook
    assert found == (
        "[tiers] has no effect: the Ollama at http://127.0.0.1:11434 was running already, is used as it is, and stands"
        " for all tiers; `up --tier a10g --tier h100` starts a server for each beside it, or set in its own environment"
        " what the file says of a10g: OLLAMA_CONTEXT_LENGTH=8192 OLLAMA_NUM_PARALLEL=4 OLLAMA_MAX_LOADED_MODELS=2"
        " OLLAMA_FLASH_ATTENTION=1 OLLAMA_KV_CACHE_TYPE=f16 OLLAMA_KEEP_ALIVE=-1 OLLAMA_LOAD_TIMEOUT=300s"
        " LLAMA_ARG_LOAD_MODE=dio; of h100:"
        " OLLAMA_CONTEXT_LENGTH=16384 OLLAMA_NUM_PARALLEL=4 OLLAMA_MAX_LOADED_MODELS=2 OLLAMA_FLASH_ATTENTION=1"
        " OLLAMA_KV_CACHE_TYPE=q8_0 OLLAMA_KEEP_ALIVE=-1 OLLAMA_LOAD_TIMEOUT=600s"
    )


def test_what_else_was_said_counts_and_is_told() -> None:
    """The operator's environment and options count before the file, and each time that is said, a line each."""
    environ = {"OLLAMA_CONTEXT_LENGTH": "4096", "OLLAMA_NUM_PARALLEL": " 4 ", "OLLAMA_LOAD_TIMEOUT": "600s"}
    fleet = fleet_with(alerts__kinds=["budget"])

    said = notes(fleet, environ=environ, simulated=True, quota=True, pull_from="OLLAMA_MODAL_PULL_FROM")

    assert said == [
        (
            "tiers.a10g.ollama.context_length = 8192 and tiers.h100.ollama.context_length = 16384 have no effect:"
            " OLLAMA_CONTEXT_LENGTH=4096 of the environment counts; unset it, and the file does"
        ),
        (
            "tiers.a10g.ollama.load_timeout_seconds = 300 has no effect: OLLAMA_LOAD_TIMEOUT=600s of the environment"
            " counts; unset it, and the file does"
        ),
        "volume.quota_gb = 1000 has no effect: --quota counts",
        "registries.allowed has no effect: OLLAMA_MODAL_PULL_FROM of the environment counts",
        "alerts.webhook_secret has no effect: on one machine OLLAMA_MODAL_WEBHOOK of the environment says whom to tell",
        "alerts.quota_percent = 90 has no effect: 'quota' is none of alerts.kinds",
        "alerts.nightly_late_hours = 3 has no effect: 'nightly' is none of alerts.kinds",
    ]
    asked = stack_plan(fleet, "a10g")
    assert asked.tuning("a10g", environ) == {
        "OLLAMA_MAX_LOADED_MODELS": "2",
        "OLLAMA_FLASH_ATTENTION": "1",
        "OLLAMA_KV_CACHE_TYPE": "f16",
        "OLLAMA_KEEP_ALIVE": "-1",
        "LLAMA_ARG_LOAD_MODE": "dio",
    }
    [tier] = asked.capacities({**environ, "OLLAMA_KEEP_ALIVE": "1h"})
    assert (tier.context, tier.parallel, tier.keep_alive) == (4096, 4, None)


def test_tiers_that_were_named_are_those_that_are_started() -> None:
    """`--tier` counts before the declared tiers; those that are left out, and those that are not declared, are told."""
    found = document()
    del found["alerts"]["webhook_secret"]
    fleet = parse(found, "test")

    assert (stack_plan(fleet).server_tiers, stack_plan(fleet, "l4").server_tiers) == (("a10g", "h100"), ("l4",))
    assert stack_plan(None).server_tiers == ()
    assert notes(fleet, tiers=("l4",)) == [
        (
            "tiers.a10g has no effect: --tier names others; models declared for it go where they fit, and its windows"
            " load nothing; `up --tier a10g` has a server of it"
        ),
        (
            "tiers.h100 has no effect: --tier names others; models declared for it go where they fit; `up --tier h100`"
            " has a server of it"
        ),
        "the file says nothing of tier l4: its server takes Ollama's own settings",
    ]
    assert notes(fleet) == [
        (
            "a10g, h100 are servers of their own on one machine: none unloads a model to make room for another's;"
            " `up --tier a10g` starts that one alone"
        )
    ]


def test_a_directory_that_is_not_ours_is_told() -> None:
    """Without a models directory of its own no night can run, and what that takes along is named."""
    said = notes(fleet_with(), simulated=True, not_ours="'/models' is not ours to write", quota=True)
    assert said[0] == (
        "[volume], alerts.quota_percent, and pinned and warmed of [[models]] have no effect: no night can run, since"
        " '/models' is not ours to write; name a directory of yours by --models, or have `up` start its servers itself"
    )
    assert not any("--quota" in note for note in said)


def test_what_a_deployment_can_make_nothing_of_is_named() -> None:
    """Keys that another key makes void are named to who deploys."""
    fleet = fleet_with(tiers__a10g__own_wakes_per_day=0, alerts__kinds=[])
    assert list(in_a_deployment(fleet)) == [
        "windows[0] has no effect: tiers.a10g.own_wakes_per_day is 0, so it never opens",
        (
            "models[0].warmed has no effect at night: tiers.a10g.own_wakes_per_day is 0; servers that callers wake load"
            " it all the same"
        ),
        "alerts.quota_percent = 90 has no effect: 'quota' is none of alerts.kinds",
        "alerts.nightly_late_hours = 3 has no effect: 'nightly' is none of alerts.kinds",
        "alerts.webhook_secret has no effect: alerts.kinds is empty, so there is nothing to tell",
        "alerts.monthly_budget_dollars = 200 is shown, and nobody is told: 'budget' is none of alerts.kinds",
    ]


def test_a_stop_without_a_budget_is_named() -> None:
    """What is to happen when a budget is spent that is not there never does, and that is said."""
    found = document()
    del found["alerts"]["monthly_budget_dollars"]
    said = 'alerts.on_budget = "no_wakes" has no effect: alerts.monthly_budget_dollars says no budget'

    assert said in list(in_a_deployment(parse(found, "test")))
    assert said not in list(in_a_deployment(fleet_with()))
