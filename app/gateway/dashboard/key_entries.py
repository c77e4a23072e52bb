"""Keys as they come in and go out over HTTP."""

from datetime import datetime, timedelta
from typing import Annotated, Literal

from fastapi import Path
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, JsonValue, WithJsonSchema

from app.gateway.ops.schemas import Left
from jobs.access.keys.key_change import KeyChange
from jobs.access.keys.key_store import LONGEST_OVERLAP
from jobs.access.keys.key_words import SCOPES

OVERLAP = timedelta(days=1)
"""For so long old and new are good when nobody says how long."""

_KEY: dict[str, JsonValue] = {
    "name": "alice",
    "source": "ledger",
    "state": "active",
    "scopes": ["chat"],
    "models": ["llama*"],
    "limits": {"rpm": "60", "dollars": "5/month"},
    "expires": None,
    "proofs": [{"kind": "key", "fingerprint": "9f86d081", "until": None}],
    "version": 1,
    "made_by": "root",
    "made_at": "2026-09-15T08:00:00.000Z",
    "changed_by": "root",
    "changed_at": "2026-09-15T08:00:00.000Z",
    "revoked_by": "",
    "revoked_at": None,
}

NameText = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$", examples=["alice"])]
Name = Annotated[NameText, Path(description="The name of a key")]
Scopes = Annotated[
    list[Literal["chat", "admin"]], Field(max_length=len(SCOPES), description="All that it may; `chat` when left out")
]
Patterns = Annotated[
    list[
        Annotated[
            str,
            Field(min_length=1, max_length=200, pattern=r"^[A-Za-z0-9_.:*?\[\]!-]+(/[A-Za-z0-9_.:*?\[\]!-]+){0,2}$"),
        ]
    ],
    Field(max_length=64, description="Of models, like llama* or hf.co/*; none of them is every model"),
]
ExpiresText = Annotated[
    str,
    Field(max_length=64),
    WithJsonSchema(
        {
            "anyOf": [
                {"const": "never"},
                {"type": "string", "format": "date"},
                {"type": "string", "format": "date-time"},
            ],
            "examples": ["2027-01-31", "2027-01-31T18:00:00Z", "never"],
        }
    ),
]
HashText = Annotated[
    str,
    Field(pattern=r"^sha256:[0-9a-f]{64}$", description="Of a key that the caller made himself and keeps"),
]
PublicKeyText = Annotated[
    str,
    Field(
        max_length=400,
        description="Of whoever signs with it instead: the text of `id_ed25519.pub`",
        pattern=r"^(ssh-ed25519 )?AAAAC3NzaC1lZDI1NTE5AAAAI[A-P][A-Za-z0-9+/]{42}( [ -~]{0,200})?$",
    ),
]


def _documented(pattern: str) -> dict[str, JsonValue]:
    """A limit as text, empty to take it away. This is for the document; what counts is how limits are read."""
    return {"pattern": f"^({pattern})?$"}


Number = Annotated[str, Field(max_length=7, json_schema_extra=_documented("[1-9][0-9]{0,6}"))]
LargeNumber = Annotated[str, Field(max_length=9, json_schema_extra=_documented("[1-9][0-9]{0,8}"))]
BudgetText = Annotated[
    str,
    Field(
        max_length=64,
        description="An amount for a day or a month, like 5/month; both by a comma",
        json_schema_extra=_documented("[1-9][0-9]{0,6}([.][0-9]{1,2})?/(day|month)"),
    ),
]
TierNames = Annotated[
    str,
    Field(
        max_length=1_000,
        description="By commas",
        json_schema_extra=_documented("[a-z0-9][a-z0-9-]{0,20}(,[a-z0-9][a-z0-9-]{0,20}){0,4}"),
    ),
]
Switch = Literal["yes", "no", ""]


class LimitsBody(BaseModel):
    """What a key may take. What is left out stays as it is, and what is empty is taken away."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"rpm": "60", "dollars": "5/month"}]})

    rpm: Number | Left = None
    tpm: LargeNumber | Left = None
    concurrent: Number | Left = None
    requests: BudgetText | Left = None
    tokens: BudgetText | Left = None
    gpu_seconds: BudgetText | Left = None
    dollars: BudgetText | Left = None
    tiers: TierNames | Left = None
    wake: Switch | Left = None
    hold: Switch | Left = None


class KeySettingsBody(BaseModel):
    """What a key may. What is left out stays as it is."""

    model_config = ConfigDict(extra="forbid")

    scopes: Scopes | Left = None
    models: Patterns | Left = None
    limits: LimitsBody | Left = None
    expires: ExpiresText | Left = None

    def change(self, now: datetime) -> KeyChange:
        """What is to be changed.

        Raises:
            BadRequest: a word says nothing.
            KeyConflict: a moment is over.

        """
        limits = self.limits.model_dump(exclude_none=True) if self.limits else None
        return KeyChange.read(now, scopes=self.scopes, models=self.models, limits=limits, expires=self.expires)


class NewKeyBody(KeySettingsBody):
    """A key to be made, with one proof or none: then the gateway makes the key itself, and tells it once."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"name": "alice", "scopes": ["chat"]}]})

    name: NameText
    hash: HashText | Left = None
    public_key: PublicKeyText | Left = None


class RotateBody(BaseModel):
    """How a key is replaced by another one."""

    model_config = ConfigDict(extra="forbid")

    overlap_seconds: Annotated[
        int,
        Field(ge=0, le=int(LONGEST_OVERLAP.total_seconds()), description="For so long the old one is good as well"),
    ] = int(OVERLAP.total_seconds())
    hash: HashText | Left = None
    public_key: PublicKeyText | Left = None


class ProofEntry(BaseModel):
    kind: Literal["key", "ssh-ed25519"]
    fingerprint: Annotated[str, Field(description="Tells it from others; nothing can be tried out by it")]
    until: Annotated[AwareDatetime | None, Field(description="When it ends, where another one has taken its place")]


class KeyEntry(BaseModel):
    """A key, without what proves it."""

    model_config = ConfigDict(json_schema_extra={"examples": [_KEY]})

    name: str
    source: Annotated[Literal["ledger", "lines"], Field(description="Where it is kept, and so where it is changed")]
    state: Literal["active", "expired", "revoked"]
    scopes: list[str]
    models: list[str]
    limits: dict[str, str]
    expires: AwareDatetime | None
    proofs: list[ProofEntry]
    version: Annotated[int, Field(description="Grows with each change; 0 where it stands on a line")]
    made_by: str
    made_at: AwareDatetime | None
    changed_by: str
    changed_at: AwareDatetime | None
    revoked_by: str
    revoked_at: AwareDatetime | None


class KeysResponse(BaseModel):
    keys: list[KeyEntry]
    problems: Annotated[list[str], Field(description="What is wrong with the keys, in lines for people")]


class MadeKeyResponse(BaseModel):
    """A key that was made. The gateway keeps its hash alone, so it is told this once."""

    key: Annotated[str | None, Field(description="The key itself; null where the caller made it, or signs")]
    entry: KeyEntry
