"""Statistics over HTTP."""

from litestar import Controller, Response, get
from litestar.di import NamedDependency
from litestar.params import FromPath

from app import errors
from app.auth import Administrator, Caller
from app.database import Database
from app.exchanges import AdminRequest, ApiRequest, answer, read_conversation_id, read_query
from app.openapi import Operation
from app.stores import stats
from app.wire.messages import Nothing
from app.wire.stats import ConversationStats, Stats, StatsRange


class StatsController(Controller):
    """What is counted of a conversation, and of a tenant by day."""

    path = "/v1"
    tags = ["stats"]

    @get(
        "/conversations/{conversation_id:str}/stats",
        operation_id="getConversationStats",
        opt={"operation": Operation(answers={200: ConversationStats}, errors=(errors.NotFound,))},
    )
    async def get_conversation_stats(
        self,
        request: ApiRequest,
        caller: NamedDependency[Caller],
        database: NamedDependency[Database],
        conversation_id: FromPath[str],
    ) -> Response[bytes]:
        """Get what is counted of a conversation.

        From its own counters: as fast for a long one as for a short one, and always up to date.
        """
        read_query(request, Nothing)
        async with database.connection() as connection:
            return answer(
                await stats.get_conversation_stats(connection, caller.owner.id, read_conversation_id(conversation_id))
            )

    @get(
        "/stats",
        operation_id="getStats",
        opt={"is_admin": True, "operation": Operation(query=StatsRange, answers={200: Stats})},
    )
    async def get_stats(
        self,
        request: AdminRequest,
        administrator: NamedDependency[Administrator],
        database: NamedDependency[Database],
    ) -> Response[bytes]:
        """Get the tenant's activity by day.

        With an admin key. Every day of the range is there, in UTC. The sums are added up about once a minute
        (`rolled_up_at` says when) from the conversations' counters; a message counts to the day of the last activity
        seen by then, so that around midnight it may count to the neighbouring day. What is deleted or purged
        later stays counted; where messages were said and deleted within a minute, their roles are estimated.
        """
        wanted = read_query(request, StatsRange)
        async with database.connection() as connection:
            return answer(await stats.get_stats(connection, administrator.tenant_id, wanted))
