"""The two schedules, the reports and the words of a deployment, on a local store and a clock moved by hand."""

from datetime import UTC, datetime, timedelta

import pytest

from app.deployment import status as reports
from app.deployment.modal_cli import worded
from app.deployment.servers_worker import tier_of
from app.fleet.file import read
from app.fleet.schedule import jobs_of_night, night_began
from app.fleet.schema import declared, parse
from app.scheduler import night_plan as desired
from app.scheduler.night_plan import Actual, UpstreamTag
from app.scheduler.steps import keep_windows, post_night, tick_ledger
from jobs.access.acts import ACTS
from jobs.core.clock import isoformat
from jobs.core.errors import BadRequest
from jobs.core.model_name import ModelName
from jobs.core.progress import Reading
from jobs.ledger.job import Ending, JobState
from jobs.listing.dead_memory import known_jobs
from jobs.registry.mirror import mirrors
from jobs.store import keys
from jobs.weights.history import recall
from jobs.weights.prune_plan import plan
from jobs.weights.survey import Survey
from tests.support.models_directory import surveyed
from tests.support.stores import Store

FLEET = declared()
NAMES = [ModelName.parse(model.name) for model in FLEET.models]


def begin(store: Store, night: int = 0) -> datetime:
    """An hour after the night began, or one of the next nights."""
    began = night_began(FLEET.schedule.times, store.clock.now())
    return began + timedelta(days=night, hours=1)


def found(store: Store, *names: ModelName, night: int = 0) -> Actual:
    """These models are here, whole, and as they are upstream."""
    jobs, now = store.ledger().reader.jobs(), begin(store, night)
    models = tuple(surveyed(name, now) for name in names)
    memory = recall(store.facts, jobs)
    here = Survey(models, (), (), (), (), sum(model.size for model in models))
    pruning = plan(here, memory.weights_use(jobs), FLEET.retention(), now)
    upstream = {model.name.folded(): UpstreamTag(model.manifest) for model in models}
    return Actual(models, upstream, memory, pruning, jobs_of_night(FLEET.schedule.times, jobs, now))


def nightly(store: Store, actual: Actual, now: datetime) -> list[str]:
    """The jobs of this night."""
    return [each.id for each in post_night(store.ledger(), desired.night(FLEET, actual, now), store.facts, now)]


def pull(store: Store, subject: str, ending: Ending | None = None) -> str:
    ledger = store.ledger()
    id = ledger.post("pull", subject, {"model": subject}, by="test").job.id
    if ending is not None:
        claim = ledger.claim(id, worker="w", lease=timedelta(minutes=1))
        assert claim is not None
        ledger.end(claim, ending, Reading())
    return id


def test_a_night_begins_at_its_hour() -> None:
    """The night that a run belongs to began at the fleet's last nightly hour in its timezone, summer or winter."""
    for month, hour in ((1, 2), (7, 1)):  # 03:00 in Berlin
        late = datetime(2026, month, 15, 23, 30, tzinfo=UTC)
        assert night_began(FLEET.schedule.times, late) == datetime(2026, month, 15, hour, tzinfo=UTC)
        early = datetime(2026, month, 15, 0, 30, tzinfo=UTC)
        assert night_began(FLEET.schedule.times, early) == datetime(2026, month, 14, hour, tzinfo=UTC)


def test_a_night_begins_once_where_an_hour_comes_twice() -> None:
    """In the night in which clocks go back a run that is due in the doubled hour has begun, and stays begun."""
    document = read()
    document["schedule"]["nightly_hour"] = 2
    fleet = parse(document, "test")
    due = datetime(2026, 10, 25, 0, 0, tzinfo=UTC)  # 02:00, the first of the two
    moments = [due + timedelta(minutes=minutes) for minutes in (-1, 0, 35, 60, 90, 150)]
    assert [night_began(fleet.schedule.times, moment).astimezone(UTC) for moment in moments] == [
        due - timedelta(days=1),
        *[due] * 5,
    ]


def test_nightly_posts_what_should_be(store: Store) -> None:
    """Absent pinned models are pulled, those that are here verified and warmed, with the words of the plan."""
    here, absent = NAMES
    nightly(store, found(store, here), begin(store))

    posted = {(job.kind, job.subject) for job in store.ledger().reader.jobs()}
    assert posted == {("pull", str(absent.folded())), ("verify", str(here.folded())), ("warm", str(here.folded()))}
    acts = [fact for _, fact in store.facts.items(keys.AUDIT)]
    assert {(each["act"], each["subject"]) for each in acts} == posted
    assert {(each["who"], each["outcome"]) for each in acts} == {("nightly", "posted")}
    assert {each["act"] for each in acts} <= {act for act, recorded in ACTS.items() if "nightly" in recorded.by}


def test_nightly_twice_is_nightly_once(store: Store) -> None:
    """A second run of a night posts nothing, though everything of the first has ended and the models have come."""
    ledger = store.ledger()
    first = nightly(store, found(store), begin(store))
    for id in first:
        claim = ledger.claim(id, worker="w", lease=timedelta(minutes=1))
        assert claim is not None
        ledger.end(claim, Ending("succeeded", result={"way": "registry"}), Reading())

    assert first
    assert nightly(store, found(store, *NAMES), begin(store)) == []
    next_night = nightly(store, found(store, *NAMES, night=1), begin(store, 1))
    assert [ledger.reader.get(id).kind for id in next_night] == ["verify", "warm", "warm"]


