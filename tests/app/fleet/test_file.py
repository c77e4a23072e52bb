"""The fleet file: what ships is whole, and what is wrong is refused with key, value and remedy."""

import tomllib
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from cronsim import CronSim
from hypothesis import given
from hypothesis import strategies as st

from app.fleet.file import FLEET_FILE, BadFleet, Times, read
from app.fleet.gpus import KINDS, parsed
from app.fleet.schema import WindowConfig, declared, load, parse
from jobs.batches.limits import USUAL
from jobs.core.model_name import ModelName
from tests.support.checkout import ROOT
from tests.support.tiers import A10G, H100


def document() -> dict[str, Any]:
    return tomllib.loads(FLEET_FILE.read_text("utf-8"))


def refused(change: Callable[[dict[str, Any]], Any]) -> list[str]:
    """The problems that are told about the shipped file with one change made to it."""
    changed = document()
    change(changed)
    with pytest.raises(BadFleet) as raised:
        parse(changed, "fleet.toml")
    first, *problems = str(raised.value).splitlines()
    assert first == "fleet.toml is refused:"
    return [problem.strip() for problem in problems]


def test_shipped_file_serves_a_model_on_each_tier() -> None:
    """The file that ships serves llama3.2 on an A10G and deepseek-r1:32b on an H100, both asleep until asked."""
    fleet = declared()

    assert {(model.name, model.tier, model.pinned) for model in fleet.models} == {
        ("llama3.2", "a10g", True),
        ("deepseek-r1:32b", "h100", True),
    }
    assert {name: tier.gpu for name, tier in fleet.tiers.items()} == {"a10g": "A10", "h100": "H100"}
    assert all(tier.min_containers == 0 for tier in fleet.tiers.values())
    told = [(tier.name, tier.vram_bytes, tier.gpu_promised) for tier in fleet.catalog_tiers()]
    assert told == [(tier.name, tier.vram_bytes, tier.gpu_promised) for tier in (A10G, H100)]
    assert [(tier.context, tier.parallel, tier.cache_type) for tier in fleet.catalog_tiers()] == [
        (8192, 4, "q8_0"),
        (16384, 4, "q8_0"),
    ]
    assert [tier.dollars_per_hour for tier in fleet.catalog_tiers()] == [1.42, 4.84]
    assert fleet.declared_tier(ModelName.parse("LLAMA3.2:latest")) == "a10g"
    assert fleet.declared_tier(ModelName.parse("tiny")) is None


def test_times_are_lines_that_cron_reads() -> None:
    """Both schedules are cron lines in a timezone that exists, the same with and without the whole file checked."""
    times = declared().schedule.times

    assert times == Times.read()
    ZoneInfo(times.timezone)
    midnight = datetime(2026, 6, 1, tzinfo=UTC)
    assert next(CronSim(times.tick, midnight)).minute == 5
    assert next(CronSim(times.nightly, midnight)).hour == 3


def test_every_problem_is_told_at_once() -> None:
    """A file with several mistakes is refused once, with a line for each."""

    def change(fleet: dict[str, Any]) -> None:
        fleet["tiers"]["a10g"]["scaledown_window_seconds"] = 1
        fleet["tiers"]["h100"]["ollama"]["num_paralel"] = fleet["tiers"]["h100"]["ollama"].pop("num_parallel")
        fleet["schedule"]["timezone"] = "Mars/Olympus"

    assert refused(change) == [
        "tiers.a10g.scaledown_window_seconds = 1: too small; at least 2",
        "tiers.h100.ollama.num_parallel: is missing; add it",
        "tiers.h100.ollama.num_paralel = 4: there is no such key; `num_parallel` is there, is that meant?",
        "schedule.timezone = 'Mars/Olympus': no such timezone; a name as in Europe/Berlin, America/New_York or UTC",
    ]


