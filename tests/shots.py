"""The README's pictures: `make shots` takes them of a service of its own, with the tests' browser."""

# ruff: noqa: E501, RUF001  # what is said in the pictures, also in Arabic, and the figures' columns, are lines of their own

import asyncio
import math
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
from msgspec.structs import replace
from playwright.async_api import Browser, Page, expect

from app.database import connect
from app.embedded import embedded_postgres
from app.identifiers import owner_id_of
from app.migrations import migrate
from app.queries import Conn
from app.stores import service_keys
from tests.browsers import chromium, visitor
from tests.conftest import PATIENT
from tests.live import replica
from tests.processes import new_data_dir

DOCS = Path(__file__).parent.parent / "docs"
TENANT, USER = "harbour", "maria"
WIDE = {"width": 1280, "height": 800}
PHONE = {"width": 390, "height": 780}

ANSWER = """\
Mostly **time in contact with yeast**. A slow, cool proof gives it three things:

1. *Organic acids*, which is where the tang comes from
2. Sugars freed by enzymes, which brown in the oven
3. A dough that holds its shape, since gluten orders itself while it rests

A schedule that fits a working day:

| step | at | for |
|---|---|---|
| mix and fold | 26 °C | 4 h |
| shape | room | 15 min |
| proof | 4 °C | 12 to 16 h |

```python
def hydration(water_g: float, flour_g: float) -> float:
    return round(100 * water_g / flour_g, 1)

hydration(375, 500)  # 75.0
```

Bake it straight from the fridge: cold dough scores cleaner.
"""
BREAD = [
    {"role": "user", "content": "Why does my sourdough taste better when it proofs overnight in the fridge?"},
    {"role": "assistant", "content": ANSWER, "model": "m-large", "usage": {"input_tokens": 41, "output_tokens": 212}},
    {"role": "user", "content": "And if I only have two hours?"},
    {
        "role": "assistant",
        "content": "Then take more starter (30 % of the flour), keep it at 28 °C, and expect a milder loaf. "
        "It will still be *very* good bread.",
        "model": "m-large",
        "usage": {"input_tokens": 268, "output_tokens": 38},
    },
]
CALLS = [
    {
        "id": "c1",
        "type": "function",
        "function": {"name": "find_trains", "arguments": '{"from":"Lisboa","to":"Porto"}'},
    },
    {
        "id": "c2",
        "type": "function",
        "function": {"name": "get_weather", "arguments": '{"city":"Porto","day":"Saturday"}'},
    },
]
TRAIN = [
    {"role": "user", "content": "I want to be in Porto by noon on Saturday. Which train, and do I need a coat?"},
    {"role": "assistant", "content": "Let me look both up.", "tool_calls": CALLS, "model": "m-large"},
    {
        "role": "tool",
        "tool_call_id": "c1",
        "content": '[{"train":"AP 121","leaves":"08:09","arrives":"10:52","seats":14}]',
    },
    {"role": "tool", "tool_call_id": "c2", "content": '{"max":17,"rain_mm":3,"wind_kmh":28}'},
    {
        "role": "assistant",
        "content": "Take **AP 121**: it leaves at 08:09 and arrives at 10:52, with 14 seats left.\n\n"
        "Bring a *light rain coat*: 17 °C, a little rain, and wind from the sea.",
        "model": "m-large",
        "usage": {"input_tokens": 388, "output_tokens": 57},
    },
]
POEM = [
    {"role": "user", "content": "اكتب لي قصيدة قصيرة عن البحر، مع شرح بعض الكلمات."},
    {
        "role": "assistant",
        "content": "## قصيدة عن البحر\n\nهذه قصيدة **قصيرة** من بيتين:\n\n> يعود الموج كل مساء إلى الشاطئ\n> ويحكي للرمل ما رآه\n\n"
        "أما الكلمات فهي:\n\n1. الموج: ما يرتفع من ماء البحر\n2. الشاطئ: حيث يلتقي البحر واليابسة\n\n"
        "| الكلمة | in English |\n|---|---|\n| البحر | the sea |\n| الموج | the waves |\n| الرمل | the sand |",
        "model": "m-large",
        "usage": {"input_tokens": 33, "output_tokens": 118},
    },
]
OTHERS = {
    "Names for a lighthouse café": 0.3, "Reading list on tides": 1.1, "Translate the harbour notice": 1.2,
    "Knots, from memory": 2.1, "Budget for the small boat": 2.3, "A letter to the council": 3.2,
    "Breakfast at the fish market": 3.4, "Rust or Go for the gauge reader?": 4.2, "Weekend in Porto": 5.1, "Why is the sea salty?": 6.3,
}  # fmt: skip


