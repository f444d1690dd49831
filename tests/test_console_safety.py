"""The console lets nothing in: what others wrote runs nowhere, asks nobody, and all can read it."""

# ruff: noqa: RUF001  # letters that look like others are the point

import re
import zipfile
from pathlib import Path
from typing import Literal

import flit_core.buildapi
import httpx
import pytest
from playwright.async_api import Browser, BrowserContext, Page, Response, Route, expect

from app.rendering import _UNSEEN
from tests.browsers import visitor
from tests.conftest import NewKey, new_conversation
from tests.consoles import (
    Visit,
    alice,
    asking,
    begin,
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
from tests.hostile_markdown import HOSTILE, SMALL, UNSEEN
from tests.live import Replica
from tests.model_server import ModelServer, text_steps
from tests.node_clients import HOME, needs_npm_packages

pytestmark = pytest.mark.shares_app

ROOT = Path(__file__).parent.parent
FIRST_PAGE_LIMIT_BYTES = 60_000
DEEP_LINK_LIMIT_BYTES = 99_000  # what shows a conversation comes on top of the list
LIST_LIMIT_MS = 300
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "frame-ancestors 'none'; base-uri 'none'; object-src 'none'; form-action 'self'"
)
PAGES = ["/", "/c/0192a4c8-7c1e-7d3a-9f00-3f1c5a2b7e10", "/activity"]
ASSETS = [path.name for path in (ROOT / "app" / "console").iterdir() if path.suffix != ".html"]


async def test_every_file_comes_under_a_strict_policy(here: Replica) -> None:
    assert len(ASSETS) > 20
    async with httpx.AsyncClient(base_url=here.address) as nobody:
        for path in [*PAGES, *(f"/assets/{name}" for name in ASSETS)]:
            answer = await nobody.get(path)
            assert answer.status_code == 200, path
            assert answer.headers["content-security-policy"] == POLICY, path
            assert answer.headers["x-content-type-options"] == "nosniff", path
            assert answer.headers["referrer-policy"] == "no-referrer", path
            assert answer.headers["cache-control"] == "no-store", path
            assert "set-cookie" not in answer.headers, path


@pytest.mark.parametrize("name", ["../main.py", "..%2fmain.py", "index.html", "nothing.js", "%2e%2e%2fmain.py"])
async def test_nothing_but_the_files_of_the_pages_is_served(here: Replica, name: str) -> None:
    async with httpx.AsyncClient(base_url=here.address) as nobody:
        assert (await nobody.get(f"/assets/{name}")).status_code == 404


def test_the_wheel_has_the_pages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    names = zipfile.ZipFile(tmp_path / flit_core.buildapi.build_wheel(str(tmp_path))).namelist()
    files = {f"app/console/{path.name}" for path in (ROOT / "app" / "console").iterdir()}
    assert files
    assert files <= set(names)


async def test_hostile_texts_do_nothing(visit: Visit, alice: httpx.AsyncClient) -> None:
    """Each as a message of both sides; the visitor's browser tells of any dialog, error, or request elsewhere."""
    assert len(HOSTILE) >= 100
    messages = [{"role": role, "content": text} for text in SMALL.values() for role in ("user", "assistant")]
    path = await new_conversation(alice, messages=messages[:1000], title="<img src=x onerror=alert(1)>")
    page = await visit(path_of(path))
    seen: set[str] = set()
    while "1" not in seen:
        items = page.locator(".message")
        await expect(items.first).to_be_visible()
        seen |= set(await items.evaluate_all("items => items.map((item) => item.dataset.seq)"))
        await page.locator(".scroller[role=region]").evaluate("scroller => { scroller.scrollTop = 0 }")
    assert len(seen) == len(messages)
    assert await page.locator(".message :is(script, iframe, img, style, form, input, svg, object)").count() == 0
    await expect(rows(page)).to_have_text(["<img src=x onerror=alert(1)>"])


async def test_the_largest_texts_are_shown_collapsed_and_whole_on_demand(
    visit: Visit, alice: httpx.AsyncClient
) -> None:
    path = await new_conversation(alice, ["start \u0007 " + "word " * 200_000 + "end"])
    page = await visit(path_of(path))
    await expect(said(page)).to_contain_text("start ␇ word")
    assert len(await said(page).inner_text()) < 10_000
    await page.get_by_role("button", name="Show more").click()
    assert 60_000 < len(await said(page).inner_text()) < 80_000


async def test_a_reply_that_streams_markup_stays_text(visit: Visit, model: ModelServer) -> None:
    begin(model, "<img src=x onerror=alert(1)><script>alert(1)</script>\u202e\u200b\u200b\u0007", " so")
    page = await visit("/")
    await say(page, "x")
    shown = "<img src=x onerror=alert(1)><script>alert(1)</script>[U+202E][U+200B\u00d72]␇"
    await expect(said(page).last).to_have_text(shown)
    model.release()
    await is_answered(page)
    await expect(said(page).last).to_contain_text("so")
    assert await page.locator(".message img").count() == 0