def test_what_does_not_fit_is_told_beside_what_is_wrong() -> None:
    """Mistakes that only show beside other tables are told in the same go, as far as those are right; nothing is told
    of what nobody wrote."""

    def change(fleet: dict[str, Any]) -> None:
        fleet["tiers"]["h100"]["max_containers"] = 0
        fleet["models"][0]["pinned"] = "yes"
        fleet["models"] += [
            {"name": "qwen3", "tier": "l4"},
            {"name": "a b", "tier": "l4"},
            {"name": "QWEN3", "tier": "h100"},
        ]
        fleet["windows"] = [{"tier": "l4", "start": "never", "hours": 1, "models": ["m"]}]
        fleet["alerts"]["kinds"] = "job"
        del fleet["prices"]["gpu"]["A10"]

    told = refused(change)
    assert [problem.partition(" = ")[0].partition(":")[0] for problem in told] == [
        "tiers.h100.max_containers",
        "models[0].pinned",
        "models[3].name",
        "windows[0].start",
        "alerts.kinds",
        "models[2].tier",
        "models[4].name",
        "prices.gpu.A10",
    ]
    assert told[-2] == "models[4].name = 'QWEN3': is models[2] again; leave one of them out"


@pytest.mark.parametrize(
    "path", ["tiers", "tiers.a10g", "models", "models.0", "windows", "registries", "prices", "alerts", "volume"]
)
def test_a_table_of_the_wrong_kind_hides_no_other(path: str) -> None:
    """Whatever stands in a table's place, what is wrong there is told, and what is wrong elsewhere is, too."""

    def change(fleet: dict[str, Any]) -> None:
        setting("schedule.nightly_hour", 30)(fleet)
        setting(path, "nothing of use")(fleet)

    told = refused(change)

    assert "schedule.nightly_hour = 30: too large; at most 23" in told
    assert any(problem.startswith(path.replace(".0", "[0]")) for problem in told)


def setting(path: str, value: Any) -> Callable[[dict[str, Any]], None]:
    *tables, key = path.split(".")

    def change(fleet: dict[str, Any]) -> None:
        table: Any = fleet
        for name in tables:
            table = table[int(name) if name.isdecimal() else name]
        table[int(key) if key.isdecimal() else key] = value

    return change


