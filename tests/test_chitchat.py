"""Human conversations of chitchat-dataset, through a durable service that is killed half-way.

Each 64th of the 7,168, or with the fault tests all of them.
"""

import logging
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import cache
from http.client import HTTPConnection, HTTPException
from importlib.util import find_spec
from itertools import count
from pathlib import Path
from threading import Event
from time import monotonic
from typing import Any

import msgspec
import pytest
from msgspec import Raw, Struct

from tests.processes import Service, new_data_dir, run_verbatim

USERS = [f"user-{number}" for number in range(8)]
BATCH_SIZE = 60
PAGE_SIZE = 100

_logger = logging.getLogger(__name__)


class Message(Struct, frozen=True):
    """What is sent and must come back: the payloads are the bytes of the wire."""

    role: str
    content: Raw
    metadata: Raw


class Chat(Struct, frozen=True):
    """A conversation of the dataset."""

    key: str
    about: dict[str, object]
    messages: list[Message]


class Conversation(Struct, frozen=True):
    id: str
    key: str
    last_seq: int
    revision: int
    updated_at: str


class Page(Struct, frozen=True):
    data: list[Raw]
    has_more: bool
    next_cursor: str | None


class Place(Struct, frozen=True):
    seq: int


class Appended(Struct, frozen=True):
    messages: list[Place]


class Answer(Struct, frozen=True):
    status: int
    is_replay: bool
    content: bytes


@cache
def read_chats(part: int) -> dict[str, list[Chat]]:
    """One in so many conversations of the dataset, dealt out to the users."""
    spec = find_spec("chitchat_dataset")  # its import would decode it all, slowly
    assert spec
    assert spec.submodule_search_locations
    dataset = msgspec.json.decode(Path(spec.submodule_search_locations[0], "dataset.json").read_bytes())
    chats = [new_chat(key, conversation) for key, conversation in list(dataset.items())[::part]]
    return {user: chats[number :: len(USERS)] for number, user in enumerate(USERS)}


def new_chat(key: str, conversation: dict[str, Any]) -> Chat:
    said = [utterance for turn in conversation.pop("messages") for utterance in turn]
    messages = [
        Message(
            "user" if utterance["sender"] == said[0]["sender"] else "assistant",
            Raw(msgspec.json.encode(utterance["text"])),
            Raw(msgspec.json.encode({"timestamp": utterance["timestamp"]})),
        )
        for utterance in said
    ]
    return Chat(key, {"title": conversation.get("prompt"), "metadata": conversation}, messages)


class Site:
    """The service on one address and its data, whatever happens to its process."""

    def __init__(self, data_dir: Path, chats: dict[str, list[Chat]]) -> None:
        self.data_dir, self.chats = data_dir, chats
        self.service = Service("--local", VERBATIM_DATA_DIR=data_dir)
        self.address = self.service.wait_for_address().removeprefix("http://")
        self.key = run_verbatim("keys", "create", "--tenant", "chitchat", VERBATIM_DATA_DIR=data_dir).stdout.strip()
        self.is_up = Event()
        self.is_up.set()
        self.unanswered_count = 0

    def crash(self) -> None:
        """Kills the service, not its PostgreSQL, and starts it again."""
        self.is_up.clear()
        self.service.close()
        port = self.address.rpartition(":")[2]
        self.service = Service("--local", VERBATIM_DATA_DIR=self.data_dir, VERBATIM_PORT=port)
        self.service.wait_for_address()
        self.is_up.set()

    def as_each_user(self, work: Callable[["Client", str], None]) -> None:
        """Does the work as all users at once."""

        def work_as(user: str) -> None:
            with closing(Client(self, user)) as client:
                work(client, user)

        begun_at = monotonic()
        with ThreadPoolExecutor(len(USERS)) as threads:
            list(threads.map(work_as, USERS))
        _logger.info("%s: %.1f s", work.__name__, monotonic() - begun_at)


class Client:
    """A user's connection; http.client takes an eighth of the time of httpx, which is most of this test's otherwise."""

    def __init__(self, site: Site, user: str) -> None:
        self._site = site
        self._connection = HTTPConnection(site.address, timeout=30)
        self._headers = {"Authorization": f"Bearer {site.key}", "X-User-Id": user, "Content-Type": "application/json"}

    def send(self, method: str, path: str, body: bytes | None = None, **headers: str) -> Answer:
        """The answer, which is a good one; a request without an answer is repeated once the service is up."""
        while True:
            self._site.is_up.wait()
            try:
                self._connection.request(method, path, body, self._headers | headers)
                response = self._connection.getresponse()
                content = response.read()
            except (OSError, HTTPException):
                self._connection.close()
                self._site.unanswered_count += 1
                assert self._site.unanswered_count <= len(USERS), "it is down though nobody killed it"
                continue
            assert response.status in {200, 201}, content
            return Answer(response.status, response.getheader("Idempotent-Replay") == "true", content)

    def close(self) -> None:
        self._connection.close()

    def read_pages(self, path: str) -> Iterator[Raw]:
        """All of a list, page by page."""
        page = Page([], has_more=True, next_cursor=None)
        while page.has_more:
            after = f"&after={page.next_cursor}" if page.next_cursor else ""
            page = msgspec.json.decode(self.send("GET", f"{path}?limit={PAGE_SIZE}{after}").content, type=Page)
            yield from page.data


