"""Plans: every statement finds its rows by an index, and works as much in a large conversation as in a small one.

PostgreSQL plans a statement anew for its first five runs and then keeps one plan for all parameters, if that looks no
dearer: both kinds are held to it here.
"""

import re
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import psycopg
import pytest
from msgspec import Struct
from psycopg import sql

from app.embedded import EmbeddedServer
from app.identifiers import LAST_SEQ_LIMIT
from app.pages import FRONT, PAGE_LIMIT_BYTES, Position
from app.queries import TEXTS
from app.stores.heads import Followed, FollowedHead
from tests.conftest import TEMPLATE, run_sql

Database = psycopg.Connection[tuple[Any, ...]]
Values = dict[str, object]

SIZE = 100_000
BASE = datetime(2026, 1, 1, tzinfo=UTC)
STEP = timedelta(seconds=20)

# Owner 1 has 100,000 conversations, the first of 100,000 messages; owner 2 has ten, the first of ten; the others have
# one each. The planner is told of far more such owners than there are: then it expects one row of an owner, or of a
# conversation, and an index that finds them all looks to it as good as one that finds the one.
LOAD = f"""
SET session_replication_role = replica;

CREATE FUNCTION uuid_of(high bigint, low bigint) RETURNS uuid LANGUAGE sql IMMUTABLE
RETURN (lpad(to_hex(high), 8, '0') || lpad(to_hex(low), 24, '0'))::uuid;

INSERT INTO conversations (
    owner_id, id, last_seq, created_at, updated_at, active_at, pinned_at, archived_at, deleted_at, key, metadata, tags
)
SELECT
    uuid_of(0, owner), uuid_of(owner, n), CASE n WHEN 1 THEN size ELSE 0 END, time, time, date_trunc('minute', time),
    CASE WHEN n % 50 = 1 THEN time END, CASE WHEN n % 4 = 2 THEN time END,
    CASE WHEN n % 10 = 3 THEN now() - n * interval '1 hour' END, 'key-' || n, '{{}}', ARRAY['tag-' || n % 20]
FROM generate_series(1, 2000) AS owner,
    LATERAL (SELECT CASE owner WHEN 1 THEN {SIZE} WHEN 2 THEN 10 ELSE 1 END) AS o (size),
    LATERAL (SELECT n, timestamptz '{BASE}' - n * interval '{STEP}' FROM generate_series(1, size) AS n) AS c (n, time);

INSERT INTO messages (
    owner_id, conversation_id, seq, created_at, deleted_at, revision, body_bytes, role, status, content,
    client_id, append_key, append_count
)
SELECT
    uuid_of(0, owner), uuid_of(owner, 1), n, now(), CASE WHEN n % 100 = 7 THEN now() - n * interval '1 hour' END,
    CASE WHEN n % 100 = 7 THEN n ELSE 0 END, 50, 'user', 'completed', '"Some words of a message, and then some more."',
    'client-' || n, CASE WHEN n % 2 = 0 THEN 'append-' || n END, CASE WHEN n % 2 = 0 THEN 1 END
FROM generate_series(1, 500) AS owner,
    LATERAL (SELECT n FROM generate_series(1, CASE owner WHEN 1 THEN {SIZE} ELSE 10 END) AS n) AS t;

INSERT INTO owners (id, tenant_id, user_id, created_at)
SELECT uuid_of(0, owner), 'tenant-' || owner % 20, 'user-' || owner, now() FROM generate_series(1, 2000) AS owner;

INSERT INTO conversation_tallies (
    owner_id, conversation_id, last_seq, revision, user_message_count, assistant_message_count, tool_message_count,
    system_message_count, developer_message_count, input_tokens, output_tokens, is_new, active_day
)
SELECT owner_id, id, last_seq, 0, last_seq, 0, 0, 0, 0, 0, 0, false, updated_at::date FROM conversations;

INSERT INTO conversation_days (owner_id, conversation_id, day, tenant_id, turn_count, duration_seconds)
SELECT owner_id, id, updated_at::date, 'tenant-' || ('x' || right(owner_id::text, 4))::bit(16)::integer % 20, 5, 60
FROM conversations;

INSERT INTO owner_days (owner_id, day, tenant_id)
SELECT uuid_of(0, owner), day, 'tenant-' || owner % 20
FROM generate_series(1, 2000) AS owner, generate_series('2025-12-01', '2025-12-31', interval '1 day') AS day;

INSERT INTO tenant_days
SELECT 'tenant-' || n, day, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5, n + extract(day FROM day) = 2
FROM generate_series(0, 99) AS n, generate_series('2025-01-01', '2025-12-31', interval '1 day') AS day;

-- Each tenth message of a conversation is a reply; the last one is live, and has as many chunks as there are messages.
INSERT INTO replies (owner_id, conversation_id, seq, writer_id, char_count, created_at, renewed_at, ended_at, reason)
SELECT
    message.owner_id, message.conversation_id, message.seq, message.owner_id, message.seq * 10, now(), now(),
    CASE WHEN message.seq < conversation.last_seq THEN now() END,
    CASE WHEN message.seq < conversation.last_seq THEN 'stop' END
FROM messages AS message
INNER JOIN conversations AS conversation USING (owner_id)
WHERE conversation.id = message.conversation_id AND (message.seq % 10 = 0 AND message.seq <= conversation.last_seq);

INSERT INTO reply_chunks (owner_id, conversation_id, seq, from_char, text)
SELECT owner_id, conversation_id, seq, n * 10, '"some words"'
FROM replies, LATERAL (SELECT n FROM generate_series(0, seq - 1) AS n) AS t
WHERE ended_at IS NULL;

ALTER TABLE conversations ALTER owner_id SET (n_distinct = -0.9);
ALTER TABLE messages ALTER owner_id SET (n_distinct = -0.1), ALTER conversation_id SET (n_distinct = -0.2);
ALTER TABLE replies ALTER owner_id SET (n_distinct = -0.1), ALTER conversation_id SET (n_distinct = -0.2);
ALTER TABLE reply_chunks ALTER owner_id SET (n_distinct = -0.1), ALTER conversation_id SET (n_distinct = -0.2);
"""


