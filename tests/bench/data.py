"""What the benchmark's databases hold, and whether they still hold what they must."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from itertools import accumulate
from typing import TypedDict

import msgspec
import psycopg
from msgspec import Struct

from app.database_url import DatabaseUrl
from app.identifiers import owner_of

TENANT = "bench"
MESSAGES = 60
LONG = 10_000
SHORT = 100
FEW = 16
"""Conversations of each kind that one series alone writes to."""
REPLAY_KEY = "replay"
USED_AT = "2026-01-01 00:00:00+00"
"""When the first conversation of a kind was last used; each of the others a second later."""

TEXT = ("Please explain the shortest path between two points on a sphere, with an example and each step. " * 5)[:400]
METADATA = b'{"model":"gpt-x","tokens":{"in":120,"out":85}}'
CONTENT = msgspec.json.encode(TEXT)
MESSAGE = b'{"role":"user","content":' + CONTENT + b',"metadata":' + METADATA + b"}"

_CONVERSATIONS = """
INSERT INTO conversations (
    owner_id, id, key, title, metadata, last_seq, user_message_count, assistant_message_count,
    created_at, updated_at, active_at
)
SELECT
    (%(owner_ids)s::uuid[])[n %% cardinality(%(owner_ids)s::uuid[]) + 1],
    (%(prefix)s || lpad(n::text, 12, '0'))::uuid,
    CASE WHEN n < cardinality(%(owner_ids)s::uuid[]) THEN 'default' END,
    'Chat ' || n, '{}', %(length)s, (%(length)s + 1) / 2, %(length)s / 2,
    used_at, used_at, date_trunc('minute', used_at)
FROM
    generate_series(0, %(count)s - 1) AS n,
    LATERAL (SELECT %(used_at)s::timestamptz + n * interval '1 second' AS used_at)
"""
# In the order in which they would have come had all conversations gone on at once: each row of a page of a short one
# lies on another page of the heap. No join may come behind the sort, and change it.
_MESSAGES = """
INSERT INTO messages (
    owner_id, conversation_id, seq, created_at, body_bytes, role, status, content, metadata,
    append_key, append_count, fingerprint
)
SELECT
    (%(owner_ids)s::uuid[])[(%(offsets)s::integer[])[kind] + n %% (%(user_counts)s::integer[])[kind] + 1],
    ((%(prefixes)s::text[])[kind] || lpad(n::text, 12, '0'))::uuid,
    seq, %(used_at)s::timestamptz, %(body_bytes)s,
    CASE WHEN seq %% 2 = 1 THEN 'user' ELSE 'assistant' END, 'completed',
    to_json('Message ' || seq || ' of ' || n || ': ' || %(text)s), %(metadata)s::json,
    CASE WHEN is_last THEN %(key)s END,
    CASE WHEN is_last AND %(key)s::text IS NOT NULL THEN 1 END,
    CASE WHEN is_last THEN %(fingerprint)s::bytea END
FROM (
    SELECT kind::integer, n, seq, seq = length AS is_last
    FROM
        unnest(%(counts)s::integer[], %(lengths)s::integer[]) WITH ORDINALITY AS kinds (count, length, kind),
        generate_series(0, count - 1) AS n,
        generate_series(1, length) AS seq
    WHERE n %% %(sessions)s = %(session)s
    ORDER BY seq::double precision / length, hashint4(n)
) AS said
"""
_WRONG = """
SELECT count(*) FROM conversations AS conversation
LEFT JOIN (
    SELECT owner_id, conversation_id, count(*) AS message_count, max(seq) AS last_seq FROM messages GROUP BY 1, 2
) AS counted ON conversation.owner_id = counted.owner_id AND conversation.id = counted.conversation_id
WHERE
    coalesce(counted.message_count, 0) <> conversation.last_seq
    OR coalesce(counted.last_seq, 0) <> conversation.last_seq
"""


class Kind(Struct, frozen=True):
    """Conversations of one length, spread over users; a user's first one is the main one, by its key."""

    name: str
    prefix: str
    """With what its ids begin; twelve digits follow."""
    count: int
    length: int
    user_count: int

    def id(self, number: int) -> str:
        """Of the conversation with this number, from 0."""
        return f"{self.prefix}{number:012}"

    def user(self, number: int) -> str:
        """Whose conversation this is."""
        return f"{self.name}-{number % self.user_count}"

    @property
    def owner_ids(self) -> list[str]:
        """Of its users, in order."""
        return [str(owner_of(TENANT, self.user(number)).id) for number in range(self.user_count)]