async def test_a_reply_that_streams_runs_its_own_way(visit: Visit, model: ModelServer) -> None:
    begin(model, "שלום", " עולם\n\n1. אחת\n2. two")
    page = await visit("/")
    await say(page, "x")
    await expect(said(page).last).to_have_text("שלום")
    assert await said(page).last.evaluate("element => getComputedStyle(element).direction") == "rtl"
    model.release()
    await is_answered(page)
    await expect(said(page).last.locator("ol")).to_be_visible()
    blocks = said(page).last.locator("p, ol, li")
    directions = await blocks.evaluate_all("all => all.map((element) => getComputedStyle(element).direction)")
    assert directions == ["rtl"] * 4


async def test_names_show_what_cannot_be_seen(visit: Visit, alice: httpx.AsyncClient) -> None:
    path = await new_conversation(alice, ["x"], title="a\u202egnp.exe\u200b")
    page = await visit(path_of(path))
    await expect(rows(page)).to_have_text(["a[U+202E]gnp.exe[U+200B]"])
    await expect(page.get_by_role("heading", level=1)).to_have_text("a[U+202E]gnp.exe[U+200B]")
    assert await page.title() == "a[U+202E]gnp.exe[U+200B] · Verbatim"


async def test_the_page_finds_unseen_what_the_service_finds(visit: Visit) -> None:
    """Each character within letters: controls, marks of direction, what has no width, wherever Unicode has them."""
    page = await visit("/activity")
    codes = [code for code in (*range(0x20000), *range(0xE0000, 0xE1000)) if not 0xD800 <= code < 0xE000]
    found = await page.evaluate(FIND_UNSEEN, codes)
    assert found == [code for code in codes if code != 0x0D and re.search(_UNSEEN, f"a{chr(code)}b")]
    show = "texts => import('/assets/dom.js').then(({ visible }) => texts.map(visible))"
    assert [text for text in await page.evaluate(show, list(UNSEEN.values())) if re.search(_UNSEEN, text)] == []
    assert await page.evaluate(show, SHAPED) == SHAPED


SHAPED = [
    "👨\u200d👩\u200d👧 ❤\ufe0f\u200d🔥",
    "می\u200cخواهم क्\u200dष",
    "葛\U000e0100",
    "🏴\U000e0067\U000e0062\U000e007f",
]


FIND_UNSEEN = """codes => import("/assets/dom.js").then(({ visible }) => codes.filter((code) => {
    const text = `a${String.fromCodePoint(code)}b`;
    return visible(text) !== text && code !== 0x0d;
}))"""


async def test_the_key_is_in_no_address_after_the_first_load(visit: Visit, person: BrowserContext, key: str) -> None:
    addresses: list[str] = []
    person.on("request", lambda request: addresses.append(request.url))
    page = await visit("/")
    await expect(page.get_by_label("Message", exact=True)).to_be_visible()
    assert "#" not in page.url
    assert not [address for address in addresses if key in address.partition("#")[0]]
    assert await page.evaluate("Object.keys(localStorage).length + document.cookie.length") == 0
    await page.reload()
    await expect(page.get_by_label("Message", exact=True)).to_be_visible()


async def test_who_has_no_key_is_asked_for_one(person: BrowserContext, here: Replica, key: str) -> None:
    page = await person.new_page()
    await page.goto(here.address)
    await page.get_by_label("Key").fill("vb_garbage_garbage")
    await page.keyboard.press("Enter")
    await expect(page.get_by_role("alert")).to_have_text("This key is not let in.")
    await page.get_by_label("Key").fill(key)
    await page.keyboard.press("Enter")
    await expect(page.get_by_label("Message", exact=True)).to_be_visible()
    await page.get_by_role("button", name="Forget the key").click()
    await expect(page.get_by_label("Key")).to_be_visible()


async def test_a_key_of_nobody_asks_for_whom_it_acts(
    person: BrowserContext, here: Replica, new_key: NewKey, alice: httpx.AsyncClient
) -> None:
    await new_conversation(alice, title="hers")
    page = await person.new_page()
    await page.goto(f"{here.address}#key={await new_key()}")
    await page.get_by_label("User").fill("alice")
    await page.keyboard.press("Enter")
    await expect(rows(page)).to_have_text(["hers"])


async def sizes_of(page: Page, path: str) -> dict[str, int]:
    """What the browser gets of our own for a page in which one conversation is listed."""
    answers: list[Response] = []

    def keep(answer: Response) -> None:
        answers.append(answer)

    page.on("response", keep)
    await page.goto(path)
    await expect(rows(page)).to_have_text(["one"])
    await expect(page.get_by_label("Message", exact=True)).to_be_visible()
    if "/c/" in path:
        await expect(said(page)).to_have_text(["x"])
    await page.wait_for_load_state("load")
    return {answer.url: len(await answer.body()) for answer in answers if "/v1/" not in answer.url}