@pytest.fixture(scope="module")
def database(template: EmbeddedServer) -> Iterator[Database]:
    run_sql(template.url(), "CREATE DATABASE {} TEMPLATE {} STRATEGY FILE_COPY", "test_plans", TEMPLATE)
    with psycopg.connect(**template.url("test_plans").for_libpq(), autocommit=True) as connection:
        connection.execute(LOAD)
        connection.execute("RESET session_replication_role")
        for _ in range(20):  # what is seen by nobody but us: an autovacuum may be looking at it
            connection.execute("VACUUM ANALYZE")
            visible = "SELECT relallvisible > 0 FROM pg_class WHERE relname = 'owner_days'"
            if connection.execute(visible).fetchone() == (True,):
                break
            time.sleep(0.2)
        yield connection
    run_sql(template.url(), "DROP DATABASE {}", "test_plans")


# Plans


@pytest.fixture(params=["custom", "generic"])
def mode(request: pytest.FixtureRequest) -> str:
    return request.param


def explain(database: Database, name: str, values: Values, mode: str, options: str = "") -> dict[str, Any]:
    """The plan of a statement with these values; what is executed is taken back."""
    with database.transaction(force_rollback=True):
        database.execute(sql.SQL("SET LOCAL plan_cache_mode = {}").format(sql.Literal(f"force_{mode}_plan")))
        if name == "purge_conversation_messages":
            execute(database, "expire_conversation", {**values, "id": values["conversation_id"]})
        ((explanation,),) = execute(database, name, values, f"EXPLAIN (FORMAT JSON{options}) ")
    return explanation[0]["Plan"]


def execute(database: Database, name: str, values: Values, prefix: str = "") -> list[tuple[Any, ...]]:
    arguments = sql.SQL(", ").join(sql.Literal(values[parameter]) for parameter in TEXTS[name].parameters)
    database.execute(sql.SQL("PREPARE statement AS ") + sql.SQL(TEXTS[name].sql))
    try:
        execution = sql.SQL(" ({})").format(arguments) if TEXTS[name].parameters else sql.SQL("")
        cursor = database.execute(sql.SQL(f"{prefix}EXECUTE statement") + execution)
        return cursor.fetchall() if cursor.description else []
    finally:
        database.execute("DEALLOCATE statement")


def nodes_of(plan: dict[str, Any], *above: dict[str, Any]) -> Iterator[tuple[dict[str, Any], list[str]]]:
    """The nodes of a plan, each with the types of those above it."""
    yield plan, [node["Node Type"] for node in above]
    for below in plan.get("Plans", []):
        yield from nodes_of(below, *above, plan)


def indexes_of(plan: dict[str, Any]) -> set[str]:
    return {node["Index Name"] for node, _ in nodes_of(plan) if "Index Name" in node}


STREAMS = {"Incremental Sort", "WindowAgg", "Subquery Scan", "LockRows", "Result"}
"""The nodes that ask for no more rows than they are asked for."""


LARGE_TABLES = {
    "owners",
    "conversations",
    "messages",
    "conversation_tallies",
    "conversation_days",
    "owner_days",
    "tenant_days",
}


