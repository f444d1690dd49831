"""What the benchmark's databases hold, and whether they still hold what they must."""

from hashlib import sha256

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
    used_at - interval '1 hour', used_at, date_trunc('minute', used_at)
FROM
    generate_series(0, %(count)s - 1) AS n,
    LATERAL (SELECT now() - interval '1 day' + n * interval '1 second' AS used_at)
"""
# Round by round through all conversations: each row of a page lies on another page of the heap.
_MESSAGES = """
INSERT INTO messages (
    owner_id, conversation_id, seq, created_at, body_bytes, role, status, content, metadata,
    append_key, append_count, fingerprint
)
SELECT
    (%(owner_ids)s::uuid[])[n %% cardinality(%(owner_ids)s::uuid[]) + 1],
    (%(prefix)s || lpad(n::text, 12, '0'))::uuid,
    seq, now() - interval '2 days' + seq * interval '1 second', %(body_bytes)s,
    CASE WHEN seq %% 2 = 1 THEN 'user' ELSE 'assistant' END, 'completed',
    to_json('Message ' || seq || ' of ' || n || ': ' || %(text)s), %(metadata)s::json,
    CASE WHEN seq = %(length)s THEN %(key)s END,
    CASE WHEN seq = %(length)s THEN 1 END,
    CASE WHEN seq = %(length)s THEN %(fingerprint)s::bytea END
FROM
    generate_series(0, %(count)s::bigint * %(length)s - 1) AS place,
    LATERAL (SELECT place %% %(count)s AS n, place / %(count)s + 1 AS seq)
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


def fill(url: DatabaseUrl, *kinds: Kind) -> None:
    """Makes the conversations with their messages, and cleans up behind it."""
    with psycopg.connect(**url.for_libpq(), autocommit=True) as connection:
        for kind in kinds:
            for number in range(kind.user_count):
                owner = owner_of(TENANT, kind.user(number))
                connection.execute(
                    "INSERT INTO owners VALUES (%s, %s, %s, now())", (owner.id, owner.tenant_id, owner.user_id)
                )
            values = {
                "owner_ids": kind.owner_ids,
                "prefix": kind.prefix,
                "count": kind.count,
                "length": kind.length,
                "text": TEXT,
                "metadata": METADATA.decode(),
                "body_bytes": len(CONTENT) + len(METADATA),
                "key": REPLAY_KEY,
                "fingerprint": sha256(MESSAGE).digest(),
            }
            connection.execute(_CONVERSATIONS, values)
            connection.execute(_MESSAGES, values)
        connection.execute("VACUUM (FREEZE, ANALYZE)")
        connection.execute("CHECKPOINT")


def vacuum(url: DatabaseUrl) -> None:
    """Leaves nothing for autovacuum to do in the middle of a series."""
    with psycopg.connect(**url.for_libpq(), autocommit=True) as connection:
        connection.execute("VACUUM (ANALYZE) conversations, messages")


class Tally(Struct, frozen=True):
    """What is stored, and of how many conversations it is not count = max(seq) = last_seq."""

    message_count: int
    wrong_count: int


def tally(url: DatabaseUrl) -> Tally:
    """Counts all of it."""
    with psycopg.connect(**url.for_libpq()) as connection:
        (wrong_count,) = connection.execute(_WRONG).fetchone() or (0,)
        (message_count,) = connection.execute("SELECT count(*) FROM messages").fetchone() or (0,)
    return Tally(message_count, wrong_count)