@pytest.mark.parametrize(
    ("path", "value", "problem"),
    [
        ("tiers.a10g.gpu", "A9000", "tiers.a10g.gpu = 'A9000': no such GPU is known; one of T4, L4, A10,"),
        ("tiers.a10g.gpu", "two A10", "tiers.a10g.gpu = 'two A10': names no GPU; one of T4, L4, A10,"),
        ("tiers.a10g.gpu", "A10:0", "tiers.a10g.gpu = 'A10:0': a count is from 1 to 4, as in H100:2"),
        ("tiers.h100.gpu", "H100:9", "tiers.h100.gpu = 'H100:9': a count is from 1 to 8, as in H100:2"),
        ("tiers.h100.gpu", "H100:²", "tiers.h100.gpu = 'H100:²': a count is from 1 to 8"),
        ("tiers.h100.gpu", 100, 'tiers.h100.gpu = 100: no GPU; one as in "H100:2", or a list of them, the best one'),
        ("tiers.h100.gpu", [], "tiers.h100.gpu = []: is empty; at least one"),
        ("tiers.h100.gpu", ["H100", "h100"], "tiers.h100.gpu = ['H100', 'h100']: H100 stands there twice; leave one"),
        ("tiers.h100.gpu", ["H100", "A10:5"], "tiers.h100.gpu = ['H100', 'A10:5']: 'A10:5': a count is from 1 to 4"),
        ("tiers.h100.gpu", ["H100", "A10"], "tiers.h100.vram_gb = 80: A10 has 24; lower it, or leave it out"),
        ("tiers.a10g.vram_gb", 25, "tiers.a10g.vram_gb = 25: A10 has 24; lower it, or leave it out"),
        ("tiers.a10g.min_containers", "0", "tiers.a10g.min_containers = '0': not a whole number;"),
        ("tiers.a10g.min_containers", True, "tiers.a10g.min_containers = True: not a whole number;"),
        ("tiers.a10g.min_containers", 4, "tiers.a10g.min_containers = 4: is above max_containers; lower it"),
        ("tiers.a10g.scaledown_window_seconds", 3601, "tiers.a10g.scaledown_window_seconds = 3601: too large; at most"),
        ("tiers.a10g.exit_grace_seconds", 3601, "tiers.a10g.exit_grace_seconds = 3601: too large; at most 3600"),
        ("tiers.a10g.ollama.flash_attention", 1, "tiers.a10g.ollama.flash_attention = 1: neither true nor false;"),
        ("tiers.a10g.ollama.flash_attention", False, "tiers.a10g.ollama.kv_cache_type = 'q8_0': a quantised cache"),
        ("tiers.a10g.ollama.kv_cache_type", "q5", "tiers.a10g.ollama.kv_cache_type = 'q5': not one of the choices; '"),
        ("tiers.a10g.ollama", [], "tiers.a10g.ollama = []: not a table"),
        ("tiers", {}, "tiers = {}: is empty; at least one"),
        (
            "models.0.name",
            "a b",
            "models[0].name = 'a b': 'a b' is not a model name: bad model 'a b'; a name looks like",
        ),
        ("models.0.name", "DeepSeek-R1:32b", "models[1].name = 'deepseek-r1:32b': is models[0] again; leave one"),
        ("models.0.tier", "l4", "models[0].tier = 'l4': there is no such tier; one of a10g, h100"),
        ("tiers.a10g.ollama.max_loaded_models", 0, "tiers.a10g.ollama.max_loaded_models = 0: too small; at least 1"),
        ("volume.quota_gb", 0, "volume.quota_gb = 0: too small; at least 1"),
        ("schedule.tick_minutes", 7, "schedule.tick_minutes = 7: does not divide an hour; 1, 2,"),
        ("schedule.nightly_hour", 24, "schedule.nightly_hour = 24: too large; at most 23"),
        ("prices.as_of", "yesterday", "prices.as_of = 'yesterday': not a date; write it without quotes, as in"),
        ("prices.cpu_core", -1.0, "prices.cpu_core = -1.0: too small; at least 0"),
        ("prices.gpu", {"H100": 0.001}, "prices.gpu.A10: is missing, but tiers.a10g asks for that GPU; add it"),
        ("prices.gpu", {"A 9000": 1.0}, "prices.gpu.A 9000"),
        (
            "prices.gpu",
            {"H100:2": 1.0},
            "prices.gpu.H100:2 = 'H100:2': a price is that of one GPU; leave out its count",
        ),
        ("extras", {}, "extras = {}: there is no such key; remove it"),
        ("batch", {}, "batch = {}: there is no such key; `batches` is there, is that meant?"),
        ("batches", {"quota": 9}, "batches.quota = 9: there is no such key; `quota_gb` is there, is that meant?"),
        ("batches", {"start": "soon"}, "batches.start = 'soon': not one of the choices; 'now', 'awake', 'window' or"),
        ("batches", {"most_lines": 10**7}, "batches.most_lines = 10000000: too large; at most 1000000"),
        ("batches", {"most_file_mb": 2000}, "batches.most_file_mb = 2000: too large; at most 1024"),
        ("batches", {"keep_days": 0}, "batches.keep_days = 0: too small; at least 1"),
        ("batches", {"at_once": 0}, "batches.at_once = 0: too small; at least 1"),
    ],
)
def test_wrong_value_is_told_with_key_and_remedy(path: str, value: Any, problem: str) -> None:
    """A wrong value is told as `key = value: what is wrong; what would be right`."""
    [told] = refused(setting(path, value))

    assert told.startswith(problem)


def window(**changes: Any) -> Callable[[dict[str, Any]], None]:
    whole = {"tier": "a10g", "start": "0 8 * * 1-5", "hours": 10, "models": ["llama3.2"]} | changes
    return setting("windows", [whole])


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"start": "0 25 * * *"}, "windows[0].start = '0 25 * * *': no cron line ("),
        ({"start": "at eight"}, "windows[0].start = 'at eight': no cron line (Wrong number of fields); five fields,"),
        ({"models": []}, "windows[0].models = []: is empty; at least one"),
        ({"models": ["../x"]}, "windows[0].models[0] = '../x': '../x' is not a model name"),
        ({"tier": "l4"}, "windows[0].tier = 'l4': there is no such tier; one of a10g, h100"),
    ],
)
def test_wrong_window_is_refused(changes: dict[str, Any], problem: str) -> None:
    """A window that could never open, or would warm nothing, is refused."""
    [told] = refused(window(**changes))

    assert told.startswith(problem)


def test_more_warmed_than_fit_is_refused() -> None:
    """A tier cannot promise more models in memory than its server keeps loaded."""

    def change(fleet: dict[str, Any]) -> None:
        fleet["models"] += [{"name": f"m{n}", "tier": "a10g", "warmed": True} for n in range(2)]

    assert refused(change) == [
        "tiers.a10g.ollama.max_loaded_models = 2: 3 models are warmed there; at least 3, or warm fewer"
    ]