def find_faults(plan: dict[str, Any]) -> list[str]:
    """The scans that read a whole table, all that an owner has, or the whole of a conversation.

    A scan is bound by a column beyond those, or by a LIMIT that nothing between them waits to fill.
    """
    faults = []
    for node, above in nodes_of(plan):
        if node["Node Type"] == "Seq Scan" and node["Relation Name"] in LARGE_TABLES:
            faults.append(f"reads all {node['Relation Name']}")
        if node["Node Type"] in {"Index Scan", "Index Only Scan", "Bitmap Index Scan"}:
            columns = set(re.findall(r"\((?:\w+\.)?(\w+) (?:=|<|>)", node.get("Index Cond", "")))
            is_limited = "Limit" in [kind for kind in above if kind not in STREAMS][-1:]
            is_one = node["Index Name"] == LIVE_REPLY
            if not columns - {"owner_id", "conversation_id"} and not is_limited and not is_one:
                faults.append(f"reads {node['Index Name']} by {sorted(columns)} alone")
            if node["Index Name"].endswith("_deleted_at_idx") and not is_limited:
                faults.append(f"reads {node['Index Name']}, which is over all owners")
    return faults


def buffers_of(plan: dict[str, Any]) -> int:
    """The pages that a statement touched, those of a CTE that nobody reads included."""
    read = {node["CTE Name"] for node, _ in nodes_of(plan) if "CTE Name" in node}
    roots = [plan]
    for node, _ in nodes_of(plan):
        name = node.get("Subplan Name", "")
        if name.startswith("CTE ") and name.removeprefix("CTE ") not in read:
            roots.append(node)
    return sum(root["Shared Hit Blocks"] + root["Shared Read Blocks"] for root in roots)


@pytest.mark.parametrize("name", sorted(TEXTS.keys() - {"probe_conversations"}))
def test_the_plan_for_all_parameters_is_bound(database: Database, name: str) -> None:
    plan = explain(database, name, dict.fromkeys(TEXTS[name].parameters), "generic")
    assert find_faults(plan) == []


def test_the_probe_reads_one_row(database: Database, mode: str) -> None:
    plan = explain(database, "probe_conversations", {}, mode, ", ANALYZE, BUFFERS")
    assert buffers_of(plan) <= 10


# A small table, in which the index by seq is one level lower than those by client id and by append key.
CROWD = """
CREATE TEMPORARY TABLE messages (LIKE public.messages INCLUDING ALL);

INSERT INTO messages (
    owner_id, conversation_id, seq, created_at, body_bytes, role, status, content, client_id, append_key, append_count
)
SELECT uuid_of(0, owner), uuid_of(owner, 1), n, now(), 4, 'user', 'completed', '"hi"', md5(n::text), md5(n::text), 1
FROM generate_series(1, 200) AS owner,
    LATERAL (SELECT n FROM generate_series(1, CASE owner WHEN 1 THEN 13000 ELSE 10 END) AS n) AS t;

ANALYZE messages;
"""


@pytest.mark.parametrize(
    "name", ["append_message", "append_messages", "append_shared", "find_item", "find_message_seq", "list_stored"]
)
def test_a_taller_index_is_read_all_the_same(database: Database, name: str) -> None:
    with database.transaction(force_rollback=True):
        database.execute(CROWD)
        plan = explain(database, name, dict.fromkeys(TEXTS[name].parameters), "generic")
    assert find_faults(plan) == []


# Work


class Scale(Struct, frozen=True):
    """An owner with so many conversations, the first of which has so many messages."""

    owner: int
    size: int

    @property
    def ids(self) -> Values:
        return {"owner_id": UUID(int=self.owner), "conversation_id": self.conversation(1)}

    def conversation(self, number: int) -> UUID:
        return UUID(int=self.owner << 96 | number)


SMALL, LARGE = Scale(2, 10), Scale(1, SIZE)


def message(scale: Scale, **values: object) -> Values:
    absent = ("client_id", "append_key", "client_ids", "expected_seq", "expected_revision", "fingerprint", "name")
    absent += ("tool_call_id", "model", "tool_calls", "audio_files", "function_calls", "usage", "metadata", "source")
    known = {"role": "user", "status": "completed", "content": '"hi"', "body_bytes": 4}
    tokens = {"input_tokens": 0, "output_tokens": 0}
    return {**scale.ids, **dict.fromkeys(absent), **known, **tokens, **values}


def batch(scale: Scale, **values: object) -> Values:
    """Ten messages; an array of NULLs is written as text, which psycopg gives no type of its own."""
    nulls = "{" + ",".join(["NULL"] * 10) + "}"
    arrays = ("tool_call_ids", "names", "models", "tool_calls", "audio_files", "function_calls", "usages", "metadata")
    arrays += ("sources",)
    known = {"roles": ["user"] * 10, "statuses": ["completed"] * 10, "body_bytes": [4] * 10}
    known |= {"message_client_ids": nulls, "fingerprints": nulls, "contents": nulls.replace("NULL", "1")}
    return {**message(scale), **dict.fromkeys(arrays, nulls), **known, **values}


