"""Who follows which conversations: one statement at a time looks at the heads of all of them.

No connection is held for a follower, and nothing is written for one: what was written in this process wakes its
followers at once, what others wrote is seen when the heads are looked at next.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Hashable, Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import TypeVar
from uuid import UUID

from msgspec import Struct

from app.auth import Caller, Token
from app.clock import TICK_SECONDS, Clock, Sleeper
from app.database import Database
from app.errors import Unavailable
from app.logs import log_broken
from app.settings import Settings
from app.stores.heads import (
    TOLD_LIMIT,
    ChangedConversation,
    Followed,
    FollowedHead,
    FollowedOwners,
    list_changed_conversations,
    list_moved_heads,
)

KeyT = TypeVar("KeyT", bound=Hashable)

GATHER_SECONDS = 0.1
"""How long what is written here waits, so that an owner who writes much is looked at once for many writes."""

_POOL_SHARE = 4
_CREDENTIAL_SECONDS = 4.0
_logger = logging.getLogger("verbatim.heads")


class Told(Struct, frozen=True):
    """How a conversation stood when its owner's followers were told of it."""

    last_seq: int
    revision: int
    told_at: datetime


class Follower(Sleeper):
    """One stream that follows a conversation, or all of an owner's."""

    def __init__(self, token: Token, turn: asyncio.Semaphore, clock: Clock, eager: "set[Follower]") -> None:
        super().__init__(clock)
        self._eager = eager
        self.token = token
        self.turn = turn
        """To be held while it looks: of however many are woken at once, few have a connection."""
        self.is_over = False
        """Whether it should go and come back: this process stops, or its credentials are no good any more."""
        self.told: dict[UUID, Told] = {}
        """For an owner's follower: what changed since it looked last."""
        self.has_missed = False
        """For an owner's follower: more changed than can be told."""

    def set_eager(self, *, is_eager: bool) -> None:
        """Says whether it follows a reply that another replica may be making."""
        if is_eager:
            self._eager.add(self)
        else:
            self._eager.discard(self)


class _Watch:
    """What is followed, by whom, and how it was found last."""

    def __init__(self) -> None:
        self.followers: set[Follower] = set()
        self.head = FollowedHead()
        self.seen: dict[UUID, tuple[int, int]] = {}

    def wake(self) -> None:
        for follower in self.followers:
            follower.wake()


