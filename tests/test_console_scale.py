"""The console with more than anybody reads: no gap, no jump, no stutter, and few nodes."""

from uuid import UUID

import httpx
import pytest
from playwright.async_api import Page, expect

from app.identifiers import owner_id_of
from app.queries import Conn
from tests.conftest import new_conversation
from tests.consoles import Visit, alice, asking, here, key, model, path_of, person, rows, visit
from tests.hostile_markdown import HUGE
from tests.live import Replica

pytestmark = pytest.mark.shares_app

NODES_LIMIT = 1500
FIRST_SEEN = 49_500
LONGEST_TASK_MS = 100
ORDINARY_LOOP_MS = 25  # on a machine for which the limit is meant; a slower one has more
TIME_A_LOOP = """() => {
    const begun = performance.now();
    for (let i = 0, x = 0; i < 2e7; i++) x = (x * 31 + i) | 0;
    return performance.now() - begun;
}"""
COUNT_NODES = """() => {
    const count = (root) => [...root.querySelectorAll("*")].reduce(
        (sum, element) => sum + 1 + (element.shadowRoot ? count(element.shadowRoot) : 0), 0);
    return count(document);
}"""
WATCH_TASKS = """() => {
    window.tasks = [];
    new PerformanceObserver((list) => tasks.push(...list.getEntries().map(({ duration }) => duration)))
        .observe({ type: "longtask" });
}"""
SCROLL_BACK = """async () => {
    const root = document.querySelector("verbatim-chat").shadowRoot;
    const scroller = root.querySelector(".scroller");
    const frame = () => new Promise(requestAnimationFrame);
    const top = (element) => element.firstElementChild.getBoundingClientRect().top;
    const seen = new Set();
    let jump = 0, still = 0;
    while (still < 600 && !seen.has(1)) {
        const items = [...root.querySelectorAll(".message")];
        const before = seen.size;
        const seqs = items.map((item) => Number(item.dataset.seq));
        if (seqs.some((seq, place) => place && seq !== seqs[place - 1] + 1)) throw new Error(`a gap: ${seqs}`);
        seqs.forEach((seq) => seen.add(seq));
        still = seen.size > before ? 0 : still + 1;
        scroller.scrollTop -= 4000;
        const anchor = items.find((item) => item.getBoundingClientRect().bottom > 0);
        const was = top(anchor);
        await frame();
        await frame();
        if (anchor.isConnected) jump = Math.max(jump, Math.abs(top(anchor) - was));
    }
    return { count: seen.size, first: Math.min(...seen), jump };
}"""


async def fill(connection: Conn, owner_id: UUID, conversation_id: UUID, count: int) -> None:
    """Gives a conversation so many messages."""
    await connection.execute(
        """
        INSERT INTO messages (owner_id, conversation_id, seq, created_at, body_bytes, role, status, content)
        SELECT $1, $2, n, now() - interval '1 minute' * ($3 - n), 100,
            CASE n % 2 WHEN 0 THEN 'assistant' ELSE 'user' END, 'completed',
            to_json('Number **' || n || '** ' || repeat('says a little more, ', n % 7 * (1 + n % 2 * 3)))
        FROM generate_series(1, $3) AS n
        """,
        owner_id,
        conversation_id,
        count,
    )
    await connection.execute(
        "UPDATE conversations SET last_seq = $3, user_message_count = $3 WHERE owner_id = $1 AND id = $2",
        owner_id,
        conversation_id,
        count,
    )


async def crowd(connection: Conn, owner_id: UUID, count: int) -> None:
    """Gives an owner so many conversations, ten a day."""
    await connection.execute(
        """
        INSERT INTO conversations (owner_id, id, created_at, updated_at, active_at, title, metadata)
        SELECT $1, gen_random_uuid(), time, time, date_trunc('minute', time), 'Conversation ' || n, '{}'
        FROM generate_series(1, $2) AS n, LATERAL (SELECT now() - n * interval '2.4 hours' AS time) AS t
        """,
        owner_id,
        count,
    )


async def long_talk(alice: httpx.AsyncClient, connection: Conn, tenant: str, count: int) -> str:
    path = await new_conversation(alice, title="long")
    await fill(connection, owner_id_of(tenant, "alice"), UUID(path.rpartition("/")[2]), count)
    return path_of(path)


