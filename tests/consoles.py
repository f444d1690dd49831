"""The console as tests visit it: a service with a model that is told what to say, and a browser at it."""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

import httpx
import pytest
from msgspec.structs import replace
from playwright.async_api import Browser, BrowserContext, Locator, Page, expect

from app.database_url import DatabaseUrl
from app.settings import Settings
from tests.browsers import visitor
from tests.conftest import PATIENT, NewKey
from tests.live import Replica, replica
from tests.model_server import Hang, ModelServer, Send, chunk, model_server, text_steps

Visit = Callable[[str], Awaitable[Page]]


@pytest.fixture(scope="module")
def model() -> Iterator[ModelServer]:
    with model_server() as server:
        yield server


@pytest.fixture(scope="module")
def asking(model: ModelServer) -> Settings:
    return replace(PATIENT, follow_seconds=0.2, model_base_url=model.url, model_name="m-1", reply_flush_seconds=0.02)


@pytest.fixture(scope="module")
async def here(asking: Settings, shared_url: DatabaseUrl) -> AsyncIterator[Replica]:
    async with replica(asking, shared_url) as made:
        yield made


@pytest.fixture
async def key(new_key: NewKey) -> str:
    return await new_key(user="alice")


@pytest.fixture
async def alice(here: Replica, key: str) -> AsyncIterator[httpx.AsyncClient]:
    async with here.client(key) as client:
        yield client


@pytest.fixture
async def person(browser: Browser, here: Replica) -> AsyncIterator[BrowserContext]:
    async with visitor(browser, here.address) as context:
        yield context


@pytest.fixture
def visit(person: BrowserContext, here: Replica, key: str) -> Visit:
    """Opens a path of the console, as the link that `make run` prints opens it."""

    async def open_page(path: str = "/") -> Page:
        page = await person.new_page()
        await page.goto(f"{here.address}{path}#key={key}")
        return page

    return open_page


def path_of(conversation: str) -> str:
    return conversation.replace("/v1/conversations", "/c")


def said(page: Page) -> Locator:
    return page.locator(".message > .body")


def rows(page: Page) -> Locator:
    return page.locator(".row > a")


def field(page: Page) -> Locator:
    return page.get_by_label("Message", exact=True)


async def say(page: Page, text: str) -> None:
    await field(page).fill(text)
    await page.keyboard.press("Enter")


async def is_answered(page: Page) -> None:
    await expect(page.get_by_label("Send")).to_be_visible()


def begin(model: ModelServer, text: str, *rest: str) -> None:
    """The next reply begins with a text, and goes on when the model is released."""
    model.hold()
    model.answers([Send(chunk({"content": text})), Hang(), *text_steps(*rest)])


async def choose(page: Page, name: str, deed: str) -> None:
    row = page.locator(".row", has_text=name)
    await row.hover()
    await row.get_by_role("button").click()
    await page.get_by_role("menuitem", name=deed, exact=True).click()