def load(site: Site, crash_after: int | None = None) -> Counter[tuple[str, int, bool]]:
    """Sends everything; counts the answers by what they were. After so many requests the service is killed."""
    answers: list[tuple[str, int, bool]] = []
    numbers = count(1)

    def send(client: Client, method: str, path: str, body: object, **headers: str) -> bytes:
        answer = client.send(method, path, msgspec.json.encode(body), **headers)
        answers.append((method, answer.status, answer.is_replay))
        if next(numbers) == crash_after:
            site.crash()
        return answer.content

    def load_chats(client: Client, user: str) -> None:
        for chat in site.chats[user]:
            if USERS.index(user) % 2:
                opened = send(client, "PUT", f"/v1/conversations/by-key/{chat.key}", chat.about)
                start = 0
            else:
                body = {**chat.about, "key": chat.key, "messages": chat.messages[:BATCH_SIZE]}
                opened = send(client, "POST", "/v1/conversations", body, **{"Idempotency-Key": chat.key})
                start = BATCH_SIZE
            path = f"/v1/conversations/{msgspec.json.decode(opened, type=Conversation).id}/messages"
            for seq in range(start, len(chat.messages), BATCH_SIZE):
                batch = chat.messages[seq : seq + BATCH_SIZE]
                done = send(client, "POST", path, {"messages": batch}, **{"Idempotency-Key": f"{chat.key}/{seq}"})
                seqs = [place.seq for place in msgspec.json.decode(done, type=Appended).messages]
                assert seqs == list(range(seq + 1, seq + len(batch) + 1))

    site.as_each_user(load_chats)
    return Counter(answers)


def list_all(site: Site) -> dict[str, list[Conversation]]:
    """Every user's conversations, in the order of the list."""
    listed = {}

    def list_conversations(client: Client, user: str) -> None:
        rows = client.read_pages("/v1/conversations")
        listed[user] = [msgspec.json.decode(row, type=Conversation) for row in rows]

    site.as_each_user(list_conversations)
    return listed


@pytest.fixture(scope="module", params=[64, pytest.param(1, marks=pytest.mark.faults)], ids=["some", "all"])
def site(request: pytest.FixtureRequest) -> Iterator[Site]:
    """All chats are in it; when half of them were, the service was killed."""
    with new_data_dir() as data_dir:
        site = Site(data_dir, read_chats(request.param))
        try:
            load(site, crash_after=6000 // request.param)
            assert site.unanswered_count > 0
            yield site
            assert site.service.stop(signal.SIGTERM) == 0
        finally:
            site.service.close()


def test_every_conversation_is_listed_once_to_its_user(site: Site) -> None:
    for user, listed in list_all(site).items():
        expected = {chat.key: len(chat.messages) for chat in site.chats[user]}
        assert len(listed) == len(expected)
        assert {conversation.key: conversation.last_seq for conversation in listed} == expected
        times = [conversation.updated_at for conversation in listed]
        assert times == sorted(times, reverse=True)


def test_every_message_is_there_once_in_order_byte_for_byte(site: Site) -> None:
    listed = list_all(site)

    def read_messages(client: Client, user: str) -> None:
        ids = {conversation.key: conversation.id for conversation in listed[user]}
        for chat in site.chats[user]:
            rows = list(client.read_pages(f"/v1/conversations/{ids[chat.key]}/messages"))
            seqs = [msgspec.json.decode(row, type=Place).seq for row in rows]
            assert seqs == list(range(1, len(chat.messages) + 1))
            assert [msgspec.json.decode(row, type=Message) for row in rows] == chat.messages

    site.as_each_user(read_messages)


def test_a_second_load_changes_nothing(site: Site) -> None:
    before = list_all(site)
    answers = load(site)
    assert set(answers) == {("PUT", 200, False), ("POST", 200, True)}
    assert answers["PUT", 200, False] == sum(len(site.chats[user]) for user in USERS[1::2])
    assert list_all(site) == before
