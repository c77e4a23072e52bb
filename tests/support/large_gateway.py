"""A gateway of the size that a large house has: hundreds of models with other names, dozens of keys and containers."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from app.fleet.schema import load
from app.gateway.batches.parts import BatchParts
from app.model_server.report import Loaded, Report
from jobs.access.keys.proofs import hash_of
from jobs.batches.files.storage import BatchStorage
from jobs.batches.records import BatchDialect, BatchEnd, BatchRecord, BatchState, LineCounts
from jobs.core.clock import SystemClock, isoformat
from jobs.core.model_name import ModelName
from jobs.models.aliases import as_made
from jobs.models.card import Card, KnownModel
from jobs.models.gguf import GgufHeader, Tensor
from jobs.store import keys
from jobs.telemetry.usage import UsageRecorder, Use
from tests.support.dialects import whole_answer
from tests.support.gateways import ModelList, RunningGateway, gateway
from tests.support.many_jobs import JobHistory, history
from tests.support.scripted_server import ScriptedServer

TIERS = ("a10g", "h100")
TENSORS = 300
CHAT_KEY, ADMIN_KEY, NARROW_KEY = "omk_chat", "omk_admin", "omk_narrow"

HEADER = GgufHeader(
    3,
    {
        "general.architecture": "llama",
        "general.license": "llama3.2",
        "llama.block_count": 28,
        "llama.context_length": 131_072,
        "llama.embedding_length": 3_072,
        "llama.attention.head_count": 24,
        "llama.attention.head_count_kv": 8,
        "llama.attention.key_length": 128,
        "llama.attention.value_length": 128,
        **{f"llama.some.value_{number}": number for number in range(20)},
    },
    tuple(Tensor(f"blk.{number // 9}.attn_{number % 9}.weight", 12, (3072, 8192)) for number in range(TENSORS)),
    3_212_749_888,
)


@dataclass(frozen=True)
class Size:
    """How many of each there are."""

    models: int = 500
    keys: int = 50
    containers: int = 50


def name(number: int) -> str:
    return f"model-{number:04d}:q4"


def _model(number: int, now: datetime) -> KnownModel:
    card = Card(
        {"model_family": "llama"},
        HEADER,
        f"/models/blobs/sha256-{number:064x}",
        licenses=("Permission is hereby granted, free of charge, to any person. " * 120,),
        template="{{ if .System }}{{ .System }}{{ end }}{{ .Prompt }}",
        options={"stop": ["<|eot|>", "<|end|>"], "temperature": 0.7},
    )
    details = {
        "parent_model": "",
        "format": "gguf",
        "family": "llama",
        "families": ["llama"],
        "parameter_size": "3.2B",
        "quantization_level": "Q4_K_M",
        "context_length": 131_072,
        "embedding_length": 3_072,
    }
    came = now - timedelta(hours=number)
    blobs = {f"sha256:{number:060x}{layer:04x}": 1_000_000_000 + layer for layer in range(4)}
    abilities = ("completion", "tools")
    return KnownModel(
        ModelName.parse(name(number)), f"{number:064x}", 2_000_000_000, came, details, abilities, card, blobs
    )


def _reports(size: Size, now: datetime) -> Iterator[Report]:
    for number in range(size.containers):
        loaded = tuple(
            Loaded(name(which % size.models), 2_000_000_000, 2_000_000_000, 8192, "", now + timedelta(minutes=5))
            for which in range(3 * number, 3 * number + 3)
        )
        names = tuple(name(which) for which in range(size.models))
        tier = TIERS[number % len(TIERS)]
        yield Report(tier, f"c{number}", "serving", now, started_at=now - timedelta(minutes=9), version="0.32.15",
                     models=names, loaded=loaded, served=number, in_flight=0, dollars_per_hour=1.42)  # fmt: skip


def key_lines(count: int) -> str:
    """Keys of a house: one for chat, one that may change things, one that is for some models, and the others."""
    lines = [
        f"chat {hash_of(CHAT_KEY)} chat",
        f"admin {hash_of(ADMIN_KEY)} admin",
        f"narrow {hash_of(NARROW_KEY)} chat models=other*,hf.co/*/*,model-*",
    ]
    lines += [
        f"team-{number} {hash_of(f'omk_{number}')} chat models=model-{number % 10}*" for number in range(count - 3)
    ]
    return "\n".join(lines)


def _recorded(past: JobHistory, size: Size, now: datetime) -> None:
    """What such a house has written down: reports, made aliases, some days of usage, jobs."""
    for report in _reports(size, now):
        past.facts.put(report.key, report.as_json())
    made = {
        f"made-{n}:latest": as_made(ModelName.parse(name(n)), "admin", isoformat(now)) for n in range(size.models // 2)
    }
    past.facts.put(keys.ALIASES, made)
    recorder = UsageRecorder(past.facts, SystemClock(), "earlier")
    for number in range(size.models):
        for day in range(2):
            at = now - timedelta(days=day, minutes=number)
            recorder.add(
                Use(at, name(number), f"team-{number % size.keys}", TIERS[number % 2], "success", 100, 20, 0.1, 1.0)
            )
    recorder.flush()
    for number in range(size.models // 2):
        past.succeeded("pull", f"model-{number:04d}")
    for number in range(size.keys):
        past.failed("pull", f"lost-{number}", "network", "the registry did not answer within 30 s")


BATCH = f"batch_{0:024x}"
"""One of the batches that there are."""


def _batches(past: JobHistory, storage: BatchStorage, size: Size, now: datetime) -> None:
    """A batch of either dialect for every fifth model, all of them over, and some files."""
    for number in range(size.models // 5):
        dialect: BatchDialect = "anthropic" if number % 2 else "openai"
        id = f"{'msgbatch' if number % 2 else 'batch'}_{number:024x}"
        at = now - timedelta(minutes=number)
        record = BatchRecord(id, dialect, "chat", "file-x", "/v1/messages", "24h", at, at + timedelta(days=1))
        state = BatchState("completed", "test", at, LineCounts(9, 9, 0))
        past.facts.put(keys.batch(id), record.as_json())
        past.facts.put(keys.batch_end(id), BatchEnd("completed", at, state).as_json())
    for number in range(size.keys):
        storage.save("chat", f"lines-{number}.jsonl", [b"{}"])


def models_of(size: Size) -> ModelList:
    now = datetime.now(UTC)
    return ModelList([_model(number, now) for number in range(size.models)])


@contextmanager
def large_gateway(
    folder: Path,
    size: Size,
    *,
    source: ModelList | None = None,
    new_loop: Callable[[], asyncio.AbstractEventLoop] | None = None,
) -> Iterator[RunningGateway]:
    """A gateway of this size, in front of a server that answers chats at once."""
    now = datetime.now(UTC)
    with history(folder / "gateway.sqlite", now - timedelta(hours=5)) as past:
        _recorded(past, size, now)
        storage = BatchStorage(folder / "batches", SystemClock())
        _batches(past, storage, size, now)
    declared = {f"other-{number}": name(number) for number in range(size.models // 5)}
    with ScriptedServer(whole_answer) as server:
        tiers = [replace(tier, cache_type="q8_0") for tier in load().catalog_tiers()]
        with gateway(
            folder,
            dict.fromkeys(TIERS, server.url),
            keys=key_lines(size.keys),
            source=source or models_of(size),
            tiers=tiers,
            batches=BatchParts(storage),
            fleet=load(),
            most_containers=size.containers,
            aliases={**declared, "gpt-*": name(0)},
            new_loop=new_loop,
        ) as running:
            running.composed.prepare()
            yield running