async def fill(client: httpx.AsyncClient, connection: Conn) -> tuple[str, str, str]:
    """The conversations of somebody who likes bread and the sea; the ids of three of them."""
    ids = {}
    shown = {"Better bread": (BREAD, 0.05), "Saturday in Porto": (TRAIN, 0.1), "قصيدة عن البحر": (POEM, 1.4)}
    talks: dict[str, tuple[list[dict[str, Any]], float]] = {name: (BREAD[:2], days) for name, days in OTHERS.items()}
    for name, (messages, days) in {**talks, **shown}.items():
        answer = await client.post("/v1/conversations", json={"title": name, "messages": messages})
        ids[name] = answer.raise_for_status().json()["id"]
        then = datetime.now(UTC) - timedelta(days=days)
        for statement in (
            "UPDATE conversations SET updated_at = $2, active_at = date_trunc('minute', $2::timestamptz) WHERE id = $1",
            "UPDATE messages SET created_at = $2::timestamptz + seq * interval '20 s' WHERE conversation_id = $1",
        ):
            await connection.execute(statement, ids[name], then)
    await client.patch(f"/v1/conversations/{ids['Names for a lighthouse café']}", json={"pinned": True})
    return ids["Better bread"], ids["Saturday in Porto"], ids["قصيدة عن البحر"]


async def count(connection: Conn) -> None:
    """90 days of a tenant that grows, and rests on Sundays."""
    today = datetime.now(UTC).date()
    await connection.executemany(
        "INSERT INTO owners (id, tenant_id, user_id, created_at) VALUES ($1, $2, $3, now())",
        [(owner_id_of(TENANT, f"user-{number}"), TENANT, f"user-{number}") for number in range(300)],
    )
    for ago in range(90):
        day = today - timedelta(days=ago)
        rest = (0.45 if day.weekday() == 6 else 0.7 if day.weekday() == 5 else 1.0) * (
            0.4 if ago == 0 else 1.0
        )  # Sunday, Saturday
        size = int((420 + 4 * (90 - ago) + 40 * math.sin(ago * 1.7)) * rest)
        await connection.execute(
            "INSERT INTO tenant_days (tenant_id, day, conversation_count, new_conversation_count, active_user_count,"
            " user_message_count, assistant_message_count, tool_message_count, system_message_count,"
            " developer_message_count, input_tokens, output_tokens, median_turns, median_duration_seconds, is_stale)"
            " VALUES ($1, $2, $3, $4, $5, $6, $7, $8, 0, 0, $9, $10, 4, 312, false)",
            TENANT, day, size, size * 2 // 3, size // 3, size * 5, size * 5, size, size * 3100, size * 900,
        )  # fmt: skip
        users = [(owner_id_of(TENANT, f"user-{number}"), day, TENANT) for number in range(size // 3)]
        await connection.executemany("INSERT INTO owner_days (owner_id, day, tenant_id) VALUES ($1, $2, $3)", users)
    await connection.execute("UPDATE rollups SET rolled_up_at = now()")


class Album:
    """Takes pictures of one service."""

    def __init__(self, browser: Browser, address: str, key: str, admin_key: str) -> None:
        self._browser, self._address = browser, address
        self._keys = {"": key, "admin": admin_key}

    async def take(self, name: str, path: str, *, key: str = "", size: dict[str, int] = WIDE, **options: Any) -> None:
        """A picture of a page once it stands; a page with a tool call has it opened."""
        async with visitor(self._browser, self._address, viewport=size, **options) as context:
            page = await context.new_page()
            await page.goto(f"{self._address}{path}#key={self._keys[key]}")
            await self._settle(page, name)
            await page.screenshot(path=DOCS / f"{name}.png", animations="disabled", caret="hide")

    async def _settle(self, page: Page, name: str) -> None:
        if name == "console-activity":
            await expect(page.locator("svg").first).to_be_visible()
            return
        await expect(page.locator(".row > a").first).to_be_attached()
        if name == "console-list":
            await page.get_by_label("Open the list").click()
            await expect(page.locator(".row > a").first).to_be_visible()
        else:
            await expect(page.locator(".message").last).to_be_visible()
        if name == "console-tools":
            await page.locator("summary").last.click()
        await page.locator(".scroller[role=region]").evaluate("scroller => { scroller.scrollTop = 0 }")


async def main() -> None:
    """Takes them all."""
    DOCS.mkdir(exist_ok=True)
    async with AsyncExitStack() as stack:
        data_dir = stack.enter_context(new_data_dir("verbatim-shots"))
        url = stack.enter_context(embedded_postgres(data_dir)).url()
        migrate(url)
        connection = await connect(url, 10)
        stack.push_async_callback(connection.close)
        key, admin_key = service_keys.new_key(), service_keys.new_key()
        await service_keys.create_service_key(connection, key, TENANT, USER, is_admin=False)
        await service_keys.create_service_key(connection, admin_key, TENANT, None, is_admin=True)
        here = await stack.enter_async_context(replica(replace(PATIENT, model_name="m-large"), url))
        bread, train, poem = await fill(await stack.enter_async_context(here.client(key)), connection)
        await count(connection)
        album = Album(await stack.enter_async_context(chromium()), here.address, key, admin_key)
        phone: dict[str, Any] = {"size": PHONE, "device_scale_factor": 2, "has_touch": True}
        await album.take("console-chat", f"/c/{bread}")
        await album.take("console-tools", f"/c/{train}")
        await album.take("console-dark", f"/c/{poem}", color_scheme="dark")
        await album.take("console-activity", "/activity", key="admin")
        await album.take("console-phone", f"/c/{train}", **phone)
        await album.take("console-list", f"/c/{train}", **phone)


if __name__ == "__main__":
    asyncio.run(main())
