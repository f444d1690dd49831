"""The page of activity and the panel of a conversation's figures, in a real browser at a real service."""

from collections.abc import AsyncIterator
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest
from playwright.async_api import Browser, BrowserContext, Locator, Page, expect

from app.database_url import DatabaseUrl
from app.identifiers import owner_id_of
from app.queries import Conn
from tests.browsers import visitor
from tests.conftest import PATIENT, NewKey, new_conversation
from tests.live import Replica, replica
from tests.node_clients import HOME, needs_npm_packages

pytestmark = pytest.mark.shares_app

AXE = HOME / "node_modules/axe-core/axe.min.js"
TODAY = datetime.now(UTC).date()


@pytest.fixture(scope="module")
async def here(shared_url: DatabaseUrl) -> AsyncIterator[Replica]:
    async with replica(PATIENT, shared_url) as made:
        yield made


@pytest.fixture
async def person(browser: Browser, here: Replica) -> AsyncIterator[BrowserContext]:
    async with visitor(browser, here.address) as context:
        yield context


@pytest.fixture
async def admin_key(new_key: NewKey) -> str:
    return await new_key(is_admin=True)


@pytest.fixture
async def history(connection: Conn, tenant: str) -> None:
    """40 days on which something happened; each day one thing less than on the next."""
    await connection.execute("UPDATE rollups SET rolled_up_at = '2026-01-31T12:00:00Z'")
    await connection.executemany(
        "INSERT INTO tenant_days (tenant_id, day, conversation_count, new_conversation_count, active_user_count,"
        " user_message_count, assistant_message_count, tool_message_count, system_message_count,"
        " developer_message_count, input_tokens, output_tokens, is_stale)"
        " VALUES ($1, $2, $3, 1, 2, $4, 10, 0, 0, 0, $5, 300000, false)",
        [(tenant, day(ago), 40 - ago, 990 - ago, 1_200_000 - ago) for ago in range(40)],
    )
    users = [(user, ago) for ago in range(40) for user in ("alice", f"of day {ago}")]
    await connection.executemany(
        "INSERT INTO owners (id, tenant_id, user_id, created_at) VALUES ($1, $2, $3, now()) ON CONFLICT DO NOTHING",
        [(owner_id_of(tenant, user), tenant, user) for user, _ in users],
    )
    await connection.executemany(
        "INSERT INTO owner_days (owner_id, day, tenant_id) VALUES ($1, $2, $3)",
        [(owner_id_of(tenant, user), day(ago), tenant) for user, ago in users],
    )


def day(ago: int) -> date:
    return TODAY - timedelta(days=ago)


async def visit(context: BrowserContext, here: Replica, key: str, path: str = "/activity") -> Page:
    page = await context.new_page()
    await page.goto(f"{here.address}{path}#key={key}")
    return page


def tiles(page: Page) -> Locator:
    return page.locator(".tiles > div")


def plot(page: Page, name: str) -> Locator:
    return page.get_by_role("region", name=name, exact=True)


@pytest.mark.usefixtures("history")
async def test_an_administrator_sees_what_happened(person: BrowserContext, here: Replica, admin_key: str) -> None:
    page = await visit(person, here, admin_key)
    await expect(tiles(page)).to_have_text(
        [
            "Conversations begun30",
            f"Messages{sum(1000 - ago for ago in range(30)):,}",
            "Active users31",
            "Input tokens36M",
            "Output tokens9M",
        ]
    )
    exact = f"{sum(1_200_000 - ago for ago in range(30)):,}"
    await expect(tiles(page).nth(3).locator("dd")).to_have_attribute("title", exact)
    for name, bars in (("Conversations", 30), ("Messages", 30), ("Active users", 30), ("Tokens", 60)):
        await expect(plot(page, name).locator("path")).to_have_count(bars)
    await expect(page.get_by_role("status")).to_contain_text("Counted at 31 Jan 2026")


@pytest.mark.usefixtures("history")
async def test_the_range_is_chosen_and_kept(person: BrowserContext, here: Replica, admin_key: str) -> None:
    page = await visit(person, here, admin_key)
    await page.get_by_role("radio", name="7 days").check()
    await expect(tiles(page).first).to_have_text("Conversations begun7")
    await expect(plot(page, "Messages").locator("path")).to_have_count(7)
    await page.reload()
    await expect(page.get_by_role("radio", name="7 days")).to_be_checked()
    await expect(tiles(page).first).to_have_text("Conversations begun7")
    await page.get_by_role("radio", name="90 days").check()
    await expect(tiles(page)).to_contain_text(
        ["Conversations begun40", "Messages", "Most users in a day2", "Input", "Output"]
    )
    assert "#" not in page.url


