"""The workspace itself: its name, its proxy tokens, and what it is charged. Without rates it refuses to tell them."""

from google.protobuf.empty_pb2 import Empty
from grpclib import GRPCError, Status
from modal_proto import api_pb2


class Workspace:
    def __init__(self) -> None:
        #: Dollars per hour, by Modal's names for what is rented.
        self.rates: dict[str, str] = {}
        #: Which environments each proxy token opens, by its id.
        self.proxy_tokens: dict[str, set[str]] = {}

    async def workspace_name_lookup(self, _: Empty) -> api_pb2.WorkspaceNameLookupResponse:
        return api_pb2.WorkspaceNameLookupResponse(username="tests")

    async def workspace_billing_rates(
        self, _: api_pb2.WorkspaceBillingRatesRequest
    ) -> api_pb2.WorkspaceBillingRatesResponse:
        if not self.rates:
            raise GRPCError(Status.PERMISSION_DENIED, "this token may not see the workspace's billing")
        return api_pb2.WorkspaceBillingRatesResponse(rates=self.rates)

    async def webhook_token_create(self, _: api_pb2.WebhookTokenCreateRequest) -> api_pb2.TokenCreateResponse:
        number = len(self.proxy_tokens) + 1
        self.proxy_tokens[f"wk-made{number}"] = set()
        return api_pb2.TokenCreateResponse(token_id=f"wk-made{number}", token_secret=f"ws-made{number}")

    async def webhook_token_environment_add(self, request: api_pb2.WebhookTokenEnvironmentAddRequest) -> Empty:
        if request.token_id not in self.proxy_tokens:
            raise GRPCError(Status.NOT_FOUND, f"Proxy token {request.token_id!r} not found")
        self.proxy_tokens[request.token_id].add(request.environment_id)
        return Empty()
