"""The workspace itself: its name, and what it is charged. Without rates it refuses to tell them."""

from google.protobuf.empty_pb2 import Empty
from grpclib import GRPCError, Status
from modal_proto import api_pb2


class Workspace:
    def __init__(self) -> None:
        #: Dollars per hour, by Modal's names for what is rented.
        self.rates: dict[str, str] = {}

    async def workspace_name_lookup(self, _: Empty) -> api_pb2.WorkspaceNameLookupResponse:
        return api_pb2.WorkspaceNameLookupResponse(username="tests")

    async def workspace_billing_rates(
        self, _: api_pb2.WorkspaceBillingRatesRequest
    ) -> api_pb2.WorkspaceBillingRatesResponse:
        if not self.rates:
            raise GRPCError(Status.PERMISSION_DENIED, "this token may not see the workspace's billing")
        return api_pb2.WorkspaceBillingRatesResponse(rates=self.rates)
