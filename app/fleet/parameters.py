"""Parameters of a model that the fleet file may set: Ollama's options of sampling, by their names and with their types.

Options that decide where and how a model is loaded are not among them: its context is `context`, the rest its tier's.
"""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

_Share = Annotated[float, Field(ge=0, le=1)]
_Penalty = Annotated[float, Field(ge=-2, le=2)]


class ParametersConfig(BaseModel):
    """What a request gets that does not say it (ollama api/types.go, Options)."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: _Share | None = None
    top_k: Annotated[int, Field(ge=0, le=1_000_000)] | None = None
    min_p: _Share | None = None
    typical_p: _Share | None = None
    seed: Annotated[int, Field(ge=-(2**31), lt=2**31)] | None = None
    stop: Annotated[list[Annotated[str, Field(min_length=1)]], Field(min_length=1, max_length=16)] | None = None
    num_predict: Annotated[int, Field(ge=-1, le=1_048_576)] | None = None
    """Tokens of an answer; -1 is without end."""
    repeat_penalty: Annotated[float, Field(ge=0, le=10)] | None = None
    repeat_last_n: Annotated[int, Field(ge=-1, le=1_048_576)] | None = None
    presence_penalty: _Penalty | None = None
    frequency_penalty: _Penalty | None = None

    @model_validator(mode="before")
    @classmethod
    def _is_not_of_a_load(cls, table: Any) -> Any:
        if isinstance(table, dict) and "num_ctx" in table:
            raise PydanticCustomError("beside", "is the model's `context`; say it there", {"key": "num_ctx"})
        return table

    def options(self) -> dict[str, Any]:
        """Those that are set, as Ollama's options."""
        return self.model_dump(exclude_none=True)
