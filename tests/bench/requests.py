"""The requests of a load, as the bytes that go over the wire."""

from msgspec import Struct

from tests.bench.data import MESSAGE, REPLAY_KEY, Kind

UNIQUE = b"@unique@"
"""Stands where each request is to have a text of its own."""
BATCH = 1000
BATCH_BODY = b'{"messages":[' + b",".join([MESSAGE] * BATCH) + b"]}"


class Call(Struct, frozen=True, kw_only=True):
    """One kind of request, made for every conversation of a kind."""

    method: str = "GET"
    path: str
    body: bytes | None = None
    headers: tuple[tuple[str, bytes], ...] = ()


APPEND = Call(method="POST", path="/v1/conversations/{id}/messages", body=MESSAGE)
KEYED_APPEND = Call(method="POST", path=APPEND.path, body=MESSAGE, headers=(("Idempotency-Key", UNIQUE),))
REPLAY = Call(method="POST", path=APPEND.path, body=MESSAGE, headers=(("Idempotency-Key", REPLAY_KEY.encode()),))
BULK_APPEND = Call(method="POST", path=APPEND.path, body=BATCH_BODY)
LAST_50 = Call(path="/v1/conversations/{id}/messages?order=desc&limit=50")
LIST_20 = Call(path="/v1/conversations")
GET_OR_CREATE = Call(method="PUT", path="/v1/conversations/by-key/default")
BASELINE_APPEND = Call(method="POST", path="/conversations/{id}/messages", body=MESSAGE)
BASELINE_50 = Call(path="/conversations/{id}/messages?limit=50")
BASELINE_20 = Call(path="/conversations?limit=20")
EMPTY = Call(path="/")


class Address(Struct, frozen=True):
    """Where a service listens, and the key that it wants."""

    host: str
    port: int
    key: str = ""


def requests_of(call: Call, address: Address, kind: Kind, limit: int | None = None) -> list[bytes]:
    """One request for each conversation."""
    requests = []
    for number in range(kind.count if limit is None else limit):
        headers = {"Host": f"{address.host}:{address.port}".encode(), "X-User-Id": kind.user(number).encode()}
        if address.key:
            headers["Authorization"] = f"Bearer {address.key}".encode()
        if call.body is not None:
            headers |= {"Content-Type": b"application/json", "Content-Length": str(len(call.body)).encode()}
        line = f"{call.method} {call.path.format(id=kind.id(number))} HTTP/1.1\r\n".encode()
        head = b"".join(name.encode() + b": " + value + b"\r\n" for name, value in (*headers.items(), *call.headers))
        requests.append(line + head + b"\r\n" + (call.body or b""))
    return requests
