"""Aliases and what is set for a model, in the fleet file: what may stand there, and how the rest is refused."""

import re
import tomllib
from typing import Any

import pytest

from app.fleet.file import FLEET_FILE
from app.fleet.schema import Fleet, parse
from jobs.core.model_name import ModelName
from jobs.models.model_settings import UNSET, ModelSettings
from tests.app.fleet.test_file import document, refused
from tests.support.checkout import ROOT


def declaring(**tables: Any) -> Fleet:
    return parse({**document(), **tables}, "fleet.toml")


def test_a_model_has_what_is_set_for_it() -> None:
    """Context, parameters and system prompt are found by the model's name in any case; others have nothing."""
    model = {
        "name": "qwen3:30b",
        "tier": "h100",
        "context": 32768,
        "parameters": {"temperature": 0.6, "top_k": 20, "stop": ["</s>"]},
        "system": "Be brief.",
    }
    fleet = declaring(models=[model])

    wanted = ModelSettings(32768, {"temperature": 0.6, "top_k": 20, "stop": ["</s>"]}, "Be brief.")
    assert fleet.settings_of(ModelName.parse("QWEN3:30b")) == wanted
    assert fleet.settings_of(ModelName.parse("tiny")) == UNSET


def test_the_shipped_file_sets_nothing() -> None:
    """The file that ships has examples in comments alone."""
    fleet = parse(document(), "fleet.toml")

    assert (fleet.aliases, [model.settings for model in fleet.models]) == ({}, [UNSET, UNSET])


def _examples() -> list[str]:
    """The tables that documents show: those of app/README.md, and those that the fleet file has in comments."""
    shown = re.findall(r"```toml\n(.*?)```", (ROOT / "app/README.md").read_text("utf-8"), re.DOTALL)
    lines = FLEET_FILE.read_text("utf-8").splitlines()
    begin = next(index for index, line in enumerate(lines) if line.startswith("# context = "))
    told = [line.removeprefix("#").strip() for line in lines[begin : lines.index("[volume]")]]
    settings = "\n".join(line for line in told if re.match(r"(context|parameters|system) = ", line))
    aliases = "\n".join(told[told.index("[aliases]") :])
    return [
        *(each for each in shown if "[aliases]" in each or "[[models]]" in each),
        f'[[models]]\nname = "qwen3:30b"\ntier = "h100"\n{settings}\n{aliases}',
    ]


@pytest.mark.parametrize("example", _examples())
def test_what_documents_show_is_taken(example: str) -> None:
    """Each example of an alias and of what is set for a model is one that a fleet file may have."""
    tables = tomllib.loads(example)
    fleet = declaring(**tables)

    assert fleet.aliases == tables.get("aliases", {})
    for model in tables.get("models", ()):
        settings = fleet.settings_of(ModelName.parse(model["name"]))
        assert (settings.context, settings.parameters, settings.system) == (
            model["context"],
            model["parameters"],
            model["system"],
        )


def test_prune_keeps_what_an_alias_stands_for() -> None:
    """A model behind an alias is kept as a pinned one is, and the reason names the alias."""
    kept = declaring(aliases={"gpt-4o": "Qwen3:30b", "claude-*": "llama3.2"}).retention().kept

    assert kept[ModelName.parse("qwen3:30b")] == "the fleet's alias 'gpt-4o' stands for it"
    assert kept[ModelName.parse("llama3.2")] == "the fleet pins it"


@pytest.mark.parametrize(
    ("aliases", "problems"),
    [
        ({"*": "tiny"}, ["aliases.* = '*': '*' is no alias; a name like gpt-4o, or a pattern like claude-*,"]),
        ({"a b": "tiny"}, ["aliases.a b = 'a b': 'a b' is not a model name: bad model 'a b';"]),
        ({"a": "t b"}, ["aliases.a = 't b': 't b' is not a model name: bad model 't b';"]),
        ({"a": 3}, ["aliases.a = 3: not a text; put it in quotes"]),
        ({"a": "a"}, ["aliases.'a' = 'a': stands for itself; name a model"]),
        ({"a": "b", "b": "tiny"}, ["aliases.'a' = 'b': is an alias itself; say its model, 'tiny:latest'"]),
        (
            {"a": "b", "b": "a"},
            ["aliases.'a' = 'b': is an alias itself; say", "aliases.'b' = 'a': is an alias itself; say"],
        ),
        (
            {"a": "tiny", "A:latest": "tiny"},
            ["aliases.'A:latest' = 'tiny': is aliases.'a' again; leave one of them out"],
        ),
        ({"c-*": "tiny", "C-*": "x"}, ["aliases.'C-*' = 'x': is aliases.'c-*' again; leave one of them out"]),
        (
            {"Llama3.2:latest": "tiny"},
            ["aliases.'Llama3.2:latest' = 'tiny': models[0] has that name, and a model is never an alias; leave one"],
        ),
    ],
)
def test_aliases_that_mean_nothing(aliases: dict[str, Any], problems: list[str]) -> None:
    """Chains, circles, doubles and names of declared models are refused, each with a line."""
    told = refused(lambda fleet: fleet.update(aliases=aliases))

    assert len(told) == len(problems)
    assert all(line.startswith(problem) for line, problem in zip(told, problems, strict=True))


@pytest.mark.parametrize(
    ("setting", "problem"),
    [
        ({"context": 100}, "models[0].context = 100: too small; at least 512"),
        ({"system": ""}, "models[0].system = '': is empty; say it"),
        ({"parameters": {"num_ctx": 8}}, "models[0].parameters.num_ctx = 8: is the model's `context`; say it there"),
        ({"parameters": {"num_gpu": 8}}, "models[0].parameters.num_gpu = 8: there is no such key; remove it or mend"),
        ({"parameters": {"top_k": 1.5}}, "models[0].parameters.top_k = 1.5: not a whole number; write it without"),
        (
            {"parameters": {"temperature": "1"}},
            "models[0].parameters.temperature = '1': not a number; write it without",
        ),
        ({"parameters": {"top_p": 2.0}}, "models[0].parameters.top_p = 2.0: too large; at most 1"),
        ({"parameters": {"stop": "x"}}, "models[0].parameters.stop = 'x': not a list; put it in brackets"),
        ({"parameters": []}, "models[0].parameters = []: not a table"),
    ],
)
def test_settings_that_mean_nothing(setting: dict[str, Any], problem: str) -> None:
    """Names and types are those of Ollama's options; each that is not is refused with what would be right."""
    (told,) = refused(lambda fleet: fleet["models"][0].update(setting))

    assert told.startswith(problem)
