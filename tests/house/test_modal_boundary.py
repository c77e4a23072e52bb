"""Modal is called in one place. What is called elsewhere has no limit to its wait, and raises what nobody expects."""

import ast

from tests.support.checkout import ROOT

APP = ROOT / "app"

CALLS = {"spawn", "remote", "hydrate", "get_url", "rates", "starmap", "get_many", "put_many"}
"""What nothing but Modal's own objects has."""

NAMED_IN = {"resources.py", "functions_with_secrets.py", "endpoint_v2.py"}
"""Where Modal's objects are named, to be mounted, declared, or wrapped at once."""


def test_modal_is_called_at_the_boundary_only() -> None:
    """No file of `app` outside `app/platform/` asks Modal for anything; names are given out by `resources.py`."""
    found = []
    for path in sorted(APP.rglob("*.py")):
        if path.parent == APP / "platform":
            continue
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            said = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
            name = said.rpartition(".")[2]
            is_ours = said.startswith("deployment.")
            if (name in CALLS and not is_ours) or (name == "from_name" and path.name not in NAMED_IN):
                found.append(f"{path.relative_to(APP)}: {said}")
    assert found == []
