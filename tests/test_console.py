"""The console, as a person uses it: in a real browser, at a real service, with a model that is told what to say."""

import asyncio
import re
from contextlib import AsyncExitStack

import httpx
import pytest
from playwright.async_api import Browser, BrowserContext, Route, expect

from app.database_url import DatabaseUrl
from app.settings import Settings
from tests.browsers import visitor
from tests.conftest import NewKey, append, contents, new_conversation
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
from tests.live import Replica, replica
from tests.model_server import ModelServer, text_steps

pytestmark = pytest.mark.shares_app

TALK = "What is a monad?"
SHOW = """(isSeen) => {
    Object.defineProperty(document, "hidden", { value: !isSeen, configurable: true });
    document.dispatchEvent(new Event("visibilitychange"));
}"""
READ_ANEW = """async () => {
    const { Shelf } = await import("/assets/shelf.js");
    const asked = [];
    let tell;
    const api = {
        insist: (work) => work(),
        get: (path, query) => new Promise((answer) => asked.push({ ...query, answer })),
        request: async () => new Response(new ReadableStream({ start: (stream) => { tell = stream; } })),
    };
    const seen = [];
    const shelf = new Shelf(api, { onChange: () => {} });
    const see = () => seen.push(shelf.conversations.map(({ title }) => title).sort());
    const page = (title, cursor) => ({
        data: [{ id: title, title, revision: 1, message_count: 1, updated_at: "2030-01-01T00:00:00Z" }],
        has_more: Boolean(cursor), next_cursor: cursor,
    });
    const settled = () => new Promise((resolve) => setTimeout(resolve, 20));
    const answer = async (wanted, given) => {
        while (!asked.some(wanted)) await settled();
        asked.splice(asked.findIndex(wanted), 1)[0].answer(given);
        await settled();
    };
    await shelf.more(page("old", "behind old"));
    see();
    shelf.more();
    shelf.follow(() => {});
    while (!tell) await settled();
    tell.enqueue(new TextEncoder().encode("id: 1\\n\\n"));
    await answer(({ after, pinned }) => !after && !pinned, page("new", "behind new"));
    await answer(({ after }) => after === "behind old", page("older", null));
    see();
    await answer(({ pinned }) => pinned, { data: [], has_more: false, next_cursor: null });
    shelf.more();
    await answer(({ after }) => after === "behind new", page("newer", null));
    see();
    shelf.close();
    return seen;
}"""


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


async def test_a_reply_that_ends_before_it_is_told_of_is_read_again(
    visit: Visit, alice: httpx.AsyncClient, model: ModelServer
) -> None:
    path = await new_conversation(alice, title="one")
    begin(model, "A", " cat.")
    ended = asyncio.Event()

    async def follow_late(route: Route) -> None:
        await ended.wait()
        await route.continue_()

    page = await visit("/")
    await page.route("**/v1/conversations/*/events", follow_late)
    await rows(page).click()
    await say(page, TALK)
    await expect(said(page)).to_have_count(2)
    model.release()
    while await contents(alice, path) != [TALK, "A cat."]:  # noqa: ASYNC110  # the page is told of nothing yet
        await asyncio.sleep(0.05)
    ended.set()
    await expect(said(page)).to_have_text([TALK, "A cat."])
    await is_answered(page)


