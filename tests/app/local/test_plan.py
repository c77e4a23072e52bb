"""What `up` starts: a server of each tier, by the fleet file or by name."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from app.fleet.file import read
from app.fleet.schema import Fleet, parse
from app.gateway.cross_origin import allowed_origins
from app.local.plan import StackPlan
from jobs.core.retention import RetentionRules
from jobs.registry.allowlist import ANYWHERE

GB = 1_000_000_000


def fleet(**gpus: Any) -> Fleet:
    document = read()
    usual = {key: value for key, value in document["tiers"]["a10g"].items() if key not in {"gpu", "vram_gb"}}
    document["tiers"] = {name.replace("_", "-"): {**usual, "gpu": gpu} for name, gpu in gpus.items()}
    document["models"] = []
    return parse(document, "fleet.toml")


def plan(found: Fleet | None, tiers: Sequence[str] = ()) -> StackPlan:
    return StackPlan(
        simulate=True,
        tiers=tuple(tiers),
        models=None,
        host="127.0.0.1",
        port=0,
        registries=ANYWHERE,
        origins=allowed_origins({}, found),
        retention=RetentionRules(),
        rate_limit=None,
        concurrency=1,
        fleet=found,
        fleet_file=Path("fleet.toml") if found else None,
    )


def told(asked: StackPlan) -> dict[str, tuple[int | None, int]]:
    """The tiers that a server is started of: their memory and their GPUs."""
    return {each.name: (each.vram_bytes, each.gpus) for each in asked.capacities({})}


def test_each_declared_tier_has_a_server() -> None:
    """Whatever they are called and have: models are placed among them as they would be where they are rented."""
    found = fleet(l4="L4", l40s="L40S", h100_2="H100:2", either=["H100", "A100-40GB"])
    expected = {"l4": (24 * GB, 1), "l40s": (48 * GB, 1), "h100-2": (160 * GB, 2), "either": (40 * GB, 1)}

    assert told(plan(found)) == expected
    assert told(plan(found, ["either"])) == {"either": (40 * GB, 1)}


def test_a_tier_that_is_named_after_gpus_has_their_memory() -> None:
    """`--tier` alone: the name tells the GPUs, another one has no known limit, and nobody promised a GPU."""
    asked = plan(None, ["a10g", "h100-2", "mine"])

    assert told(asked) == {"a10g": (24 * GB, 1), "h100-2": (160 * GB, 2), "mine": (None, 1)}
    assert not any(each.gpu_promised for each in asked.capacities({}))