@pytest.mark.usefixtures("history")
async def test_every_plot_has_a_table_behind_it(person: BrowserContext, here: Replica, admin_key: str) -> None:
    page = await visit(person, here, admin_key)
    await plot(page, "Tokens").get_by_role("button", name="Table: Tokens").click()
    table = plot(page, "Tokens").get_by_role("table")
    await expect(table.locator("thead")).to_have_text("DayInputOutput")
    await expect(table.locator("tbody tr")).to_have_count(30)
    await expect(table.locator("tbody tr").nth(1).locator("td")).to_have_text(["1,199,999", "300,000"])
    newest = table.locator("tbody tr").first.get_by_role("rowheader")
    await expect(newest).to_contain_text(f"{TODAY.day} {TODAY:%B} {TODAY.year}")
    await expect(plot(page, "Tokens").locator("svg")).to_have_count(0)
    await plot(page, "Tokens").get_by_role("button").click()
    await expect(plot(page, "Tokens").locator("svg")).to_have_count(1)
    for name in ("Conversations", "Messages", "Active users"):
        await plot(page, name).get_by_role("button").click()
        await expect(plot(page, name).get_by_role("table").locator("tbody tr")).to_have_count(30)


@pytest.mark.usefixtures("history")
async def test_a_day_that_is_pointed_at_tells_its_figures(
    person: BrowserContext, here: Replica, admin_key: str
) -> None:
    page = await visit(person, here, admin_key)
    readout = plot(page, "Conversations").locator(".readout")
    await expect(readout).to_contain_text("so far")
    bar = await plot(page, "Conversations").locator("path").nth(9).bounding_box()
    assert bar
    await page.mouse.move(bar["x"] + bar["width"] / 2, bar["y"] - 5)
    await expect(readout).to_contain_text(f"20 {day(20):%a}")
    await page.mouse.move(0, 0)
    await expect(readout).to_contain_text("so far")


@pytest.mark.usefixtures("history")
async def test_bars_are_as_high_as_their_figures(person: BrowserContext, here: Replica, admin_key: str) -> None:
    page = await visit(person, here, admin_key)
    await expect(plot(page, "Conversations").locator("path")).to_have_count(30)
    measure = "bars => bars.map((bar) => bar.getBoundingClientRect().height)"
    heights = await plot(page, "Conversations").locator("path").evaluate_all(measure)
    assert heights == sorted(heights)
    steps = [after - before for before, after in pairwise(heights)]
    assert max(steps) - min(steps) < 1
    await expect(plot(page, "Conversations").get_by_role("img")).to_have_attribute(
        "aria-label", f"Conversations per day, from {short(29)} to {short(0)}. The most: 40, on {short(0)}."
    )


def short(ago: int) -> str:
    name = f"{day(ago):%b}"
    return f"{day(ago).day} {'Sept' if name == 'Sep' else name}"


async def test_where_nothing_happened_that_is_said(person: BrowserContext, here: Replica, admin_key: str) -> None:
    page = await visit(person, here, admin_key)
    await expect(page.get_by_text("Nothing in these days.")).to_have_count(4)
    await expect(tiles(page).first).to_have_text("Conversations begun0")


@pytest.mark.usefixtures("history")
async def test_who_is_no_administrator_is_told_so(
    person: BrowserContext, here: Replica, new_key: NewKey, admin_key: str
) -> None:
    page = await visit(person, here, await new_key(user="alice"))
    await expect(page.get_by_role("heading")).to_have_text("Activity is for administrators")
    await expect(page.get_by_text("verbatim keys create")).to_be_visible()
    await page.get_by_role("button", name="Use another key").click()
    await page.get_by_label("Key", exact=True).fill(admin_key)
    await page.get_by_role("button", name="Enter").click()
    await expect(tiles(page).first).to_have_text("Conversations begun30")
    assert admin_key not in page.url


@pytest.mark.usefixtures("history")
async def test_a_lost_server_shows_itself_and_heals(person: BrowserContext, here: Replica, admin_key: str) -> None:
    page = await visit(person, here, admin_key)
    await expect(tiles(page).first).to_have_text("Conversations begun30")
    await page.route("**/v1/stats*", lambda route: route.abort())
    await page.get_by_role("radio", name="7 days").check()
    await expect(page.get_by_role("status")).to_contain_text("The server does not answer.")
    await expect(tiles(page).first).to_have_text("Conversations begun30")
    await page.unroute("**/v1/stats*")
    await expect(tiles(page).first).to_have_text("Conversations begun7")
    await expect(page.get_by_role("status")).to_contain_text("Counted at")