def test_window_is_open_for_its_hours_in_its_timezone() -> None:
    """A window opens at its start by the fleet's timezone, through a change of the clocks, and closes hours later."""
    changed = document()
    window(start="0 8 * * *", hours=10)(changed)
    fleet = parse(changed, "fleet.toml")

    def is_open(text: str) -> bool:
        return bool(fleet.windows_open(datetime.fromisoformat(text)))

    assert [is_open(f"2026-01-15T{hour}:00+00:00") for hour in ("06", "07", "16", "17")] == [False, True, True, False]
    assert [is_open(f"2026-07-15T{hour}:00+00:00") for hour in ("05", "06", "15", "16")] == [False, True, True, False]
    assert is_open("2026-01-15T16:59:59+00:00")


def test_price_of_a_tier_is_its_parts_added_up() -> None:
    """A container costs its GPUs, cores and memory for as long as it is up, by the file's prices."""
    fleet = declared()
    assert (fleet.dollars_per_hour("a10g"), fleet.dollars_per_hour("h100")) == (1.42, 4.84)
    changed = document()
    setting("tiers.a10g.gpu", "a10g:2")(changed)

    assert parse(changed, "fleet.toml").dollars_per_hour("a10g") == pytest.approx(1.42 + 1.10, abs=0.01)


def test_tier_without_a_gpu_promises_none() -> None:
    """A tier that leaves out its GPU is one without; naming only half of it is refused."""
    changed = document()
    del changed["tiers"]["a10g"]["gpu"]
    with pytest.raises(BadFleet, match=r"tiers.a10g.vram_gb = 24: there is no gpu; say which, or leave this out too"):
        parse(changed, "fleet.toml")
    del changed["tiers"]["a10g"]["vram_gb"]

    tier = parse(changed, "fleet.toml").catalog_tiers()[0]

    assert (tier.name, tier.vram_bytes, tier.gpu_promised) == ("a10g", None, False)


@pytest.mark.parametrize(
    ("name", "perhaps"),
    [
        *(("", ""), ("-", ""), ("A10G", "a10g"), ("../logs", "logs"), ("a b", "a-b"), ("x" * 33, "x" * 32)),
        *(("h100:2", "h100-2"), ("h100_2", "h100-2"), ("h100--2", "h100-2"), ("h100-", "h100")),
    ],
)
def test_tier_is_named_as_a_tier(name: str, perhaps: str) -> None:
    """A tier's name can stand in a file's name, a label and a header, or it is refused with what one looks like."""

    def change(fleet: dict[str, Any]) -> None:
        fleet["tiers"][name] = fleet["tiers"]["a10g"]

    [told] = refused(change)
    form = "names no tier; small letters and digits, perhaps with dashes between them, like l4 or h100-2"
    assert told == f"tiers.{name} = {name!r}: {form}{f'; perhaps {perhaps!r}' if perhaps else ''}"


def test_what_is_meant_for_a_tier_that_is_gone_is_refused() -> None:
    """A model and a window of a tier that was removed or renamed are refused, each with the tiers that there are."""

    def rename(fleet: dict[str, Any]) -> None:
        fleet["tiers"]["reasoning"] = fleet["tiers"].pop("h100")
        fleet["windows"] = [{"tier": "h100", "start": "0 8 * * *", "hours": 1, "models": ["llama3.2"]}]

    assert refused(rename) == [
        "models[1].tier = 'h100': there is no such tier; one of a10g, reasoning",
        "windows[0].tier = 'h100': there is no such tier; one of a10g, reasoning",
    ]
    with pytest.raises(BadFleet, match="there is no tier 'l4'; the fleet file declares a10g, h100"):
        declared().tier("l4")


@pytest.mark.parametrize("text", ["tiers = ", "\0", f"a = {'[' * 9_000}", f"a = {'9' * 9_000}", None])
def test_unreadable_file_is_refused(tmp_path: Path, text: str | None) -> None:
    """A file that is no TOML, or not there, is refused with its path."""
    path = tmp_path / "fleet.toml"
    if text is not None:
        path.write_text(text)

    for reading in (load, read, Times.read):
        with pytest.raises(BadFleet, match=str(path)):
            reading(path)


def test_a_number_that_cannot_be_written_out_is_refused() -> None:
    """A whole number of ten thousand digits, which TOML can say in fewer signs, is told without them."""
    [told] = refused(setting("volume.quota_gb", 1 << 40_000))
    assert told.startswith("volume.quota_gb = a number without end: ")


