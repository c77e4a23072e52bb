"""The simulated model's answers by schema, held to a validator that others keep."""

import json
from typing import Annotated, Any, Literal

import jsonschema_rs
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import AwareDatetime, BaseModel, Field

from jobs.testing.ollama.json_schema import SIMULATED, instance


class Tree(BaseModel):
    """A type that holds itself."""

    name: str
    children: list["Tree"] = []


class Card(BaseModel):
    number: Annotated[str, Field(min_length=12, max_length=19)]
    kind: Literal["debit", "credit"]


class Order(BaseModel):
    """What a program might ask a model to fill in."""

    id: int
    placed: AwareDatetime
    total: Annotated[float, Field(gt=0, lt=0.5)]
    paid_by: Card | None
    lines: Annotated[list[dict[str, int]], Field(min_length=2)]
    first: tuple[int, str]
    note: str | None = None
    root: Tree


SCHEMAS: list[dict[str, Any]] = [
    Tree.model_json_schema(),
    Order.model_json_schema(),
    {},
    {"type": "object"},
    {"type": ["null", "integer"], "minimum": 3},
    {"type": "integer", "minimum": 7, "multipleOf": 5},
    {"type": "integer", "exclusiveMinimum": 7},
    {"type": "integer", "exclusiveMaximum": -7},
    {"type": "number", "maximum": -0.5},
    {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 0.1},
    {"type": "string", "minLength": 40},
    {"type": "string", "maxLength": 3},
    {"type": "string", "pattern": "^[a-z]+$"},
    {"type": "string", "pattern": r"^\d{5}$"},
    {"type": "string", "format": "uuid"},
    {"type": "array", "items": {"type": "string"}, "minItems": 3, "uniqueItems": True},
    {"type": "array", "items": {"enum": ["a", "b", "c"]}, "minItems": 2, "uniqueItems": True},
    {"type": "array", "items": {"type": "string"}, "maxItems": 0},
    {"prefixItems": [{"type": "integer"}, {"type": "boolean"}]},
    {"enum": [3, "x"]},
    {"const": {"a": 1}},
    {"oneOf": [{"type": "null"}, {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]}]},
    {"allOf": [{"properties": {"a": {"type": "string"}}}, {"properties": {"b": {"type": "null"}}, "required": ["b"]}]},
    {"type": "object", "additionalProperties": {"type": "integer"}, "minProperties": 2},
    {"type": "object", "required": ["undescribed"]},
    {"$ref": "#/definitions/x~1y", "definitions": {"x/y": {"type": "integer"}}},
    {"$ref": "#/$defs/self", "$defs": {"self": {
        "type": "object", "properties": {"next": {"anyOf": [{"$ref": "#/$defs/self"}, {"type": "null"}]}},
        "required": ["next"]}}},
]  # fmt: skip


@pytest.mark.parametrize("schema", SCHEMAS, ids=lambda schema: json.dumps(schema)[:50])
def test_an_instance_is_valid(schema: dict[str, Any]) -> None:
    """Whatever a client library makes of its types, the answer fits them, and is small."""
    made = instance(schema)

    jsonschema_rs.validator_for(schema, validate_formats=True).validate(made)
    assert len(json.dumps(made)) < 5_000


def test_a_text_says_what_it_is() -> None:
    """What nothing constrains says that it is simulated."""
    assert instance({"type": "object", "properties": {"answer": {"type": "string"}}}) == {"answer": SIMULATED}


def test_what_optional_means_is_made_as_well() -> None:
    """Properties that may be left out are there, so that whoever reads the answer sees all of its shape."""
    assert Order.model_validate(instance(Order.model_json_schema())).note is not None


LEAVES = st.sampled_from(
    [{"type": "string"}, {"type": "integer", "minimum": 2}, {"type": "boolean"}, {"type": "null"}, {"enum": ["a"]}]
)
ANY_SCHEMA = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.builds(lambda each: {"type": "array", "items": each, "minItems": 1}, inner),
        st.builds(lambda each: {"anyOf": [{"type": "null"}, each]}, inner),
        st.builds(
            lambda each: {"type": "object", "properties": each, "required": sorted(each)},
            st.dictionaries(st.text(max_size=5), inner, max_size=3),
        ),
    ),
    max_leaves=12,
)


@given(ANY_SCHEMA)
def test_instances_of_invented_schemas_are_valid(schema: dict[str, Any]) -> None:
    """Objects, lists and unions in any nesting."""
    jsonschema_rs.validator_for(schema).validate(instance(schema))