@pytest.mark.usefixtures("history")
async def test_a_phone_shows_it_all_below_each_other(browser: Browser, here: Replica, admin_key: str) -> None:
    async with visitor(browser, here.address, viewport={"width": 360, "height": 640}) as context:
        page = await visit(context, here, admin_key)
        await page.get_by_role("radio", name="90 days").check()
        await expect(plot(page, "Tokens").locator("path")).to_have_count(80)
        assert await page.evaluate("document.documentElement.scrollWidth") == 360
        await page.set_viewport_size({"width": 1200, "height": 640})
        await expect(plot(page, "Tokens").locator("svg")).not_to_have_attribute("width", "290")
        wide = await plot(page, "Tokens").locator("svg").bounding_box()
        assert wide
        assert wide["width"] > 400


async def violations(page: Page) -> list[Any]:
    """What axe-core calls serious."""
    await page.evaluate(AXE.read_text())
    found = await page.evaluate("axe.run()")
    return [
        (each["id"], [node["html"] for node in each["nodes"]])
        for each in found["violations"]
        if each["impact"] in {"serious", "critical"}
    ]


@needs_npm_packages
@pytest.mark.usefixtures("history")
@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_everybody_can_read_it(browser: Browser, here: Replica, admin_key: str, scheme: str) -> None:
    async with visitor(browser, here.address, color_scheme=scheme) as context:
        page = await visit(context, here, admin_key)
        await expect(plot(page, "Messages").locator("path")).to_have_count(30)
        for name in ("Messages", "Tokens"):
            await plot(page, name).get_by_role("button").click()
        for width in (3840, 360):
            await page.set_viewport_size({"width": width, "height": 900})
            assert await violations(page) == [], width
            assert await page.evaluate("document.documentElement.scrollWidth") <= width
        colours = await page.evaluate(CONTRAST)
        assert {name: ratio for name, ratio in colours.items() if ratio < 3} == {}


CONTRAST = """() => {
  const light = (colour) => {
    const canvas = new OffscreenCanvas(1, 1).getContext("2d");
    canvas.fillStyle = colour;
    canvas.fillRect(0, 0, 1, 1);
    const [r, g, b] = [...canvas.getImageData(0, 0, 1, 1).data].map((part) =>
      (part /= 255) <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const under = light(getComputedStyle(document.querySelector(".plot")).backgroundColor);
  return Object.fromEntries([...document.querySelectorAll(".key")].map((key) => {
    const over = light(getComputedStyle(key).backgroundColor);
    return [key.className, (Math.max(over, under) + 0.05) / (Math.min(over, under) + 0.05)];
  }));
}"""


# The panel of a conversation


async def test_a_conversation_tells_its_figures(person: BrowserContext, here: Replica, new_key: NewKey) -> None:
    key = await new_key(user="alice")
    usage = {"prompt_tokens": 1234, "completion_tokens": 56}
    async with here.client(key) as alice:
        messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b", "usage": usage}]
        path = await new_conversation(alice, title="counted", messages=messages)
    page = await visit(person, here, key, path.replace("/v1/conversations", "/c"))
    await page.get_by_role("button", name="More for").first.click()
    await page.get_by_role("menuitem", name="Statistics").click()
    panel = page.get_by_role("dialog", name="Statistics")
    rows = [row.split("\t") for row in (await panel.get_by_role("table").inner_text()).splitlines()]
    assert rows[:6] == [
        ["Messages", "2"], ["from You", "1"], ["from Assistant", "1"], ["Turns", "1"],
        ["Input tokens", "1,234"], ["Output tokens", "56"],
    ]  # fmt: skip
    assert dict(rows[6:]).keys() == {
        "Begun", "Last changed", "From begin to end", "Other changes", "Archived",
    }  # fmt: skip
    await page.keyboard.press("Escape")
    await expect(panel).to_have_count(0)


async def test_a_duration_is_said_in_two_units(person: BrowserContext, here: Replica) -> None:
    page = await person.new_page()
    await page.goto(f"{here.address}/activity")
    ask = "all => import('/assets/figures.js').then(({ sayDuration }) => all.map(sayDuration))"
    told = await page.evaluate(ask, [0, 1, 61.5, 3600, 90_061])
    assert told == ["0 seconds", "1 second", "1 minute 1 second", "1 hour", "1 day 1 hour"]