MAIN = Kind("user", "00000000-0000-7000-8000-", 5000, MESSAGES, 250)
"""The conversations that most series use."""
FEWER = Kind("user", "00000000-0000-7000-8000-", 500, MESSAGES, 25)
BULK = Kind("bulk", "00000000-0000-7000-8001-", FEW, 0, 1)
COPIED = Kind("copied", "00000000-0000-7000-8002-", FEW, 0, 1)
SHALLOW = Kind("shallow", "00000000-0000-7000-8003-", FEW, SHORT, 1)
DEEP = Kind("deep", "00000000-0000-7000-8004-", FEW, LONG, 1)


class Filling(TypedDict, total=False):
    """How messages are made: their text, the key of each conversation's last, in how many sessions."""

    text: str
    key: str | None
    sessions: int


def fill(url: DatabaseUrl, *kinds: Kind, text: str = TEXT, key: str | None = REPLAY_KEY, sessions: int = 1) -> None:
    """Makes conversations with their messages, and cleans up behind it.

    The last message of each was appended with the key, as MESSAGE.
    """
    with _connected(url) as connection:
        for kind in kinds:
            _fill_conversations(connection, kind)
    with ThreadPoolExecutor(sessions) as pool:
        list(pool.map(lambda session: _fill_messages(url, kinds, text, key, (session, sessions)), range(sessions)))
    with _connected(url) as connection:
        connection.execute("VACUUM (FREEZE, ANALYZE)")
        connection.execute("CHECKPOINT")


def _connected(url: DatabaseUrl) -> psycopg.Connection:
    return psycopg.connect(**url.for_libpq(), autocommit=True)


def _fill_conversations(connection: psycopg.Connection, kind: Kind) -> None:
    for number in range(kind.user_count):
        owner = owner_of(TENANT, kind.user(number))
        connection.execute("INSERT INTO owners VALUES (%s, %s, %s, now())", (owner.id, owner.tenant_id, owner.user_id))
    values = {
        "owner_ids": kind.owner_ids,
        "prefix": kind.prefix,
        "count": kind.count,
        "length": kind.length,
        "used_at": USED_AT,
    }
    connection.execute(_CONVERSATIONS, values)


def _fill_messages(
    url: DatabaseUrl, kinds: Sequence[Kind], text: str, key: str | None, session: tuple[int, int]
) -> None:
    user_counts = [kind.user_count for kind in kinds]
    values = {
        "owner_ids": [owner_id for kind in kinds for owner_id in kind.owner_ids],
        "offsets": [0, *accumulate(user_counts)][: len(kinds)],
        "user_counts": user_counts,
        "prefixes": [kind.prefix for kind in kinds],
        "counts": [kind.count for kind in kinds],
        "lengths": [kind.length for kind in kinds],
        "session": session[0],
        "sessions": session[1],
        "used_at": USED_AT,
        "text": text,
        "metadata": METADATA.decode(),
        "body_bytes": len(text) + len(METADATA),
        "key": key,
        "fingerprint": sha256(MESSAGE).digest() if key else None,
    }
    with _connected(url) as connection:
        connection.execute("SET session_replication_role = replica")  # the conversations are there: no need to look
        connection.execute("SET work_mem = '1GB'")
        connection.execute(_MESSAGES, values)


def vacuum(url: DatabaseUrl) -> None:
    """Leaves nothing for autovacuum to do in the middle of a series."""
    with _connected(url) as connection:
        connection.execute("VACUUM (ANALYZE) conversations, messages")


class Tally(Struct, frozen=True):
    """What is stored, and of how many conversations it is not count = max(seq) = last_seq."""

    message_count: int
    wrong_count: int


def tally(url: DatabaseUrl) -> Tally:
    """Counts all of it."""
    with _connected(url) as connection:
        (wrong_count,) = connection.execute(_WRONG).fetchone() or (0,)
        (message_count,) = connection.execute("SELECT count(*) FROM messages").fetchone() or (0,)
    return Tally(message_count, wrong_count)