def test_file_without_times_is_refused_by_the_quick_reader(tmp_path: Path) -> None:
    """The reader that checks nothing else still says when the times are not there."""
    path = tmp_path / "fleet.toml"
    for text in ("", "schedule = 3", "[schedule]\ntick_minutes = 5"):
        path.write_text(text)
        with pytest.raises(BadFleet, match="schedule = "):
            Times.read(path)


@given(st.sampled_from(sorted(KINDS)), st.integers(1, 8))
def test_known_gpus_pass_with_a_count(gpu: str, count: int) -> None:
    """Every GPU on the list is taken, in either case, alone or with a count, and the shipped file prices it."""
    count = min(count, KINDS[gpu].most)
    for text in (gpu, gpu.lower(), f"{gpu}:{count}"):
        changed = document()
        setting("tiers.h100.gpu", text)(changed)
        del changed["tiers"]["h100"]["vram_gb"]
        fleet = parse(changed, "fleet.toml")
        assert fleet.tiers["h100"].gpu == text
        assert fleet.catalog_tiers()[1].vram_bytes == KINDS[gpu].memory_gb * parsed(text).count * 1_000_000_000
        assert fleet.dollars_per_hour("h100") > 0.8 * parsed(text).count * 0.59


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@given(st.sampled_from(["tiers", "models", "windows", "volume", "schedule", "new"]), _JSON)
def test_whatever_stands_there_is_taken_or_refused(key: str, value: Any) -> None:
    """Any value under any key gives a fleet, or a refusal that names the key."""
    try:
        parse(document() | {key: value}, "fleet.toml")
    except BadFleet as refusal:
        problems = str(refusal)
    else:
        return
    assert key in problems


@pytest.mark.parametrize(
    ("zone", "nights"),
    [("Europe/Berlin", [(10, 24), (10, 25), (3, 29)]), ("America/New_York", [(10, 31), (11, 1), (3, 8)])],
)
def test_a_window_lasts_as_long_in_every_night(zone: str, nights: list[tuple[int, int]]) -> None:
    """A window is open for its hours as they really pass, in the nights that lose or gain one as well."""
    window = WindowConfig(tier="h100", start="0 1 * * *", hours=4, models=["m"])
    for month, day in nights:
        start = datetime(2026, month, day, 1, tzinfo=ZoneInfo(zone)).astimezone(UTC)
        opened = [n for n in range(-4, 40) if window.is_open(start + timedelta(minutes=15 * n), ZoneInfo(zone))]
        assert opened == [*range(16)], (month, day)


@pytest.mark.parametrize(("zone", "begin"), [("Europe/Berlin", "2026-10-24"), ("America/New_York", "2026-10-31")])
@pytest.mark.parametrize("start", ["30 2 * * *", "30 1 * * *", "59 1 * * *", "0 2 * * 0"])
def test_a_window_in_an_hour_that_comes_twice_opens_once(zone: str, begin: str, start: str) -> None:
    """A window that starts in the hour that an autumn night repeats opens once that night, for as long as declared."""
    window = WindowConfig(tier="h100", start=start, hours=1, models=["m"])
    first = datetime.fromisoformat(begin).replace(hour=12, tzinfo=UTC)
    looks = [first + timedelta(minutes=5 * n) for n in range(24 * 12)]
    is_open = [window.is_open(at, ZoneInfo(zone)) for at in looks]
    assert [was for was, now in pairwise([False, *is_open]) if now and not was] == [False]
    assert is_open.count(True) == 12


def test_what_is_shown_of_batches_is_what_counts() -> None:
    """The table of batches in the documentation, and the one that the shipped file leaves out, say what counts where
    nothing is said."""
    shown = (ROOT / "app" / "README.md").read_text("utf-8").split("```toml\n[batches]")[1].split("```")[0]
    lines = FLEET_FILE.read_text("utf-8").split("# [batches]\n")[1].split("\n\n")[0].splitlines()
    for text in (shown, "\n".join(line.removeprefix("# ") for line in lines)):
        fleet = parse({**read(), "batches": tomllib.loads(text)}, "test")
        assert fleet.batches.limits == USUAL
        assert fleet.batches.model_fields_set == set(type(fleet.batches).model_fields)
    assert parse(read(), "test").batches.limits == USUAL
