"""The console, as a person uses it: in a real browser, at a real service, with a model that is told what to say."""

import re
from contextlib import AsyncExitStack

import httpx
import pytest
from playwright.async_api import Browser, BrowserContext, expect

from app.database_url import DatabaseUrl
from app.settings import Settings
from tests.browsers import visitor
from tests.conftest import contents, new_conversation
from tests.consoles import (
    Visit,
    alice,
    asking,
    begin,
    choose,
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
from tests.live import Replica, replica
from tests.model_server import ModelServer, text_steps

pytestmark = pytest.mark.shares_app

TALK = "What is a monad?"


async def test_a_first_visit_comes_to_a_first_reply(visit: Visit, model: ModelServer, here: Replica, key: str) -> None:
    model.answers(text_steps("A **burrito**,", " they say."))
    page = await visit("/")
    await say(page, TALK)
    await expect(said(page)).to_have_text([TALK, "A burrito, they say."])
    await expect(page.locator(".message strong")).to_have_text("burrito")
    await expect(rows(page)).to_have_text([TALK])
    assert re.fullmatch(rf"{here.address}/c/[0-9a-f-]{{36}}", page.url)
    assert key in await page.evaluate("sessionStorage.getItem('verbatim.key')")


async def test_a_reply_goes_on_after_a_reload(visit: Visit, model: ModelServer) -> None:
    begin(model, "It is a", " long story.")
    page = await visit("/")
    await say(page, TALK)
    await expect(said(page)).to_have_text([TALK, "It is a"])
    await page.reload()
    await expect(said(page)).to_have_text([TALK, "It is a"])
    model.release()
    await expect(said(page)).to_have_text([TALK, "It is a long story."])
    await is_answered(page)


async def test_each_conversation_shows_its_own_history(visit: Visit, alice: httpx.AsyncClient) -> None:
    for name in ("one", "two", "three"):
        await new_conversation(alice, [f"{name} {number}" for number in range(3)], title=name)
    page = await visit("/")
    for name in ("two", "one", "three", "one"):
        await rows(page).get_by_text(name, exact=True).click()
        await expect(said(page)).to_have_text([f"{name} {number}" for number in range(3)])
        await expect(page.get_by_role("heading", level=1)).to_have_text(name)
    await page.go_back()
    await expect(said(page)).to_have_text([f"three {number}" for number in range(3)])


async def test_a_conversation_without_a_title_is_called_by_its_first_words(
    visit: Visit, alice: httpx.AsyncClient
) -> None:
    await new_conversation(alice, ["Once upon\na time"])
    await new_conversation(alice)
    page = await visit("/")
    await expect(rows(page)).to_have_text(["Nothing said yet", "Once upon a time"])


async def test_a_conversation_is_renamed_pinned_and_archived(visit: Visit, alice: httpx.AsyncClient) -> None:
    for name in ("one", "two", "three"):
        await new_conversation(alice, ["words"], title=name)
    page = await visit("/")
    await choose(page, "one", "Rename")
    await page.get_by_label("Title", exact=True).fill("first")
    await page.keyboard.press("Enter")
    await choose(page, "first", "Pin")
    await expect(rows(page)).to_have_text(["first", "three", "two"])
    await choose(page, "two", "Archive")
    await expect(rows(page)).to_have_text(["first", "three"])
    await page.get_by_role("button", name="Archived").click()
    await expect(rows(page)).to_have_text(["two"])
    await page.reload()
    await expect(rows(page)).to_have_text(["first", "three"])
    await expect(page.locator(".day").first).to_have_text("Pinned")


async def test_a_deleted_conversation_comes_back_by_undo(visit: Visit, alice: httpx.AsyncClient) -> None:
    path = await new_conversation(alice, ["words"], title="precious")
    page = await visit(path_of(path))
    await expect(said(page)).to_have_text(["words"])
    await choose(page, "precious", "Delete")
    await expect(rows(page)).to_have_count(0)
    assert (await alice.get(path)).status_code == 404
    await page.get_by_role("button", name="Undo").click()
    await expect(rows(page)).to_have_text(["precious"])
    await expect(said(page)).to_have_text(["words"])
    assert (await alice.get(path)).status_code == 200


async def test_an_edited_message_takes_the_place_of_all_that_followed(
    visit: Visit, alice: httpx.AsyncClient, model: ModelServer
) -> None:
    messages = [{"role": role, "content": text} for role, text in (("user", "a"), ("assistant", "b"), ("user", "c"))]
    path = await new_conversation(alice, messages=messages)
    model.answers(text_steps("new"))
    page = await visit(path_of(path))
    await page.locator(".message").first.hover()
    await page.locator(".message").first.get_by_role("button", name="Edit and ask again").click()
    await expect(page.get_by_label("Message", exact=True)).to_have_value("a")
    await say(page, "otherwise")
    await expect(said(page)).to_have_text(["otherwise", "new"])
    assert await contents(alice, path) == ["otherwise", "new"]


async def test_an_edit_that_nobody_will_answer_deletes_nothing(visit: Visit, alice: httpx.AsyncClient) -> None:
    messages = [{"role": role, "content": text} for role, text in (("user", "a"), ("assistant", "b"), ("user", "c"))]
    path = await new_conversation(alice, messages=messages)
    page = await visit(path_of(path))
    body = '{"type": "urn:verbatim:problem:too-large", "title": "The request is larger than the limit.", "status": 413}'
    await page.route("**/replies", lambda route: route.fulfill(status=413, body=body))
    await page.locator(".message").first.hover()
    await page.locator(".message").first.get_by_role("button", name="Edit and ask again").click()
    await say(page, "otherwise")
    await expect(page.get_by_role("alert")).to_be_visible()
    await expect(said(page)).to_have_text(["a", "b", "c"])
    assert await contents(alice, path) == ["a", "b", "c"]
    await expect(page.get_by_label("Message", exact=True)).to_have_value("otherwise")


async def test_only_the_last_reply_is_made_anew(visit: Visit, alice: httpx.AsyncClient) -> None:
    roles = ("user", "assistant", "user", "assistant")
    path = await new_conversation(alice, messages=[{"role": role, "content": role} for role in roles])
    page = await visit(path_of(path))
    await expect(said(page)).to_have_count(4)
    await expect(page.get_by_role("button", name="Try again")).to_have_count(1)


async def test_an_address_of_nothing_makes_nothing(visit: Visit, alice: httpx.AsyncClient) -> None:
    page = await visit("/c/nonsense")
    await expect(page.get_by_label("Message", exact=True)).to_be_visible()
    assert (await alice.get("/v1/conversations")).json()["data"] == []


async def test_a_reply_is_stopped_and_made_anew(visit: Visit, model: ModelServer) -> None:
    begin(model, "Half a")
    model.answers(text_steps("A whole reply."))
    page = await visit("/")
    await say(page, TALK)
    await expect(said(page)).to_have_text([TALK, "Half a"])
    await page.get_by_label("Stop").click()
    await expect(page.locator(".message footer").last).to_contain_text("stopped")
    await page.get_by_role("button", name="Try again").click()
    await expect(said(page)).to_have_text([TALK, "A whole reply."])


async def test_what_is_said_in_one_tab_is_seen_in_the_other(
    visit: Visit, person: BrowserContext, model: ModelServer
) -> None:
    begin(model, "To both", " of you.")
    one = await visit("/")
    await say(one, TALK)
    await expect(said(one)).to_have_text([TALK, "To both"])
    other = await person.new_page()
    await other.goto(one.url)  # without the key: the first tab hands it over
    await expect(said(other)).to_have_text([TALK, "To both"])
    model.release()
    for page in (one, other):
        await expect(said(page)).to_have_text([TALK, "To both of you."])
    await one.bring_to_front()
    await choose(one, TALK, "Rename")
    await one.get_by_label("Title", exact=True).fill("shared")
    await one.keyboard.press("Enter")
    await expect(rows(other)).to_have_text(["shared"])


async def test_a_server_that_goes_away_and_comes_back_is_all_that_is_seen_of_a_restart(
    browser: Browser, asking: Settings, shared_url: DatabaseUrl, key: str, model: ModelServer
) -> None:
    model.answers(text_steps("Before."), text_steps("After."))
    async with AsyncExitStack() as stack:
        async with replica(asking, shared_url) as first:
            port = int(first.address.rpartition(":")[2])
            context = await stack.enter_async_context(visitor(browser, first.address))
            page = await context.new_page()
            await page.goto(f"{first.address}#key={key}")
            await say(page, "one")
            await expect(said(page)).to_have_text(["one", "Before."])
            await is_answered(page)
        await say(page, "two")
        await expect(page.get_by_text("The server does not answer.").first).to_be_visible()
        await stack.enter_async_context(replica(asking, shared_url, port))
        await expect(said(page)).to_have_text(["one", "Before.", "two", "After."])
        await expect(page.get_by_text("The server does not answer.")).to_have_count(0)


async def test_a_phone_shows_the_chat_and_the_list_on_demand(
    browser: Browser, here: Replica, key: str, alice: httpx.AsyncClient
) -> None:
    await new_conversation(alice, ["words"], title="one")
    async with visitor(browser, here.address, viewport={"width": 360, "height": 640}, has_touch=True) as context:
        page = await context.new_page()
        await page.goto(f"{here.address}#key={key}")
        await expect(page.get_by_label("Message", exact=True)).to_be_visible()
        await expect(rows(page)).not_to_be_visible()
        await page.get_by_label("Open the list").click()
        await rows(page).click()
        await expect(said(page)).to_have_text(["words"])
        await expect(rows(page)).not_to_be_visible()
        assert await page.evaluate("document.documentElement.scrollWidth") == 360


async def test_the_keyboard_alone_does_it_all(visit: Visit, alice: httpx.AsyncClient, model: ModelServer) -> None:
    for name in ("apples", "pears", "plums"):
        await new_conversation(alice, [name], title=name)
    begin(model, "Slowly")
    model.answers(text_steps("Better."))
    page = await visit("/")
    await expect(rows(page)).to_have_count(3)
    await page.keyboard.press("Control+k")
    await page.keyboard.type("p")
    await page.keyboard.type("ea")
    await expect(rows(page)).to_have_text(["pears"])
    await page.keyboard.press("ArrowDown")
    await page.keyboard.press("Enter")
    await expect(said(page)).to_have_text(["pears"])
    await page.keyboard.press("Alt+n")
    await expect(said(page)).to_have_count(0)
    await page.keyboard.type("a question")
    await page.keyboard.press("Enter")
    await expect(said(page)).to_have_text(["a question", "Slowly"])
    await page.keyboard.press("Escape")
    await expect(page.get_by_label("Send")).to_be_visible()
    await page.keyboard.press("ArrowUp")
    await page.keyboard.type(", changed")
    await page.keyboard.press("Enter")
    await expect(said(page)).to_have_text(["a question, changed", "Better."])