def shared(scale: Scale, **values: object) -> Values:
    """Requests to append to two conversations, of which the first has many messages."""
    absent = ("append_keys", "client_ids", "tool_call_ids", "names", "models", "tool_calls", "audio_files")
    absent += ("function_calls", "usages", "metadata", "sources", "fingerprints", "input_tokens", "output_tokens")
    known = {"roles": ["user"] * 3, "statuses": ["completed"] * 3, "contents": "{1,1,1}", "body_bytes": [4] * 3}
    conversations = [scale.conversation(n) for n in (1, 4, 1)]
    places = {"owner_ids": [scale.ids["owner_id"]] * 3, "conversation_ids": conversations}
    return {**places, **known, **dict.fromkeys(absent), **values}


def pages(
    after: float, before: float, known: tuple[object, ...] = (None,) * 4, **more: object
) -> Callable[[Scale], Values]:
    """As page, twice; what is known of the conversation's version, and more of the kind."""

    def values(scale: Scale) -> Values:
        names = ("known_created_ats", "known_updated_ats", "known_last_seqs", "known_revisions")
        return {
            "owner_ids": [scale.ids["owner_id"]] * 2,
            "conversation_ids": [scale.conversation(1)] * 2,
            "after_seqs": [int(after * scale.size)] * 2,
            "before_seqs": [int(before * scale.size) or LAST_SEQ_LIMIT] * 2,
            "page_sizes": [10] * 2,
            **{name: [value] * 2 for name, value in (*zip(names, known, strict=True), *more.items())},
            "page_bytes": PAGE_LIMIT_BYTES,
        }

    return values


def page(after: float, before: float, *, only_finished: bool = False) -> Callable[[Scale], Values]:
    """A page of ten messages between two places: 0 is the beginning, 1 the head."""

    def values(scale: Scale) -> Values:
        bounds = {"after_seq": int(after * scale.size), "before_seq": int(before * scale.size) or LAST_SEQ_LIMIT}
        return {
            **scale.ids,
            **bounds,
            "only_finished": only_finished,
            "page_size": 10,
            "page_bytes": PAGE_LIMIT_BYTES,
        }

    return values


def listing(place: float, tag: str | None = None) -> Callable[[Scale], Values]:
    """A page of five conversations behind a place."""

    def values(scale: Scale) -> Values:
        number = int(place * scale.size)
        position = Position(BASE - number * STEP, scale.conversation(number)) if number else FRONT
        return {
            "owner_id": UUID(int=scale.owner),
            "before_active_at": position.active_at,
            "before_updated_at": position.updated_at,
            "before_id": position.id,
            "is_pinned": None,
            "tag": tag,
            "examined_size": 1000 if tag else 5,
            "page_size": 5,
        }

    return values


def listings(place: float, known: bytes | None = None) -> Callable[[Scale], Values]:
    """As listing, twice; the version of a page that is known."""

    def values(scale: Scale) -> Values:
        one = listing(place)(scale)
        names = ("owner_id", "before_active_at", "before_updated_at", "before_id", "page_size")
        return {**{f"{name}s": [one[name]] * 2 for name in names}, "known_versions": [known] * 2}

    return values


def of_owner(**values: object) -> Callable[[Scale], Values]:
    return lambda scale: {"owner_id": UUID(int=scale.owner), "id": scale.conversation(5), **values}


def of_conversation(**values: object) -> Callable[[Scale], Values]:
    return lambda scale: {**scale.ids, **values}


def reply(**values: object) -> Callable[[Scale], Values]:
    """The live reply of the conversation."""
    return lambda scale: {**scale.ids, "seq": scale.size, **values}


def heads(scale: Scale) -> Values:
    heads = [FollowedHead(scale.size, 0, scale.size * 10), FollowedHead(0, 0, 0)]
    keys = [(scale.ids["owner_id"], scale.conversation(n)) for n in (1, 4)]
    followed = Followed(dict(zip(keys, heads, strict=True)))
    return {name: getattr(followed, name) for name in TEXTS["list_moved_heads"].parameters}