class Heads:
    """All followers of this process."""

    def __init__(
        self,
        database: Database,
        settings: Settings,
        find_bad: Callable[[Collection[Token]], Awaitable[set[Token]]],
        is_draining: Callable[[], bool],
    ) -> None:
        self._database, self._settings = database, settings
        self._find_bad, self._is_draining = find_bad, is_draining
        self._conversations: dict[tuple[UUID, UUID], _Watch] = {}
        self._owners: dict[UUID, _Watch] = {}
        self._followed: Followed | None = None
        self._followed_owners: FollowedOwners | None = None
        self._eager: set[Follower] = set()
        self._due_owners: set[UUID] = set()
        self._told_owners: set[UUID] = set()
        self._turn = asyncio.Semaphore(max(1, settings.pool_size // _POOL_SHARE))
        self._clock = Clock()
        self._sleeper = Sleeper(self._clock)
        self._task: asyncio.Task[None] | None = None
        database.listen(self._on_written)

    async def close(self) -> None:
        """Looks no more."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})

    @contextmanager
    def follow(self, caller: Caller, conversation_id: UUID, *, is_eager: bool = False) -> Iterator[Follower]:
        """Follows a conversation of the caller while the block runs."""
        with self._following(self._conversations, (caller.owner.id, conversation_id), caller.token) as follower:
            follower.set_eager(is_eager=is_eager)
            yield follower

    @contextmanager
    def follow_owner(self, caller: Caller) -> Iterator[Follower]:
        """Follows all conversations of the caller while the block runs."""
        with self._following(self._owners, caller.owner.id, caller.token) as follower:
            yield follower

    @contextmanager
    def _following(self, watches: dict[KeyT, _Watch], key: KeyT, token: Token) -> Iterator[Follower]:
        follower = Follower(token, self._turn, self._clock, self._eager)
        watch = watches.setdefault(key, _Watch())
        watch.followers.add(follower)
        self._followed = self._followed_owners = None
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run())
        try:
            yield follower
        finally:
            follower.set_eager(is_eager=False)
            watch.followers.discard(follower)
            if not watch.followers:
                watches.pop(key, None)
                self._followed = self._followed_owners = None

    def wake(self, owner_id: UUID, conversation_id: UUID) -> None:
        """Has the followers of a conversation look at it at once."""
        self._on_written((owner_id, conversation_id))

    def _on_written(self, lane: Hashable) -> None:
        """A lane is an owner with a conversation, or with the key of one."""
        match lane:
            case (UUID() as owner_id, thing):
                if isinstance(thing, UUID) and (watch := self._conversations.get((owner_id, thing))):
                    watch.wake()
                if owner_id in self._owners:
                    self._due_owners.add(owner_id)
                    self._sleeper.wake()

    async def _run(self) -> None:
        """Looks as long as there is a follower."""
        time = asyncio.get_running_loop().time
        next_look_at = gathered_at = time()
        next_check_at = time() + _CREDENTIAL_SECONDS
        while self._conversations or self._owners:
            await self._sleeper.wait(0)
            if time() < gathered_at:
                await asyncio.sleep(gathered_at - time())
            if self._is_draining():
                self._end_all()
            is_full = time() >= next_look_at
            if is_full:
                next_look_at = time() + self._settings.follow_seconds - TICK_SECONDS / 2
            try:
                await self._look(is_full=is_full)
                if time() >= next_check_at:
                    next_check_at = time() + _CREDENTIAL_SECONDS
                    await self._check_credentials()
            except Unavailable:
                continue  # the database has its own line in the log
            except Exception as error:  # noqa: BLE001  # the followers of everybody hang on it
                log_broken(_logger, error)
                await asyncio.sleep(self._settings.follow_seconds)
            finally:
                gathered_at = time() + GATHER_SECONDS

    def _end_all(self) -> None:
        for watch in [*self._conversations.values(), *self._owners.values()]:
            for follower in watch.followers:
                follower.is_over = True
            watch.wake()

    async def _look(self, *, is_full: bool) -> None:
        followed = self._to_look_at() if is_full else self._hurried()
        owners = self._owners_to_look_at() if is_full else FollowedOwners(self._due_owners & self._owners.keys())
        self._due_owners.clear()
        if not followed.keys and not owners.ids:
            return
        async with self._database.connection() as connection:
            moved = await list_moved_heads(connection, followed) if followed.keys else {}
            changed = await list_changed_conversations(connection, owners) if owners.ids else []
        for key, head in moved.items():
            if watch := self._conversations.get(key):
                watch.head = head
                watch.wake()
        if moved and self._followed is not None:  # else one of them came or went meanwhile
            self._followed.move(moved)
        self._tell_owners(owners, changed)

    def _to_look_at(self) -> Followed:
        """All conversations, made ready once for all looks until one of them comes or goes."""
        if self._followed is None:
            self._followed = Followed({key: watch.head for key, watch in self._conversations.items()})
        return self._followed

    def _owners_to_look_at(self) -> FollowedOwners:
        if self._followed_owners is None:
            self._followed_owners = FollowedOwners(self._owners)
        return self._followed_owners

    def _hurried(self) -> Followed:
        if not self._eager:
            return Followed({})
        is_calm = self._eager.isdisjoint
        return Followed({key: watch.head for key, watch in self._conversations.items() if not is_calm(watch.followers)})

    def _tell_owners(self, owners: FollowedOwners, changed: list[ChangedConversation]) -> None:
        rows_of: dict[UUID, list[ChangedConversation]] = {owner_id: [] for owner_id in self._told_owners & owners.ids}
        self._told_owners &= self._owners.keys()
        for row in changed:
            rows_of.setdefault(row.owner_id, []).append(row)
        for owner_id, rows in rows_of.items():
            self._told_owners.discard(owner_id)
            watch = self._owners.get(owner_id)
            if watch is None:
                continue
            seen = {row.id: (row.last_seq, row.revision) for row in rows}
            for follower in watch.followers:
                follower.has_missed |= len(rows) >= TOLD_LIMIT
                for row in rows:
                    if watch.seen.get(row.id) != seen[row.id]:
                        follower.told[row.id] = Told(row.last_seq, row.revision, row.told_at)
                if len(follower.told) > TOLD_LIMIT:  # its client reads too slowly
                    follower.told.clear()
                    follower.has_missed = True
                if follower.told or follower.has_missed:
                    follower.wake()
            watch.seen = seen
            if seen:
                self._told_owners.add(owner_id)

    async def _check_credentials(self) -> None:
        followers = [
            follower
            for watch in [*self._conversations.values(), *self._owners.values()]
            for follower in watch.followers
        ]
        bad = await self._find_bad([follower.token for follower in followers])
        for follower in followers if bad else ():
            if follower.token in bad:
                follower.is_over = True
                follower.wake()
