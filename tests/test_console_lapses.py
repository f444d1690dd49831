"""The console when an answer fails, or a person goes on before it comes: words and places are kept."""

import asyncio

import httpx
import pytest
from playwright.async_api import BrowserContext, Page, Route, expect

from tests.conftest import contents, new_conversation
from tests.consoles import (
    Visit,
    alice,
    asking,
    begin,
    choose,
    field,
    here,
    is_answered,
    key,
    model,
    path_of,
    person,
    rows,
    said,
    say,
    visit,
)
from tests.live import Replica
from tests.model_server import ModelServer, text_steps

pytestmark = pytest.mark.shares_app

LOST = 0
BELOW = "({ scrollHeight, scrollTop, clientHeight }) => scrollHeight - scrollTop - clientHeight"
REPLIED = ["more", "Of course."]


async def refuse(route: Route, status: int) -> None:
    await (route.fulfill(status=status, body="{}") if status else route.abort())


async def titles(client: httpx.AsyncClient) -> list[str]:
    answer = await client.get("/v1/conversations")
    return [conversation["title"] for conversation in answer.json()["data"]]


async def test_a_list_that_is_refused_for_a_while_comes_unasked(
    visit: Visit, person: BrowserContext, alice: httpx.AsyncClient
) -> None:
    await new_conversation(alice, ["a"], title="one")
    statuses = [500, 429, 425, 408, LOST]

    async def refuse_at_first(route: Route) -> None:
        await (refuse(route, statuses.pop()) if statuses else route.continue_())

    await person.route("**/v1/conversations?*", refuse_at_first)
    page = await visit("/")
    await page.wait_for_function("document.querySelector('.door [role=status]')")
    for _ in range(50):
        await page.evaluate("dispatchEvent(new Event('online'))")  # waits no longer
        await page.wait_for_timeout(20)
    await expect(rows(page)).to_have_text(["one"])


@pytest.mark.parametrize("status", [500, 429, LOST])
async def test_what_is_sent_before_a_history_can_be_read_is_sent_there_when_it_is_read(
    visit: Visit, alice: httpx.AsyncClient, model: ModelServer, status: int
) -> None:
    path = await new_conversation(alice, ["a"], title="one")
    model.answers(text_steps(REPLIED[1]))
    page = await visit("/")
    await page.route(f"**{path}/messages?*format=html*", lambda route: refuse(route, status))
    await rows(page).click()
    await say(page, REPLIED[0])
    await expect(page.get_by_text("The server does not answer.")).to_be_visible()
    await expect(field(page)).to_have_value(REPLIED[0])
    await page.unroute_all()
    await expect(said(page)).to_have_text(["a", *REPLIED])
    await expect(field(page)).to_have_value("")
    assert await contents(alice, path) == ["a", *REPLIED]
    assert await titles(alice) == ["one"]


async def test_what_is_written_under_a_history_that_could_not_be_read_stays_until_it_is(
    visit: Visit, alice: httpx.AsyncClient, model: ModelServer
) -> None:
    path = await new_conversation(alice, ["a"], title="one")
    model.answers(text_steps(REPLIED[1]))
    page = await visit("/")
    await page.route(f"**{path}/messages?*format=html*", lambda route: refuse(route, 403))
    await rows(page).click()
    for deed in ("Enter", "Try again"):
        await expect(page.locator(".ended")).to_be_visible()
        await field(page).fill(REPLIED[0])
        async with page.expect_response(lambda answer: answer.status == 403):
            await (field(page).press(deed) if deed == "Enter" else page.get_by_role("button", name=deed).click())
    await expect(page.locator(".ended")).to_be_visible()
    await expect(field(page)).to_have_value(REPLIED[0])
    assert page.url.endswith(path_of(path))
    await page.unroute_all()
    await field(page).press("Enter")
    await expect(said(page)).to_have_text(["a", *REPLIED])
    await expect(field(page)).to_have_value("")
    assert await contents(alice, path) == ["a", *REPLIED]
    assert await titles(alice) == ["one"]


async def test_words_come_back_when_what_shows_them_cannot_be_got(visit: Visit, model: ModelServer) -> None:
    model.answers(text_steps(REPLIED[1]))
    page = await visit("/")
    await page.route("**/talk.js", lambda route: route.abort())
    await say(page, REPLIED[0])
    await expect(page.get_by_text("The server does not answer.")).to_be_visible()
    await expect(field(page)).to_have_value(REPLIED[0])
    await page.unroute_all()
    await page.get_by_role("button", name="Try again").click()
    await expect(page.locator(".welcome")).to_be_visible()
    await expect(field(page)).to_have_value(REPLIED[0])
    await field(page).press("Enter")
    await expect(said(page)).to_have_text(REPLIED)
    await expect(rows(page)).to_have_text([REPLIED[0]])


async def choose_by_key(page: Page, name: str, deed: str) -> None:
    await page.locator(".row", has_text=name).get_by_role("button").focus()
    await page.keyboard.press("Enter")
    await page.get_by_role("menuitem", name=deed, exact=True).focus()
    await page.keyboard.press("Enter")


async def test_the_focus_goes_to_the_next_row_when_one_goes(visit: Visit, alice: httpx.AsyncClient) -> None:
    for name in ("one", "two", "three", "four"):
        path = await new_conversation(alice, ["words"], title=name)
    page = await visit(path_of(path))
    await expect(rows(page)).to_have_text(["four", "three", "two", "one"])
    for name, deed, next_name in (
        ("three", "Archive", "two"),
        ("four", "Delete", "two"),  # which is open
        ("one", "Delete", "two"),  # the last
    ):
        await choose_by_key(page, name, deed)
        await expect(rows(page).get_by_text(name, exact=True)).to_have_count(0)
        await expect(rows(page).get_by_text(next_name, exact=True)).to_be_focused()
    await choose_by_key(page, "two", "Archive")
    await expect(page.get_by_placeholder("Search titles")).to_be_focused()