CONVERSATION = "conversations_owner_id_id_pkey"
KEY = "conversations_owner_id_key_key"
SEQ = "messages_owner_id_conversation_id_seq_pkey"
CLIENT_ID = "messages_owner_id_conversation_id_client_id_key"
APPEND_KEY = "messages_owner_id_conversation_id_append_key_key"
LIVE = "conversations_owner_id_active_at_idx"
ARCHIVED = "conversations_owner_id_active_at_archived_idx"
REPLY = "replies_owner_id_conversation_id_seq_pkey"
LIVE_REPLY = "replies_owner_id_conversation_id_key"
CHUNK = "reply_chunks_owner_id_conversation_id_seq_from_char_pkey"
REVISION = "messages_owner_id_conversation_id_revision_idx"
CHANGED = "conversations_owner_id_changed_at_idx"
IDS = [f"new-{place}" for place in range(10)]
APPEND = {CONVERSATION, APPEND_KEY, CLIENT_ID}
PAGE = {CONVERSATION, SEQ, LIVE_REPLY}

CASES: dict[str, tuple[str, Callable[[Scale], Values], set[str]]] = {
    "the first page": ("list_messages", page(0, 0), PAGE),
    "a page in the middle": ("list_messages", page(0.5, 0), PAGE),
    "the last page": ("list_messages", page(0.9, 0), PAGE),
    "a page between two places": ("list_messages", page(0.2, 0.7), PAGE),
    "a page of finished turns": (
        "list_messages",
        page(0.5, 0, only_finished=True),
        PAGE,
    ),
    "the newest page": ("list_messages_descending", page(0, 0), PAGE),
    "a page back in the middle": ("list_messages_descending", page(0, 0.5), PAGE),
    "the oldest page": ("list_messages_descending", page(0, 0.1), PAGE),
    "a message": ("get_message", of_conversation(seq=5), {CONVERSATION, SEQ}),
    "a client id": ("find_message_seq", of_conversation(client_id="client-9"), {CLIENT_ID}),
    "an unknown client id": ("find_message_seq", of_conversation(client_id="nobody"), {CLIENT_ID}),
    "an item": ("find_item", of_conversation(client_id="client-9"), {CLIENT_ID}),
    "a deleted item": ("find_item", of_conversation(client_id="client-7"), {CLIENT_ID}),
    "an unknown item": ("find_item", of_conversation(client_id="nobody"), {CLIENT_ID}),
    "a released id of an item": ("release_item_id", of_conversation(seq=7), {SEQ}),
    "the id of an item that is there": ("release_item_id", of_conversation(seq=5), {SEQ}),
    "an append": ("append_message", message, APPEND),
    "an append with a key": ("append_message", lambda scale: message(scale, append_key="new"), APPEND),
    "an append with a client id": (
        "append_message",
        lambda scale: message(scale, client_id="new-0", client_ids=IDS[:1]),
        APPEND,
    ),
    "a replayed append": ("append_message", lambda scale: message(scale, append_key="append-4"), APPEND),
    "an append of many with a key": ("append_messages", lambda scale: batch(scale, append_key="new"), APPEND),
    "an append of many with client ids": (
        "append_messages",
        lambda scale: batch(scale, client_ids=IDS, message_client_ids=IDS),
        APPEND,
    ),
    "appends together": ("append_shared", shared, APPEND),
    "appends together with keys": (
        "append_shared",
        lambda scale: shared(scale, append_keys=["new", "new", "append-4"]),
        APPEND,
    ),
    "appends together with client ids": (
        "append_shared",
        lambda scale: shared(scale, client_ids=["new-0", "new-0", "client-3"]),
        APPEND,
    ),
    "the first pages": ("list_message_pages", pages(0, 0), {CONVERSATION, SEQ}),
    "pages in the middle": ("list_message_pages", pages(0.2, 0.7), {CONVERSATION, SEQ}),
    "the newest pages": ("list_message_pages_descending", pages(0, 0, newest_seqs=None), {CONVERSATION, SEQ}),
    "pages back in the middle": (
        "list_message_pages_descending",
        pages(0, 0.5, newest_seqs=None),
        {CONVERSATION, SEQ},
    ),
    "a replay by key": (
        "list_stored",
        of_conversation(append_key="append-4", client_ids="{}"),
        {APPEND_KEY, CLIENT_ID},
    ),
    "a replay by client ids": (
        "list_stored",
        of_conversation(append_key=None, client_ids=["client-3", "client-8", "nobody"]),
        {APPEND_KEY, CLIENT_ID},
    ),
    "a replay of a batch": ("list_fingerprints", of_conversation(from_seq=3, through_seq=8), {SEQ}),
    "the first pages of conversations": ("list_conversation_pages", listings(0), {LIVE}),
    "pages of conversations in the middle": ("list_conversation_pages", listings(0.5), {LIVE}),
    "the first conversations": ("list_conversations", listing(0), {LIVE}),
    "conversations deep down": ("list_conversations", listing(0.4), {LIVE}),
    "the first archived conversations": ("list_archived_conversations", listing(0), {ARCHIVED}),
    "archived conversations deep down": ("list_archived_conversations", listing(0.4), {ARCHIVED}),
    "a conversation": ("get_conversation", of_owner(), {CONVERSATION}),
    "what a conversation counts": ("get_conversation_stats", of_owner(), {CONVERSATION}),
    "a conversation by key": ("get_conversation_by_key", of_owner(key="key-5"), {KEY}),
    "no conversation by key": ("get_conversation_by_key", of_owner(key="nobody"), {KEY}),
    "a conflict of ids": ("find_conversation_conflict", of_owner(key=None), {CONVERSATION, KEY}),
    "a conflict of keys": ("find_conversation_conflict", of_owner(key="key-6"), {CONVERSATION, KEY}),
    "the holder of a key": ("find_key_holder", of_owner(), {CONVERSATION, KEY}),
    "a restored conversation": ("restore_conversation", of_owner(restore_days=30), {CONVERSATION}),
    "a purged conversation": ("purge_conversation", of_owner(restore_days=30), {CONVERSATION}),
    "a purged batch of messages": (
        "purge_conversation_messages",
        of_conversation(batch_size=5, restore_days=30),
        {CONVERSATION, SEQ},
    ),
    "purged messages": ("purge_messages", of_conversation(from_seq=7, through_seq=9, restore_days=30), {SEQ}),
    "an edit": ("update_message", lambda scale: message(scale, seq=5), {CONVERSATION, SEQ}),
    "a deleted message": (
        "delete_messages",
        of_conversation(from_seq=5, through_seq=5, revision=1),
        {CONVERSATION, SEQ},
    ),
    "restored messages": (
        "restore_messages",
        of_conversation(deleted_revision=7, revision=8, restore_days=30),
        {CONVERSATION, REVISION},
    ),
    "a head": ("get_head", of_conversation(), {CONVERSATION, LIVE_REPLY}),
    "heads that have moved": ("list_moved_heads", heads, {CONVERSATION, LIVE_REPLY}),
    "what has changed behind a revision": (
        "list_changed_revisions",
        of_conversation(after_revision=0, through_revision=1000, page_size=5),
        {REVISION},
    ),
    "conversations that have changed": (
        "list_changed_conversations",
        lambda scale: {
            "owner_ids": f"{{{scale.ids['owner_id']}}}",
            "told_at": BASE,
            "late_seconds": 100.0,
            "page_size": 10,
        },
        {LIVE, ARCHIVED, CHANGED},
    ),
    "a reply": ("get_reply", of_conversation(seq=10), {REPLY}),
    "whether a reply is live": ("find_live_reply", of_conversation(seq=10), {REPLY, LIVE_REPLY}),
    "the live reply": ("get_live_reply", of_conversation(lease_seconds=15.0), {LIVE_REPLY}),
    "the end of a growing text": (
        "list_reply_chunks",
        lambda scale: {**scale.ids, "seq": scale.size, "from_char": scale.size * 10 - 25},
        {CHUNK},
    ),
    "a chunk": (
        "append_reply_chunk",
        reply(from_char=2**30, through_char=2**30, text='"x"'),
        {CONVERSATION, SEQ, REPLY, LIVE_REPLY},
    ),
    "a renewal": ("renew_reply", reply(), {CONVERSATION, SEQ, REPLY, LIVE_REPLY}),
    "an end": ("end_reply", reply(reason="stop", lease_seconds=None), {REPLY, LIVE_REPLY}),
}
"""What happens, its statement with values for a scale, and the indexes that it may read."""


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("scale", [SMALL, LARGE], ids=["small", "large"])
def test_a_statement_reads_its_own_indexes(database: Database, case: str, scale: Scale, mode: str) -> None:
    name, values_of, indexes = CASES[case]
    plan = explain(database, name, values_of(scale), mode)
    assert indexes_of(plan) <= indexes
    assert find_faults(plan) == []


