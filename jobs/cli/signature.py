"""Gives a function its parameters at run time: typer, `modal run` and FastAPI read them from its signature."""

import inspect
from collections.abc import Callable, Iterable
from typing import TypeVar

T = TypeVar("T")


def parameter(name: str, annotation: object, default: object = inspect.Parameter.empty) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def with_signature(
    work: Callable[..., T], name: str, doc: str, parameters: Iterable[inspect.Parameter]
) -> Callable[..., T]:
    """`work` as a function of that name with these parameters, as if it had been written so."""
    signature = inspect.Signature(list(parameters))
    work.__name__ = work.__qualname__ = name
    work.__doc__ = doc
    work.__annotations__ = {each.name: each.annotation for each in signature.parameters.values()}
    work.__signature__ = signature  # type: ignore[attr-defined] # what inspect looks at first, and the types do not know
    return work
