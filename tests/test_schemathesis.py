"""Requests made from our own OpenAPI document, against the service as a process: it answers as the document says.

`SCHEMATHESIS_CASES` says how many are made at random, beside those that stand at the edges of the document's schemas;
`SCHEMATHESIS_SEED` makes the same ones again, or others.
"""

import os
import re
from collections import Counter
from collections.abc import Iterator
from itertools import count
from typing import Any
from uuid import UUID
from zlib import crc32

import hypothesis
import pytest
import requests
import schemathesis
from schemathesis import Case, CheckContext, Response
from schemathesis.checks import load_all_checks
from schemathesis.core import NotSet
from schemathesis.core.parameters import ParameterLocation
from schemathesis.specs.openapi.checks import (
    allow_header_conformance,
    missing_required_header,
    positive_data_acceptance,
)

from app.embedded import EmbeddedServer
from app.openai_bodies import openai_id
from tests.conftest import TEMPLATE, run_sql
from tests.processes import run_verbatim, serving, text_of
from tests.test_openapi import DOCUMENT, OPERATIONS

SEED = int(os.environ.get("SCHEMATHESIS_SEED", "20260731"))
CASES = int(os.environ.get("SCHEMATHESIS_CASES", "300"))

BEYOND_SCHEMAS = re.compile(
    "is no cursor of this list"  # a cursor is opaque
    "|excludes the Idempotency-Key"  # a member against a header
    "|must equal the key of the path"  # a member against the path
    "|is required where neither tool_calls nor function_calls is there"  # a null counts as absent
    "|is required where the conversation says nothing yet"  # against what is stored
    "|has the form of a message id of this conversation"
    "|comes twice in the request"
    "|is past the head"  # against what is stored
    "|is the id of no event of this stream"  # each has its own
    "|is larger than 16384 bytes"  # lengths of JSON texts
    "|nested deeper than"
    "|the member is repeated"
    "|must be one of"  # it sends If-Match: 0, whatever the pattern says
    "|got `number`"  # 2.0, which is an integer to JSON Schema
    "|is after to_day"
    "|days before the end"
    r"|'items\[\d+\]"  # what an item must have, by its type
    "|was used before with another body"  # against what is stored, where that is a 400
    "|is stored already with another message"
    "|with this id is deleted"
    "|Previous response with id"  # against what is stored
    "|Mutually exclusive parameters"  # a member against another
    "|Missing required parameter: 'input'"  # the same
    "|begins with 'conv'"
    r"|'input\[\d+\]"
    "|is not supported"  # a null counts as absent, and tools are many
    "|brings an id"  # that the conversation has, or of another form
    "|reply is being made in this conversation"
)
"""Why a request may be refused that satisfies the document, which has no words for it."""

FOR_ADMINS = {"getStats"}

load_all_checks()
schema = schemathesis.openapi.from_dict(DOCUMENT)
schema.config.checks.positive_data_acceptance.expected_statuses += ["412", "413", "422"]  # as what is stored has it
answered: Counter[tuple[str, int]] = Counter()
_numbers = count(1)


class Service:
    """The service, and a user in it who has a conversation for every request that needs one."""

    def __init__(self, address: str, key: str, admin_key: str) -> None:
        self.address, self.admin_key = address, admin_key
        self.session = requests.Session()
        self.session.headers["Authorization"] = f"Bearer {key}"

    def new_conversation(self) -> str:
        """Of two messages: the first has a client id, the second is deleted."""
        home = f"{self.address}/v1/conversations"
        messages = [{"role": "user", "content": "x", "client_id": "first"}, {"role": "assistant", "content": "y"}]
        made = {"id": f"00000000-0000-7000-8000-{next(_numbers):012x}", "messages": messages}
        assert self.session.post(home, json=made).status_code == 201
        assert self.session.delete(f"{home}/{made['id']}/messages?from_seq=2").status_code == 200
        return str(made["id"])


@pytest.fixture(scope="module")
def service(template: EmbeddedServer) -> Iterator[Service]:
    print(f"SCHEMATHESIS_SEED={SEED} SCHEMATHESIS_CASES={CASES}")
    run_sql(template.url(), "CREATE DATABASE schemathesis TEMPLATE {} STRATEGY FILE_COPY", TEMPLATE)
    settings = {"DATABASE_URL": text_of(template.url("schemathesis")), "VERBATIM_ALLOW_UNSAFE_DATABASE": 1}
    settings["VERBATIM_STREAM_SECONDS"] = 0.1
    key = run_verbatim("keys", "create", "--tenant", "acme", "--user", "alice", **settings).stdout.strip()
    admin_key = run_verbatim("keys", "create", "--tenant", "acme", "--admin", **settings).stdout.strip()
    with serving(**settings) as process:
        address = re.match(r"http://[\d.:]+", process.wait_for_address())
        assert address is not None
        service = Service(address[0], key, admin_key)
        yield service
        service.session.close()
    run_sql(template.url(), "DROP DATABASE schemathesis WITH (FORCE)")