async def test_the_first_page_is_small(
    person: BrowserContext, here: Replica, key: str, alice: httpx.AsyncClient
) -> None:
    path = path_of(await new_conversation(alice, ["x"], title="one"))
    for target, limit in (("/", FIRST_PAGE_LIMIT_BYTES), (path, DEEP_LINK_LIMIT_BYTES)):
        sizes = await sizes_of(await person.new_page(), f"{here.address}{target}#key={key}")
        assert len(sizes) > 10
        assert sum(sizes.values()) < limit, (sum(sizes.values()), sizes)
        names = {url.rpartition("/")[2].partition(".")[0] for url in sizes}
        assert not names & {"activity", "plot", "figures", "stats", "deeds", "menu", "toast", "whole"}


@pytest.mark.faults  # a figure, for a machine that does nothing else
async def test_the_list_can_be_used_at_once(visit: Visit, alice: httpx.AsyncClient) -> None:
    for number in range(30):
        await new_conversation(alice, title=f"number {number}")
    page = await visit("/")
    times = []
    for _ in range(5):
        await page.reload()
        await expect(page.locator(".row > a").first).to_be_visible()
        times.append(await page.evaluate("performance.getEntriesByName('verbatim.listed')[0].startTime"))
    assert min(times) < LIST_LIMIT_MS, times


SIZES = [(3840, 2160), (360, 640)]
MOST_LINE_CHARS = 100
LINE_CHARS = """element => {
    const canvas = document.createElement("canvas").getContext("2d");
    canvas.font = getComputedStyle(element).font;
    return element.clientWidth / (canvas.measureText("the quick brown fox jumps over a lazy dog").width / 41);
}"""
SIDEWAYS = """() => {
    const scroller = document.querySelector("verbatim-chat")?.shadowRoot.querySelector(".scroller");
    return [document.documentElement, scroller]
        .filter((box) => box && box.scrollWidth > box.clientWidth).map((box) => box.tagName);
}"""


EMBEDDED = """<!doctype html><meta charset="utf-8"><title>A shop</title>
<script type="module" src="/assets/verbatim-chat.js"></script>
<h1>A shop</h1><verbatim-chat key="{key}" conversation="help-desk"></verbatim-chat>"""


async def test_any_page_may_embed_the_chat(person: BrowserContext, here: Replica, key: str, model: ModelServer) -> None:
    async def serve(route: Route) -> None:
        await route.fulfill(content_type="text/html", body=EMBEDDED.format(key=key))

    await person.route("**/shop", serve)
    page = await person.new_page()
    await page.goto(f"{here.address}/shop")
    await expect(page.locator(".messages")).to_be_attached()
    model.answers(text_steps("Of course."))
    await say(page, "Can you help?")
    await expect(said(page)).to_have_text(["Can you help?", "Of course."])
    await page.reload()
    await expect(said(page)).to_have_text(["Can you help?", "Of course."])


AXE = """async () => {
    const runOnly = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "best-practice"];
    const { violations } = await axe.run(document, { runOnly });
    return violations.map(({ id, impact, nodes }) => [id, impact, nodes.map((node) => node.failureSummary)]);
}"""


async def violations(page: Page) -> list[object]:
    await page.evaluate((HOME / "node_modules" / "axe-core" / "axe.min.js").read_text())
    found: list[object] = await page.evaluate(AXE)
    return found


@needs_npm_packages
@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_axe_finds_no_fault(
    browser: Browser, here: Replica, key: str, alice: httpx.AsyncClient, scheme: Literal["light", "dark"]
) -> None:
    calls = [{"id": "c1", "type": "function", "function": {"name": "look_up", "arguments": '{"word": "monad"}'}}]
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "What is a monad?"},
        {"role": "assistant", "content": "Let me see.", "tool_calls": calls},
        {"role": "tool", "tool_call_id": "c1", "content": "a burrito"},
        {
            "role": "assistant",
            "content": "\n\n".join(
                (
                    "# A *burrito*",
                    f"```\n{'code ' * 99}\n```",
                    f"{'|head' * 40}|\n{'|-' * 40}|\n{'|cell' * 40}|",
                    f"[more](https://example.com) {'word' * 99}",
                    "1. مونَد\n2. > بوريتو",
                    "Some words. " * 50,
                )
            ),
        },
        {"role": "user", "content": "ما هو المونَد؟ monad"},
    ]
    path = await new_conversation(alice, messages=messages, title="Monads")
    options = {"bypass_csp": True, "color_scheme": scheme, "reduced_motion": "reduce"}  # axe itself sets styles inline
    async with visitor(browser, here.address, **options) as context:
        page = await context.new_page()
        await page.goto(f"{here.address}{path_of(path)}#key={key}")
        await page.locator("summary").click()
        await expect(page.locator(".data").first).to_be_visible()
        assert await violations(page) == []
        for width, height in SIZES:
            await page.set_viewport_size({"width": width, "height": height})
            assert await page.evaluate(SIDEWAYS) == [], width
            assert await page.locator(".assistant p").last.evaluate(LINE_CHARS) < MOST_LINE_CHARS, width
            assert await violations(page) == [], width
        await page.set_viewport_size({"width": 1280, "height": 800})
        await page.locator(".row").hover()
        await page.locator(".row").get_by_role("button").click()
        assert await violations(page) == []
        await page.get_by_role("menuitem", name="Rename").click()
        assert await violations(page) == []