@pytest.mark.parametrize("case", CASES)
def test_the_work_is_the_same_in_a_large_one(database: Database, case: str, mode: str) -> None:
    name, values_of, _ = CASES[case]

    def work(scale: Scale) -> int:
        values = values_of(scale)
        explain(database, name, values, mode, ", ANALYZE")  # the first run also sets hint bits
        return buffers_of(explain(database, name, values, mode, ", ANALYZE, BUFFERS"))

    small, large = work(SMALL), work(LARGE)
    assert large <= 2 * small + 10, f"{small} pages in a small one, {large} in a large one"


def version_of(database: Database, scale: Scale) -> tuple[Any, ...]:
    version = "SELECT created_at, updated_at, last_seq, revision FROM conversations"
    version += " WHERE owner_id = %(owner_id)s AND id = %(id)s"
    known = database.execute(version, {"owner_id": UUID(int=scale.owner), "id": scale.conversation(1)}).fetchone()
    assert known is not None
    return known


def test_a_page_that_is_known_is_not_read(database: Database, mode: str) -> None:
    known = version_of(database, LARGE)
    plan = explain(database, "list_message_pages", pages(0, 0, known)(LARGE), mode, ", ANALYZE, BUFFERS")
    assert {node["Index Name"] for node, _ in nodes_of(plan) if node["Actual Loops"] and "Index Name" in node} == {
        CONVERSATION
    }
    assert buffers_of(plan) <= 10