def aim(service: Service, case: Case) -> None:
    """Turns most of the requests to what exists, for ids made at random would only ever be 404.

    Which ones depends on the request alone, and what was made to be wrong stays as it is.
    """
    path, headers = case.path_parameters, case.headers
    body = None if isinstance(case.body, NotSet) else case.body
    chosen = crc32(repr((path, case.query, dict(headers), body)).encode(errors="replace"))
    if is_valid(case, ParameterLocation.PATH):
        aim_at_conversation(service, path, chosen)
    if chosen % 8:
        aim_at_session(service, case)
    if case.operation.definition.raw["operationId"] in FOR_ADMINS and chosen % 9:
        headers["Authorization"] = f"Bearer {service.admin_key}"
    if is_valid(case, ParameterLocation.HEADER):
        if chosen % 6:
            headers.pop("X-User-Id", None)  # another name than the key's own is a 403
        if "If-Match" in headers and chosen % 5:
            headers["If-Match"] = '"2.1"'
        if isinstance(body, dict) and "id" in body and chosen % 11:
            headers.pop("Idempotency-Key", None)
    if isinstance(body, dict) and "revision" in body and is_valid(case, ParameterLocation.BODY) and chosen % 3:
        body["revision"] = 1


def aim_at_conversation(service: Service, path: dict[str, Any], chosen: int) -> None:
    if "conversation_id" in path and chosen % 8:
        path["conversation_id"] = service.new_conversation()
    if "openai_conversation_id" in path and chosen % 8:
        path["openai_conversation_id"] = openai_id(UUID(service.new_conversation()))
    for name in path.keys() & {"message_id", "item_id"}:
        if chosen % 8 and chosen % 7:
            path[name] = "first"


def aim_at_session(service: Service, case: Case) -> None:
    places = {
        ParameterLocation.PATH: case.path_parameters,
        ParameterLocation.QUERY: case.query,
        ParameterLocation.BODY: case.body,
    }
    for location, members in places.items():
        if isinstance(members, dict) and "session_id" in members and is_valid(case, location):
            members["session_id"] = service.new_conversation()


def is_valid(case: Case, location: ParameterLocation) -> bool:
    component = case.meta.components.get(location) if case.meta else None
    return component is None or component.mode.is_positive


def accepts_what_the_document_allows(ctx: CheckContext, response: Response, case: Case) -> bool | None:
    """Schemathesis's own check, but for what the document cannot say or does not say yet."""
    problem = response.json() if response.status_code == 400 else {}
    if BEYOND_SCHEMAS.search(problem["error"]["message"] if "error" in problem else problem.get("detail", "")):
        return None
    return positive_data_acceptance(ctx, response, case)


def names_all_methods(ctx: CheckContext, response: Response, case: Case) -> bool | None:
    """Schemathesis's own check, but for OPTIONS, whose `Allow` names the methods of one handler of the path only."""
    return None if response.request.method == "OPTIONS" else allow_header_conformance(ctx, response, case)


@pytest.mark.faults
@schema.parametrize()
@hypothesis.seed(SEED)
@hypothesis.settings(
    max_examples=max(1, CASES // len(OPERATIONS)),
    database=None,
    deadline=None,
    suppress_health_check=list(hypothesis.HealthCheck),
)
def test_every_answer_is_as_the_document_says(service: Service, case: Case) -> None:
    aim(service, case)
    response = case.call_and_validate(
        base_url=service.address,
        session=service.session,
        # The session always sends a key; who sends none is in test_authorization.
        excluded_checks=[positive_data_acceptance, allow_header_conformance, missing_required_header],
        additional_checks=[accepts_what_the_document_allows, names_all_methods],
        timeout=10,
    )
    answered[case.operation.definition.raw["operationId"], response.status_code] += 1


@pytest.mark.faults
def test_every_operation_was_served_and_refused() -> None:
    """So that the requests above did not all end at the door."""
    if not answered:
        pytest.skip("no request was made")
    served: Any = {name for name, status in answered if status < 300}
    refused = {name for name, status in answered if status >= 400}
    assert served == refused == OPERATIONS.keys()
    assert answered.total() >= CASES
