"""Contexts over HTTP."""

from litestar import Controller, Response, get
from litestar.di import NamedDependency
from litestar.params import FromPath

from app import errors
from app.auth import Caller
from app.database import Database
from app.exchanges import ApiRequest, answer, read_conversation_id, read_query
from app.headers import etag
from app.openapi import Operation
from app.stores import contexts
from app.wire.context import Context, ContextQuery


class ContextController(Controller):
    """What a model is shown of a conversation of the caller."""

    path = "/v1/conversations/{conversation_id:str}/context"
    tags = ["messages"]

    @get(
        operation_id="getContext",
        opt={
            "operation": Operation(
                query=ContextQuery,
                answers={200: Context},
                answer_headers=("ETag",),
                errors=(errors.NotFound,),
            )
        },
    )
    async def get_context(
        self,
        request: ApiRequest,
        conversation_id: FromPath[str],
        caller: NamedDependency[Caller],
        database: NamedDependency[Database],
    ) -> Response[bytes]:
        """Get what a model should be shown: the newest whole turns that fit.

        The system and developer messages that lead the conversation are always in it and count first. Then come the
        newest turns (a user's message and all that follows it up to the next one), each whole or not at all, up to
        the first that does not fit. The result of a tool call stands right behind the call, whatever the order in
        which results came; a turn's results answer only calls of that turn. Messages that are unfinished, that say
        nothing, or are results without a call are left out and listed with the reason. The same messages and query
        give the same answer, whose `messages` the provider of the format takes as they are.

        In the provider formats a call without a result is left out unless `complete` is true, an id or a tool's name
        that the provider would refuse is written in another way, and a message that only calls tools joins the
        assistant's message before it. Parts that the format does not know are left out and listed.

        With `anthropic`, system and developer messages stand in `system` wherever they stood, neighbours of one role
        are one message, and what the assistant said before the first user's message is left out. The last message may
        be the assistant's: append the user's next one before you ask the model, or send it behind these.
        """
        query = read_query(request, ContextQuery)
        parsed_id = read_conversation_id(conversation_id)
        async with database.connection() as connection:
            context = await contexts.get_context(connection, caller.owner.id, parsed_id, query)
        return answer(context, headers={"ETag": etag(context.last_seq, context.revision)})