async def test_five_thousand_messages_scroll_back_without_a_gap_a_repeat_or_a_jump(
    visit: Visit, alice: httpx.AsyncClient, connection: Conn, tenant: str
) -> None:
    page = await visit(await long_talk(alice, connection, tenant, 5000))
    await expect(page.locator(".message").last).to_contain_text("Number 5000")
    found = await page.evaluate(SCROLL_BACK)
    assert (found["count"], found["first"]) == (5000, 1)
    assert found["jump"] < 2
    assert await page.evaluate(COUNT_NODES) < NODES_LIMIT
    await page.get_by_label("To the newest").click()
    await expect(page.locator(".message").last).to_contain_text("Number 5000")


SCROLL_DOWN = """async () => {
    const scroller = document.querySelector("nav .scroller");
    const frame = () => new Promise(requestAnimationFrame);
    let end = 0;
    while (end < 300) {
        const before = scroller.scrollTop;
        scroller.scrollTop += 3000;
        await frame();
        end = scroller.scrollTop === before ? end + 1 : 0;
    }
    return document.querySelector(".row:last-child > a").textContent;
}"""


async def test_two_thousand_conversations_scroll_to_the_last(
    visit: Visit, alice: httpx.AsyncClient, connection: Conn, tenant: str
) -> None:
    await new_conversation(alice, title="new")
    await crowd(connection, owner_id_of(tenant, "alice"), 2000)
    page = await visit("/")
    await expect(rows(page).first).to_have_text("new")
    assert await page.evaluate(SCROLL_DOWN) == "Conversation 2000"
    assert await page.evaluate(COUNT_NODES) < NODES_LIMIT


CALLS = [
    {"id": f"c{number}", "type": "function", "function": {"name": "f", "arguments": "{}"}} for number in range(300)
]
ITEMS = "".join(f"- item {number}\n" for number in range(20_000)).ljust(1_000_000, ".")
DENSE = {
    "items, a megabyte of them": [{"role": "user", "content": ITEMS}],
    "cells": [{"role": "user", "content": "|a|b|c|d|\n|-|-|-|-|\n" + "|1|2|3|4|\n" * 700}],
    "fences": [{"role": "user", "content": HUGE["fences"]}],
    "many small ones": [{"role": "user", "content": "`a` " * 100 + str(number)} for number in range(100)],
    "calls": [{"role": "assistant", "tool_calls": CALLS}],
}


async def test_dense_messages_make_few_nodes_also_when_more_is_asked_for(
    visit: Visit, alice: httpx.AsyncClient, here: Replica
) -> None:
    page = await visit("/")
    for title, messages in DENSE.items():
        path = await new_conversation(alice, title=title, messages=messages)
        await page.goto(f"{here.address}{path_of(path)}")
        await expect(page.locator(".message").last).to_be_visible()
        assert await page.evaluate(COUNT_NODES) < NODES_LIMIT, title
        before = await page.locator(".messages").text_content()
        await page.locator(".message").get_by_role("button", name="Show more").last.click()
        assert len(await page.locator(".messages").text_content() or "") > len(before or ""), title
        assert await page.evaluate(COUNT_NODES) < NODES_LIMIT, title


@pytest.mark.faults  # minutes, and a machine that does nothing else
async def test_ten_thousand_conversations_and_fifty_thousand_messages_stay_smooth(
    visit: Visit, alice: httpx.AsyncClient, connection: Conn, tenant: str
) -> None:
    path = await long_talk(alice, connection, tenant, 50_000)
    await crowd(connection, owner_id_of(tenant, "alice"), 10_000)
    page = await visit(path)
    await expect(page.locator(".message").last).to_contain_text("Number 50000")
    limit = LONGEST_TASK_MS * max(1, min([await page.evaluate(TIME_A_LOOP) for _ in range(5)]) / ORDINARY_LOOP_MS)
    await page.evaluate(WATCH_TASKS)
    assert await page.evaluate(SCROLL_DOWN) == "Conversation 10000"
    longest = []
    for _ in range(3):  # a task that is long each time is long by itself, not by what else the machine does
        await page.evaluate("tasks.length = 0")
        for _ in range(30):
            await page.locator("verbatim-chat .scroller").hover()
            await page.mouse.wheel(0, -3000)
            assert await page.evaluate(COUNT_NODES) < NODES_LIMIT
        longest.append(max(await page.evaluate("tasks"), default=0))
    first = await page.locator(".message").first.get_attribute("data-seq")
    assert int(first or FIRST_SEEN) < FIRST_SEEN
    assert min(longest) <= limit, (longest, limit)