@pytest.mark.parametrize("is_known", [True, False])
def test_of_conversations_that_are_known_only_the_versions_are_read(
    database: Database, mode: str, *, is_known: bool
) -> None:
    *_, (*_, version) = execute(database, "list_conversation_pages", listings(0)(LARGE))
    plan = explain(
        database, "list_conversation_pages", listings(0, version if is_known else b"")(LARGE), mode, ", ANALYZE"
    )
    walks = [node["Actual Rows"] for node, _ in nodes_of(plan) if node.get("Index Name") == LIVE]
    assert [rows > 0 for rows in walks] == [True, True, not is_known]


@pytest.mark.parametrize(("revision", "count"), [(0, 3), (1, 10)])
def test_of_a_page_that_has_grown_only_what_is_new_is_read(
    database: Database, mode: str, revision: int, count: int
) -> None:
    created_at, _, last_seq, known_revision = version_of(database, LARGE)
    known = (created_at, created_at, last_seq - 2, known_revision - revision)
    values = pages(0, 0, known, newest_seqs=last_seq - 2)(LARGE)
    plan = explain(database, "list_message_pages_descending", values, mode, ", ANALYZE")
    (scan,) = (node for node, _ in nodes_of(plan) if node.get("Index Name") == SEQ)
    assert count <= scan["Actual Rows"] <= count + 2  # it looks ahead


@pytest.mark.parametrize("place", [0, 0.5, 0.9])
@pytest.mark.parametrize("name", ["list_conversations", "list_archived_conversations"])
def test_a_filtered_page_examines_a_bounded_number(database: Database, name: str, place: float, mode: str) -> None:
    plan = explain(database, name, listing(place, tag="tag-18")(LARGE), mode, ", ANALYZE, BUFFERS")
    assert find_faults(plan) == []
    assert buffers_of(plan) <= 1100


@pytest.mark.parametrize("name", ["list_expired_conversations", "list_expired_messages"])
def test_a_purge_lists_a_batch(database: Database, name: str, mode: str) -> None:
    plan = explain(database, name, {"restore_days": 30, "batch_size": 50}, mode, ", ANALYZE, BUFFERS")
    assert indexes_of(plan) == {f"{name.removeprefix('list_expired_')}_deleted_at_idx"}
    assert "Limit" in [node["Node Type"] for node, _ in nodes_of(plan)]
    assert buffers_of(plan) <= 60


