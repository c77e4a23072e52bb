"""What would be done, told over HTTP: the same plan as where the weights are, and nothing is done for it."""

import threading
from functools import partial
from pathlib import Path
from typing import Any

import httpx
from starlette.testclient import TestClient

from app.gateway.auth.fair_shares import SoMany
from app.gateway.dashboard.plans import WAITING, PlanResponse, Plans, router
from app.gateway.ops.app import create
from jobs.core.errors import Refused
from jobs.core.retention import RetentionRules
from jobs.testing.clock import HandClock
from jobs.weights.history import Memory
from jobs.weights.prune_plan import PrunePlan, plan
from jobs.weights.survey import Survey
from tests.support.local_stack import Shell
from tests.support.ops_api import ADMIN_KEY, CHAT_KEY, ops_api, served
from tests.support.waiting import PATIENCE, until

NOTHING = Survey((), (), (), (), (), 0)


def pruning() -> PrunePlan:
    return plan(NOTHING, Memory().weights_use([]), RetentionRules(), HandClock().now())


def test_a_plan_is_told_in_its_shape(tmp_path: Path) -> None:
    """An administrator is told both plans, others are not; what was asked for reaches the plan, nonsense does not."""
    asked: list[dict[str, Any]] = []

    def prune(request: dict[str, Any]) -> PrunePlan:
        asked.append(request)
        return pruning()

    with ops_api(tmp_path) as somewhere:
        client = TestClient(create(somewhere.ops_context(), more=(router(Plans(pruning, prune), SoMany(1)),)))
        assert client.get("/ops/v1/plan").status_code == 401
        assert client.get("/ops/v1/plan", headers={"x-api-key": CHAT_KEY}).status_code == 403
        headers = {"x-api-key": ADMIN_KEY}
        for path in ("plan", "plan/prune?unused_days=30&empty_trash=true"):
            told = PlanResponse.model_validate(client.get(f"/ops/v1/{path}", headers=headers).json())
            assert (told.summary, told.plan) == (pruning().summary, pruning().as_json())
        assert client.get("/ops/v1/plan/prune?unused_days=-1", headers=headers).status_code == 422
    assert asked == [{"unused_days": 30.0, "empty_trash": True}]


def test_a_plan_for_nobody_keeps_no_place(tmp_path: Path) -> None:
    """Who leaves gives back his place; a plan that is begun is made to its end, and no other beside it."""
    may_end, begun = threading.Event(), list[str]()

    def slow() -> PrunePlan:
        begun.append("night")
        assert may_end.wait(PATIENCE)
        return pruning()

    def prune(_: dict[str, Any]) -> PrunePlan:
        begun.append("prune")
        return pruning()

    headers = {"x-api-key": ADMIN_KEY}
    with ops_api(tmp_path) as somewhere, httpx.Client(timeout=PATIENCE) as client:
        app = create(somewhere.ops_context(), more=(router(Plans(slow, prune), SoMany(1)),))
        with served(app) as url:

            def leaves(path: str) -> bool:
                try:
                    answer = client.get(f"{url}{path}", headers=headers, timeout=httpx.Timeout(PATIENCE, read=0.3))
                except httpx.ReadTimeout:  # he was let in, and waited
                    return True
                assert answer.status_code == 429
                return False

            for path in ["/ops/v1/plan", *["/ops/v1/plan/prune"] * WAITING]:
                until(partial(leaves, path), "room for another")
            until(partial(leaves, "/ops/v1/plan/prune"), "room for another")
            assert begun == ["night"]
            may_end.set()
            answer = until(lambda: _unless_full(client.get(f"{url}/ops/v1/plan", headers=headers, timeout=PATIENCE)))
            assert answer.json()["summary"] == pruning().summary
            assert begun[-1] == "night"


def _unless_full(answer: httpx.Response) -> httpx.Response | None:
    return None if answer.status_code == 429 else answer


def test_a_gateway_without_plans_says_so(tmp_path: Path) -> None:
    """Where no plan can be made the answer says why, and what to do."""

    def refuse() -> PrunePlan:
        raise Refused("no fleet file says what should be here", hint="`ollama-modal up --fleet FILE`")

    with ops_api(tmp_path) as somewhere:
        client = TestClient(create(somewhere.ops_context(), more=(router(Plans(night=refuse), SoMany(1)),)))
        headers = {"x-api-key": ADMIN_KEY}
        night, prune = (client.get(f"/ops/v1/{path}", headers=headers) for path in ("plan", "plan/prune"))
    assert (night.json()["error"], night.is_success) == ("no fleet file says what should be here", False)
    assert (prune.json()["error"], prune.is_success) == ("this gateway cannot tell what a prune would do", False)


def test_the_commands_ask_a_gateway_elsewhere(tmp_path: Path) -> None:
    """`plan --url` and `prune --dry-run --url` print the plan made there, as they print one made here."""
    with ops_api(tmp_path) as somewhere:
        app = create(somewhere.ops_context(), more=(router(Plans(pruning, lambda _: pruning()), SoMany(1)),))
        with served(app) as url:
            shell = Shell(tmp_path / "elsewhere", {"OLLAMA_MODAL_URL": url, "OLLAMA_MODAL_KEY": ADMIN_KEY})
            assert shell.ask("prune", "--dry-run") == pruning().as_json()
            assert shell.run("plan").stderr.endswith(f"{pruning().summary}\n")