async def test_each_conversation_shows_its_own_history_and_keeps_what_is_written_in_it(
    visit: Visit, alice: httpx.AsyncClient, model: ModelServer
) -> None:
    for name in ("one", "two", "three"):
        await new_conversation(alice, [f"{name} {number}" for number in range(3)], title=name)
    model.answers(text_steps("Sent."))
    page = await visit("/")
    await field(page).fill("for nobody yet")
    for name, written in (("two", ""), ("one", ""), ("three", ""), ("one", "for one")):
        await rows(page).get_by_text(name, exact=True).click()
        await expect(said(page)).to_have_text([f"{name} {number}" for number in range(3)])
        await expect(page.get_by_role("heading", level=1)).to_have_text(name)
        await expect(field(page)).to_be_focused()
        await expect(field(page)).to_have_value(written)
        await field(page).fill(f"for {name}")
    await page.keyboard.press("Enter")
    await expect(said(page).last).to_have_text("Sent.")
    await page.go_back()
    await expect(said(page)).to_have_text([f"three {number}" for number in range(3)])
    await page.reload()
    await expect(field(page)).to_have_value("for three")
    await page.go_forward()
    await expect(said(page).last).to_have_text("Sent.")
    await expect(field(page)).to_have_value("")
    await page.keyboard.press("Alt+n")
    await expect(field(page)).to_have_value("for nobody yet")


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
    await choose(page, "first", "Unpin")
    await expect(rows(page)).to_have_text(["three", "first"])
    await page.get_by_role("button", name="Archived").click()
    await choose(page, "two", "Bring back from the archive")
    await expect(rows(page)).to_have_count(0)
    await page.get_by_role("button", name="Back to all").click()
    await expect(rows(page)).to_have_text(["three", "two", "first"])


async def test_a_deleted_conversation_comes_back_by_undo_whatever_else_is_said(
    visit: Visit, person: BrowserContext, alice: httpx.AsyncClient
) -> None:
    await person.grant_permissions(["clipboard-read", "clipboard-write"])
    await new_conversation(alice, ["*other* words"], title="other")
    path = await new_conversation(alice, ["words"], title="precious")
    page = await visit(path_of(path))
    await expect(said(page)).to_have_text(["words"])
    await choose(page, "precious", "Delete")
    await expect(rows(page)).to_have_text(["other"])
    assert (await alice.get(path)).status_code == 404
    await choose(page, "other", "Copy as Markdown")
    await expect(page.locator(".toast")).to_have_text(["Conversation deleted.Undo", "Copied"])
    copied = await page.evaluate("navigator.clipboard.readText()")
    assert re.fullmatch(r"# other\n\n## You, [^\n]+\n\n\*other\* words\n", copied), copied
    await page.get_by_role("button", name="Undo").click()
    await expect(page.locator(".toast")).to_have_text(["Copied"])
    await expect(rows(page)).to_have_text(["precious", "other"])
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
    await expect(field(page)).to_have_value("a")
    await say(page, "otherwise")
    await expect(said(page)).to_have_text(["otherwise", "new"])
    assert await contents(alice, path) == ["otherwise", "new"]


async def test_an_edit_that_is_left_half_done_is_put_back_with_all_its_parts(
    visit: Visit, alice: httpx.AsyncClient, model: ModelServer
) -> None:
    image = {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}}
    content = [{"type": "text", "text": "what is"}, image, {"type": "text", "text": "this"}]
    path = await new_conversation(alice, messages=[{"role": "user", "content": content}])
    model.answers(text_steps("A cat."))
    page = await visit(path_of(path))
    await expect(said(page)).to_have_count(1)
    asked = asyncio.Event()
    await page.route("**/replies", lambda _: asked.set())  # never answered
    await page.keyboard.press("ArrowUp")
    await expect(field(page)).to_have_value("what is\n\nthis")
    await say(page, "who is that")
    await asyncio.wait_for(asked.wait(), 20)
    await page.reload()
    await expect(field(page)).to_have_value("who is that")
    await expect(said(page)).to_have_count(0)
    await page.reload()
    await expect(field(page)).to_have_value("who is that")
    await page.unroute("**/replies")
    await page.get_by_label("Send").click()
    await expect(said(page).last).to_have_text("A cat.")
    await expect(field(page)).to_have_value("")
    assert await contents(alice, path) == [[{"type": "text", "text": "who is that"}, image], "A cat."]


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
    await expect(field(page)).to_have_value("otherwise")