def activity(**values: object) -> Values:
    """Behind a conversation in the midst of all that are active."""
    place = {"active_at": BASE - SIZE // 2 * STEP, "owner": UUID(int=1), "conversation": LARGE.conversation(1)}
    return {**place, "batch_size": 50, **values}


DAY, OLD_DAY = (BASE - timedelta(days=3)).date(), (BASE - SIZE * STEP).date() + timedelta(days=2)
CONVERSATION_IDS = [UUID(int=1 << 96 | number) for number in range(1, 51)]
OWNER_IDS = [UUID(int=1)] * 50
SUMS = ("conversation_counts", "new_conversation_counts", "active_user_counts", "user_message_counts")
SUMS += ("assistant_message_counts", "tool_message_counts", "system_message_counts", "developer_message_counts")
TALLIES = ("last_seqs", "revisions", *SUMS[3:], "input_tokens", "output_tokens")
ROLLUPS: dict[str, tuple[str, Values, set[str], int]] = {
    "a batch": (
        "list_active_conversations",
        activity(),
        {
            "conversations_active_at_owner_id_id_idx",
            "owners_id_pkey",
            "conversation_tallies_owner_id_conversation_id_pkey",
        },
        600,
    ),
    "tallies": (
        "update_tallies",
        {"owner_ids": OWNER_IDS, "conversation_ids": CONVERSATION_IDS, "active_days": [DAY] * 50}
        | {name: [1] * 50 for name in TALLIES},
        set(),
        1000,
    ),
    "sums": (
        "update_tenant_days",
        {"tenant_ids": ["tenant-5"], "days": [DAY]} | {name: [1] for name in (*SUMS, *TALLIES[-2:])},
        set(),
        50,
    ),
    "medians": (
        "measure_tenant_days",
        {"tenant_ids": ["tenant-5", "tenant-6"], "days": [DAY, DAY]},
        {"conversation_days_day_tenant_id_idx"},
        400,
    ),
    "stale days": ("list_stale_days", {"batch_size": 5}, {"tenant_days_is_stale_idx"}, 20),
    "a month of a tenant": (
        "list_tenant_days",
        {"tenant_id": "tenant-5", "from_day": DAY - timedelta(days=29), "through_day": DAY},
        {"tenant_days_tenant_id_day_pkey"},
        60,
    ),
    "users of a month": (
        "count_active_users",
        {"tenant_id": "tenant-5", "days": [DAY - timedelta(days=n) for n in range(30)]},
        {"owner_days_day_tenant_id_owner_id_idx"},
        400,
    ),
    "old conversations": (
        "list_expired_conversation_days",
        {"before_day": OLD_DAY, "batch_size": 50},
        {"conversation_days_day_tenant_id_idx"},
        60,
    ),
    "purged old conversations": (
        "purge_conversation_days",
        {"owner_ids": OWNER_IDS, "conversation_ids": CONVERSATION_IDS, "days": [DAY] * 50},
        {"conversation_days_owner_id_conversation_id_day_pkey"},
        600,
    ),
    "old users": (
        "list_expired_owner_days",
        {"before_day": BASE.date(), "batch_size": 50},
        {"owner_days_day_tenant_id_owner_id_idx"},
        60,
    ),
    "purged old users": (
        "purge_owner_days",
        {"owner_ids": OWNER_IDS, "days": [DAY - timedelta(days=n) for n in range(50)]},
        {"owner_days_owner_id_day_pkey"},
        600,
    ),
}
"""What the roll-up and who reads it do, the indexes of that, and the most pages it may touch."""


@pytest.mark.parametrize("case", ROLLUPS)
def test_a_roll_up_works_on_its_batch(database: Database, case: str, mode: str) -> None:
    name, values, indexes, pages = ROLLUPS[case]
    plan = explain(database, name, values, mode, ", ANALYZE, BUFFERS")
    assert find_faults(plan) == []
    assert indexes_of(plan) <= indexes
    assert buffers_of(plan) <= pages


ELSEWHERE = {
    # over a whole conversation, or all that a purge finds
    "delete_conversation",
    "delete_reply_chunks",
    "fork_conversation",
    "list_expired_conversations",
    "list_expired_messages",
    "list_lapsed_replies",
    "update_conversation_days",
    # one row by the whole of its key
    "create_conversation",
    "create_owner_days",
    "create_reply",
    "expire_conversation",
    "get_version",
    "lock_conversation",
    "update_conversation",
    "update_medians",
    # of the service itself
    "advance_rollup",
    "claim_rollup",
    "create_service_key",
    "find_live_keys",
    "find_migration_record",
    "finish_rollup",
    "get_durability",
    "get_rolled_up_at",
    "get_service_key",
    "get_time",
    "list_applied_migrations",
    "list_service_keys",
    "probe_conversations",
    "revoke_service_key",
    "touch_service_keys",
}
"""The statements without a row above: their plan for all parameters is looked at, or they have a test of their own."""


def test_every_other_statement_has_a_row() -> None:
    tried = {name for name, *_ in (*CASES.values(), *ROLLUPS.values())}
    assert TEXTS.keys() - tried == ELSEWHERE


# The rule itself


@pytest.mark.parametrize(
    ("statement", "fault"),
    [
        ("SELECT FROM messages WHERE seq = 5", "reads all messages"),
        ("SELECT FROM messages WHERE owner_id = $1 AND conversation_id = $1", "by ['conversation_id', 'owner_id']"),
        ("SELECT FROM conversations WHERE owner_id = $1 AND title = $2", "by ['owner_id'] alone"),
        ("DELETE FROM messages WHERE deleted_at < now() - interval '9 years'", "over all owners"),
        ("SELECT FROM conversations WHERE owner_id = $1 ORDER BY title, $2::text LIMIT 1", "by ['owner_id'] alone"),
        ("SELECT FROM conversations WHERE owner_id = $1 AND title = $2 ORDER BY id LIMIT 1", None),
    ],
)
def test_an_unbound_scan_is_caught(
    database: Database, monkeypatch: pytest.MonkeyPatch, statement: str, fault: str | None
) -> None:
    text = TEXTS["get_version"]
    monkeypatch.setitem(TEXTS, "planted", type(text)(statement, ("a", "b")[: statement.count("$2") + 1], "here"))
    if "$" not in statement:
        monkeypatch.setitem(TEXTS, "planted", type(text)(statement, (), "here"))
    plan = explain(database, "planted", dict.fromkeys(TEXTS["planted"].parameters), "generic")
    assert (fault or "") in "".join(find_faults(plan))
    assert bool(find_faults(plan)) == bool(fault)