def test_a_tick_sends_workers_where_work_is_due(store: Store) -> None:
    """A tick sends workers to the lanes that have due jobs, for no other, and once more does no harm."""
    sent_lanes: list[str] = []
    tick_ledger(store.ledger(), store.facts, store.clock, sent_lanes.append)
    assert sent_lanes == []
    id = pull(store, "m:latest")
    store.empty_queue()
    for _ in range(2):
        tick_ledger(store.ledger(), store.facts, store.clock, sent_lanes.append)
    assert sent_lanes == ["weights", "weights"]
    assert store.ledger().reader.get(id).state is JobState.QUEUED


def test_a_window_keeps_its_tier_awake(store: Store) -> None:
    """An open window keeps a container up and warms its models once; as it closes, the tier may sleep again."""
    document = read()
    document["windows"] = [{"tier": "a10g", "start": "0 8 * * *", "hours": 2, "models": ["llama3.2"]}]
    fleet = parse(document, "test")
    kept: list[tuple[str, int]] = []
    for hour in (6, 8, 9, 11, 12):
        now = datetime(2026, 1, 5, hour, 30, tzinfo=fleet.schedule.zone)
        keep_windows(store.ledger(), fleet, store.facts, now, lambda tier, least: kept.append((tier, least)))

    assert kept == [("a10g", 1), ("a10g", 1), ("a10g", 0)]
    [job] = store.ledger().reader.jobs()
    assert (job.kind, job.subject, job.request["tier"]) == ("warm", "llama3.2:latest", "a10g")
    acts = [fact for _, fact in sorted(store.facts.items(keys.AUDIT))]
    assert {each["who"] for each in acts} == {"window"}
    told = sorted((each["act"], each["subject"], each["job"]) for each in acts)
    assert told == [("warm", "llama3.2:latest", job.id), ("window-close", "a10g", ""), ("window-open", "a10g", "")]
    assert {each["act"] for each in acts} == {act for act, recorded in ACTS.items() if "window" in recorded.by}


def test_a_silent_server_is_marked_once(store: Store) -> None:
    """A server whose last report is too old is marked silent; one that ended, or reports, is left alone."""
    now = store.clock.now()
    for name, state, age in (("a", "serving", 30), ("b", "serving", 600), ("c", "ended", 600)):
        report = {"tier": "a10g", "container": name, "state": state, "at": isoformat(now - timedelta(seconds=age))}
        store.facts.put(f"server/a10g/{name}", report)

    ticks = [tick_ledger(store.ledger(), store.facts, store.clock, lambda _: None).silent for _ in range(2)]

    assert ticks == [("a10g/b",), ()]
    states = {name: store.facts.get(f"server/a10g/{name}")["state"] for name in "abc"}
    assert states == {"a": "serving", "b": "silent", "c": "ended"}
    pull(store, "m:latest")
    known = known_jobs(store.ledger().reader, now)
    shown = "\n".join(reports.status(store.facts, now, FLEET.tiers, deployed=True, known=known, of_night=()).lines())
    assert "a10g  b  silent 10 min 0 s ago: not heard of since" in shown
    assert "jobs     1 queued" in shown
    assert "night    no night has come yet" in shown


def test_a_model_goes_where_it_was_declared(store: Store) -> None:
    """A model is warmed on the tier that the fleet declares, one it does not name by its size on the volume."""
    store.facts.put(keys.WEIGHTS_MODELS, {"big:latest": {"size": 40_000_000_000, "facts": None}})
    places = [tier_of(ModelName.parse(name), FLEET, store.facts) for name in ("DeepSeek-R1:32b", "big", "unknown")]
    assert places == ["h100", "h100", None]


@pytest.mark.parametrize(
    ("text", "here"),
    [
        ("`ollama-modal retry abc-1`", "`modal run -m app.jobs::retry --id abc-1`"),
        ("`ollama-modal job abc-1 --follow`", "`modal run -m app.jobs::job --id abc-1 --follow`"),
        ("`ollama-modal job abc-1 --json` prints", "`modal run -m app.jobs::job --id abc-1 --json` prints"),
        ("pull it: `ollama-modal pull llama3.2:1b`", "pull it: `modal run -m app.jobs::pull --model llama3.2:1b`"),
        ("`ollama-modal jobs` lists them", "`modal run -m app.jobs::jobs` lists them"),
        ("`ollama-modal retry --all --class disk`", "`modal run -m app.jobs::retry --all --failure-class disk`"),
        ("on one machine with `ollama-modal up --fleet FILE`", "on one machine with `ollama-modal up --fleet FILE`"),
        ("`ollama-modal cost --url URL`", "`ollama-modal cost --url URL`"),
        ("`ollama-modal keys new NAME`", "`ollama-modal keys new NAME`"),
    ],
)
def test_hints_name_the_commands_of_the_place(text: str, here: str) -> None:
    """A hint that names a command of the one-machine stack names the one of the deployment instead."""
    assert worded(text) == here


def test_a_mirror_is_an_address() -> None:
    """A mirror stands for every registry; what is no address is refused with the variable's name."""
    assert mirrors({}) == {}
    assert mirrors({"OLLAMA_MODAL_REGISTRY": "http://cache:5000/"}) == {"*": "http://cache:5000"}
    with pytest.raises(BadRequest, match="OLLAMA_MODAL_REGISTRY 'cache:5000' is no address"):
        mirrors({"OLLAMA_MODAL_REGISTRY": "cache:5000"})