async def test_what_is_being_written_waits_for_the_end_of_an_edit(
    visit: Visit, alice: httpx.AsyncClient, model: ModelServer
) -> None:
    path = await new_conversation(alice, ["a"])
    model.answers(text_steps("new"))
    page = await visit(path_of(path))
    edit = page.get_by_role("button", name="Edit and ask again")
    await field(page).fill("a draft")
    await page.locator(".message").hover()
    await edit.click()
    await expect(field(page)).to_have_value("a")
    await page.reload()
    await expect(field(page)).to_have_value("a")
    await page.get_by_role("button", name="Cancel").click()
    await expect(field(page)).to_have_value("a draft")
    await page.locator(".message").hover()
    await edit.click()
    await say(page, "otherwise")
    await expect(said(page)).to_have_text(["otherwise", "new"])
    await expect(field(page)).to_have_value("a draft")


async def test_what_is_refused_comes_back_before_what_was_written_meanwhile(
    visit: Visit, alice: httpx.AsyncClient
) -> None:
    page = await visit(path_of(await new_conversation(alice, ["a"])))
    asked, refused = asyncio.Event(), asyncio.Event()

    async def refuse(route: Route) -> None:
        asked.set()
        await refused.wait()
        await route.fulfill(status=413, body="{}")

    await page.route("**/replies", refuse)
    await say(page, "first")
    await asyncio.wait_for(asked.wait(), 20)
    await field(page).fill("second")
    refused.set()
    await expect(field(page)).to_have_value("first\n\nsecond")


async def test_a_tools_result_is_folded_and_only_the_last_reply_is_made_anew(
    visit: Visit, alice: httpx.AsyncClient
) -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "look_up", "arguments": '{"word": "monad"}'}}
    messages = [
        {"role": "user", "content": TALK},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": "a <b>burrito</b>"},
        {"role": "assistant", "content": "A burrito."},
        {"role": "user", "content": "Is it?"},
        {"role": "assistant", "content": "No."},
    ]
    page = await visit(path_of(await new_conversation(alice, messages=messages)))
    await expect(said(page)).to_have_text([TALK, "", "A burrito.", "Is it?", "No."])
    await expect(page.get_by_role("button", name="Try again")).to_have_count(1)
    fold = page.locator("details")
    await expect(fold.get_by_text("burrito")).to_have_count(0)
    await fold.locator("summary").click()
    await expect(fold.locator(".data")).to_have_text(['{ "word": "monad" }', "a <b>burrito</b>"])


async def test_an_address_of_nothing_makes_nothing(visit: Visit, alice: httpx.AsyncClient) -> None:
    page = await visit("/c/nonsense")
    await expect(field(page)).to_be_visible()
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
    others = []
    for _ in range(3):  # with a stream each for the list and the conversation they had no connection left
        async with person.expect_page() as opened:
            await rows(one).click(modifiers=["Control"])
        others.append(await opened.value)
        await expect(said(others[-1])).to_have_text([TALK, "To both"])
    model.release()
    for page in (one, *others):
        await expect(said(page)).to_have_text([TALK, "To both of you."])
    other = others[-1]
    await one.bring_to_front()
    await choose(one, TALK, "Rename")
    await one.get_by_label("Title", exact=True).fill("shared")
    await one.keyboard.press("Enter")
    await expect(rows(other)).to_have_text(["shared"])


async def test_a_tab_that_is_not_seen_asks_for_no_events_and_misses_none(
    visit: Visit, person: BrowserContext, alice: httpx.AsyncClient
) -> None:
    await person.add_init_script("Object.defineProperty(document, 'hidden', { value: true, configurable: true })")
    streams: list[str] = []
    person.on("request", lambda request: streams.append(request.url) if request.url.endswith("/events") else None)
    await new_conversation(alice, ["words"], title="one")
    page = await visit("/")
    await expect(rows(page)).to_have_text(["one"])
    await new_conversation(alice, ["words"], title="two")
    assert streams == []
    async with page.expect_request(lambda request: "/v1/conversations?" in request.url):  # also of what is long past
        await page.evaluate(SHOW, "seen")
    await expect(rows(page)).to_have_text(["two", "one"])
    await page.evaluate(SHOW, None)
    path = await new_conversation(alice, ["words"], title="three")
    await alice.delete(path)
    await new_conversation(alice, ["words"], title="four")
    await page.evaluate(SHOW, "seen")
    await expect(rows(page)).to_have_text(["four", "two", "one"])