async def test_the_focus_stays_in_a_row_that_moves(visit: Visit, alice: httpx.AsyncClient) -> None:
    for name in ("one", "two", "three"):
        await new_conversation(alice, ["words"], title=name)
    page = await visit("/")
    await choose_by_key(page, "one", "Pin")
    await expect(rows(page)).to_have_text(["one", "three", "two"])
    await expect(page.locator(".row", has_text="one").get_by_role("button")).to_be_focused()


async def test_undo_brings_nobody_back_who_went_on(visit: Visit, alice: httpx.AsyncClient) -> None:
    await new_conversation(alice, ["other words"], title="other")
    await new_conversation(alice, ["words"], title="precious")
    page = await visit("/")
    await rows(page).get_by_text("precious").click()
    await expect(said(page)).to_have_text(["words"])
    await choose(page, "precious", "Delete")
    await rows(page).get_by_text("other").click()
    await expect(said(page)).to_have_text(["other words"])
    address = page.url
    await page.get_by_role("button", name="Undo").click()
    await expect(rows(page)).to_have_text(["precious", "other"])
    await expect(rows(page).get_by_text("precious")).to_be_focused()
    await expect(said(page)).to_have_text(["other words"])
    assert page.url == address


async def test_who_went_on_while_a_conversation_was_deleted_stays_there(visit: Visit, alice: httpx.AsyncClient) -> None:
    await new_conversation(alice, ["other words"], title="other")
    path = await new_conversation(alice, ["words"], title="precious")
    page = await visit(path_of(path))
    asked, let = asyncio.Event(), asyncio.Event()

    async def wait(route: Route) -> None:
        asked.set()
        await let.wait()
        await route.continue_()

    await page.route(f"**{path}", wait)
    await choose(page, "precious", "Delete")
    await asyncio.wait_for(asked.wait(), 20)
    await rows(page).get_by_text("other").click()
    let.set()
    await expect(rows(page)).to_have_text(["other"])
    await expect(said(page)).to_have_text(["other words"])


async def test_who_leaves_while_a_conversation_is_made_finds_it_made_with_what_was_said(
    visit: Visit, alice: httpx.AsyncClient, model: ModelServer
) -> None:
    await new_conversation(alice, ["other words"], title="other")
    model.answers(text_steps(REPLIED[1]))
    page = await visit("/")
    asked, let = asyncio.Event(), asyncio.Event()

    async def wait(route: Route) -> None:
        asked.set()
        await let.wait()
        await route.continue_()

    await page.route("**/v1/conversations", wait)
    await say(page, REPLIED[0])
    await asyncio.wait_for(asked.wait(), 20)
    await rows(page).get_by_text("other").click()
    await expect(said(page)).to_have_text(["other words"])
    let.set()
    await expect(rows(page)).to_have_text([REPLIED[0], "other"])
    await expect(said(page)).to_have_text(["other words"])
    await page.keyboard.press("Alt+n")
    await expect(field(page)).to_have_value("")
    await rows(page).first.click()
    await expect(said(page)).to_have_text(REPLIED)
    await expect(field(page)).to_have_value("")


async def test_a_conversation_of_whose_making_nobody_heard_is_found_by_saying_the_same_again(
    visit: Visit, here: Replica, alice: httpx.AsyncClient, model: ModelServer
) -> None:
    model.answers(text_steps(REPLIED[1]))
    page = await visit("/")
    made = asyncio.Event()

    async def make_unheard(route: Route) -> None:
        await route.fetch()
        made.set()  # and never answer

    await page.route("**/v1/conversations", make_unheard)
    await say(page, REPLIED[0])
    await asyncio.wait_for(made.wait(), 20)
    assert await titles(alice) == [REPLIED[0]]
    await page.goto(here.address)
    await expect(field(page)).to_have_value(REPLIED[0])
    await page.unroute_all()
    await field(page).press("Enter")
    await expect(said(page)).to_have_text(REPLIED)
    await is_answered(page)
    await expect(field(page)).to_have_value("")
    assert await titles(alice) == [REPLIED[0]]


async def test_a_first_word_without_a_reply_is_said_and_no_draft(visit: Visit) -> None:
    page = await visit("/")
    await page.route("**/replies", lambda route: refuse(route, 400))
    await say(page, REPLIED[0])
    await expect(page.get_by_role("button", name="Ask for a reply")).to_be_visible()
    await expect(page.get_by_role("alert")).to_be_visible()
    await expect(said(page)).to_have_text([REPLIED[0]])
    await expect(field(page)).to_have_value("")


async def test_the_end_stays_in_sight_when_a_reply_is_heard_before_it_is_read(
    visit: Visit, alice: httpx.AsyncClient, model: ModelServer
) -> None:
    path = await new_conversation(alice, ["a long word\n\n" * 100])
    begin(model, "many words " * 300)
    page = await visit(path_of(path))
    await expect(said(page)).to_have_count(1)

    async def read_late(route: Route) -> None:
        await asyncio.sleep(0.5)
        await route.continue_()

    await page.route(f"**{path}/messages?*format=html*", read_late)
    await say(page, "more")
    await expect(said(page).last).to_contain_text("many words")
    await expect(page.get_by_label("To the newest")).not_to_be_visible()
    assert await page.locator("verbatim-chat .scroller").evaluate(BELOW) < 2