async def test_a_list_that_is_read_anew_has_nothing_of_the_page_that_was_on_its_way(visit: Visit) -> None:
    page = await visit("/")
    assert await page.evaluate(READ_ANEW) == [["old"], ["new"], ["new", "newer"]]


async def test_a_stream_that_is_refused_for_a_while_goes_on_and_what_was_missed_is_read(
    visit: Visit, alice: httpx.AsyncClient, model: ModelServer
) -> None:
    path = await new_conversation(alice, ["a", "b"])
    statuses = [500, 429, 400]
    refused = asyncio.Event()

    async def refuse(route: Route) -> None:
        if len(statuses) == 1:
            await append(alice, path, "c")
        if statuses:
            return await route.fulfill(status=statuses.pop(0), body="{}")
        refused.set()
        return await route.continue_()

    person = (page := await visit("/")).context
    await person.route(f"**{path}/events", refuse)
    model.answers(text_steps("new"))
    await page.goto(page.url + path_of(path)[1:])
    await expect(said(page)).to_have_text(["a", "b"])
    await asyncio.wait_for(refused.wait(), 20)
    await expect(said(page)).to_have_text(["a", "b", "c"])
    await page.keyboard.press("ArrowUp")
    await say(page, "otherwise")
    await expect(said(page)).to_have_text(["a", "b", "otherwise", "new"])


async def test_a_stream_that_is_refused_for_good_ends(visit: Visit, alice: httpx.AsyncClient) -> None:
    path = await new_conversation(alice, ["a"])
    statuses = [404, 403, 401]
    page = await visit("/")
    await page.route(f"**{path}/events", lambda route: route.fulfill(status=statuses.pop(), body="{}"))
    for left in (2, 1, 0):
        await rows(page).click()
        await expect(page.locator(".ended")).to_be_visible()
        await page.wait_for_timeout(400)
        assert len(statuses) == left
        await page.keyboard.press("Alt+n")


async def test_a_key_stays_in_its_tab_and_a_link_replaces_it_by_no_other_unasked(
    visit: Visit, person: BrowserContext, here: Replica, key: str, new_key: NewKey
) -> None:
    page = await visit("/")
    await field(page).fill("of alice")
    bobs = await new_key(user="bob")
    for answer, held in (("Stay with this tab's key", key), ("Use the link's key", bobs)):
        await page.goto(f"{here.address}#key={bobs}")
        await page.get_by_role("button", name=answer).click()
        await expect(field(page)).to_have_value("of alice" if held == key else "")
        assert held in await page.evaluate("sessionStorage.getItem('verbatim.key')")
        assert "#" not in page.url
    other = await person.new_page()
    await other.goto(here.address)
    await expect(other.get_by_label("Key")).to_be_visible()


async def test_a_question_without_a_reply_is_asked_again_when_the_network_is_back(
    visit: Visit, person: BrowserContext, alice: httpx.AsyncClient, model: ModelServer
) -> None:
    path = await new_conversation(alice, [TALK])
    model.answers(text_steps("At last."))
    page = await visit(path_of(path))
    await expect(said(page)).to_have_text([TALK])
    await person.set_offline(True)
    await page.get_by_role("button", name="Ask for a reply").click()
    await expect(page.get_by_text("The server does not answer.").first).to_be_visible()
    await person.set_offline(False)
    await expect(said(page)).to_have_text([TALK, "At last."])
    await expect(page.get_by_text("The server does not answer.")).to_have_count(0)
    await expect(page.get_by_role("button", name="Ask for a reply")).to_have_count(0)


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
        await expect(field(page)).to_be_visible()
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
    await expect(rows(page)).to_be_focused()
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
