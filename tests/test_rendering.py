# ruff: noqa: RUF001  # letters that look like others are the point

import json
import re
from asyncio import TaskGroup, create_task, sleep
from html.parser import HTMLParser
from time import process_time, thread_time

import pytest
from httpx import AsyncClient
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.wire.messages import HTML_LIMIT_BYTES, HTML_PAGE_LIMIT_BYTES
from tests.conftest import new_conversation, problem
from tests.hostile_markdown import EVIL, HOSTILE, HUGE, SMALL

pytestmark = pytest.mark.shares_app

LINK = {"target": "_blank", "rel": "noopener noreferrer nofollow"}
DIRECTED = {"p", "h1", "h2", "h3", "h4", "h5", "h6", "blockquote", "ul", "ol", "table", "pre"}
TAGS = {*DIRECTED, "li", "thead", "tbody", "tr", "td", "th", "br", "hr", "code", "em", "strong", "s", "a", "span"}
VOID = {"br", "hr"}
SHAPES = {
    ("a", "href"): r"(?i:https?://|mailto:)[!-~]+",
    ("a", "target"): "_blank",
    ("a", "rel"): "noopener noreferrer nofollow",
    ("code", "class"): r"language-[\w+#.-]{1,32}",
    ("span", "class"): "control",
    ("ol", "start"): r"\d{1,9}",
    ("td", "align"): "left|center|right",
    ("th", "align"): "left|center|right",
} | {(tag, "dir"): "auto" for tag in DIRECTED}
UNSEEN = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u00ad\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff]")


class Page(HTMLParser):
    """What stands in an HTML text, and what may not."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.faults: list[str] = []
        self.open: list[str] = []
        self.links: list[str] = []
        self.said = ""
        self.feed(html)
        self.close()
        self.faults += [f"<{tag}> is left open" for tag in self.open]
        if UNSEEN.search(html):
            self.faults.append("what cannot be seen")

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in TAGS:
            self.faults.append(f"<{tag}>")
        for name, value in attrs:
            if (tag, name) not in SHAPES or not re.fullmatch(SHAPES[tag, name], value or ""):
                self.faults.append(f"<{tag} {name}={value!r}>")
        if tag == "a":
            if "a" in self.open or {**dict(attrs), "href": ""} != LINK | {"href": ""}:
                self.faults.append(f"a link with {attrs}")
            self.links.append(dict(attrs).get("href") or "")
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.faults.append(f"</{tag}>")

    def handle_data(self, data: str) -> None:
        self.said += data

    def handle_comment(self, data: str) -> None:
        self.faults.append(f"<!--{data}-->")

    def handle_decl(self, decl: str) -> None:
        self.faults.append(f"<!{decl}>")

    def handle_pi(self, data: str) -> None:
        self.faults.append(f"<?{data}>")


async def rendered(client: AsyncClient, contents: list[object]) -> list[str | None]:
    """The HTML of messages with these contents."""
    path = await new_conversation(client, messages=[{"role": "user", "content": content} for content in contents])
    page = (await client.get(f"{path}/messages", params={"format": "html", "limit": 1000})).json()
    return [message["html"] for message in page["data"]]


async def html_of(client: AsyncClient, content: object) -> str | None:
    (html,) = await rendered(client, [content])
    return html


def plain(html: str | None) -> str | None:
    """Without what every block and link has."""
    rel = f' target="{LINK["target"]}" rel="{LINK["rel"]}"'
    return html and html.replace(' dir="auto"', "").replace(rel, "")


# How it is asked for


async def test_html_stands_beside_what_is_kept(alice: AsyncClient) -> None:
    path = await new_conversation(alice, ["*a*", "b"])
    native = (await alice.get(f"{path}/messages")).json()
    html = (await alice.get(f"{path}/messages", params={"format": "html"})).json()
    assert [message.pop("html") for message in html["data"]] == ['<p dir="auto"><em>a</em></p>', '<p dir="auto">b</p>']
    assert html == native


async def test_one_message_is_shown_as_in_its_page(alice: AsyncClient) -> None:
    path = await new_conversation(alice, ["*a*"])
    (listed,) = (await alice.get(f"{path}/messages", params={"format": "html"})).json()["data"]
    target = f"{path}/messages/{listed['id']}"
    assert (await alice.get(target, params={"format": "html"})).json() == listed
    assert (await alice.get(target)).json().items() == {k: v for k, v in listed.items() if k != "html"}.items()


async def test_native_is_what_comes_unasked_byte_for_byte(alice: AsyncClient) -> None:
    path = await new_conversation(alice, ["*a*"])
    for target in (f"{path}/messages", f"{path}/messages/{(await ids(alice, path))[0]}"):
        unasked, native = await alice.get(target), await alice.get(target, params={"format": "native"})
        assert unasked.content == native.content
        assert b'"html"' not in unasked.content


async def ids(client: AsyncClient, path: str) -> list[str]:
    return [message["id"] for message in (await client.get(f"{path}/messages")).json()["data"]]


@pytest.mark.parametrize("wish", ["json", "HTML", "", "null", "openai"])
async def test_no_other_format_is_known(alice: AsyncClient, wish: str) -> None:
    path = await new_conversation(alice, ["a"])
    for target in (f"{path}/messages", f"{path}/messages/{(await ids(alice, path))[0]}"):
        answer = await alice.get(target, params={"format": wish})
        assert (problem(answer), answer.json()["errors"][0]["parameter"]) == ("invalid-input", "format")


async def test_what_is_kept_is_not_touched(alice: AsyncClient) -> None:
    path = await new_conversation(alice, list(SMALL.values()))
    before = (await alice.get(f"{path}/messages", params={"limit": 1000})).content
    await alice.get(f"{path}/messages", params={"limit": 1000, "format": "html"})
    assert (await alice.get(f"{path}/messages", params={"limit": 1000})).content == before
    assert [message["content"] for message in json.loads(before)["data"]] == list(SMALL.values())


# What is shown


@pytest.mark.parametrize(
    ("text", "html"),
    [
        ("# a\n\nb *c* **d** ~~e~~ `f`", "<h1>a</h1>\n<p>b <em>c</em> <strong>d</strong> <s>e</s> <code>f</code></p>"),
        ("a\nb", "<p>a<br>\nb</p>"),
        ("- a\n- b", "<ul>\n<li>a</li>\n<li>b</li>\n</ul>"),
        ("3. a", '<ol start="3">\n<li>a</li>\n</ol>'),
        ("> a\n\n---", "<blockquote>\n<p>a</p>\n</blockquote>\n<hr>"),
        ("```py\n<b> & 1\n```", '<pre><code class="language-py">&lt;b&gt; &amp; 1\n</code></pre>'),
        ("[a](https://b.example/?c&d)", '<p><a href="https://b.example/?c&amp;d">a</a></p>'),
        ("[a](HTTPS://b.example)", '<p><a href="HTTPS://b.example">a</a></p>'),
        ("<mailto:a@b.example>", '<p><a href="mailto:a@b.example">mailto:a@b.example</a></p>'),
        ("![a *b*](https://c.example/d.png)", '<p><a href="https://c.example/d.png">a b</a></p>'),
        ("![](https://c.example/d.png)", '<p><a href="https://c.example/d.png">https://c.example/d.png</a></p>'),
        ("[![a](https://c.example/d.png)](https://e.example)", '<p><a href="https://e.example">a</a></p>'),
        ("[a](javascript:b)", "<p>[a](javascript:b)</p>"),
        ("<b>a</b>", "<p>&lt;b&gt;a&lt;/b&gt;</p>"),
        ("你好 שלום 👍🏽", "<p>你好 שלום 👍🏽</p>"),
    ],
)
async def test_markdown_is_shown(alice: AsyncClient, text: str, html: str) -> None:
    assert plain(await html_of(alice, text)) == html


async def test_cells_are_aligned_without_a_style(alice: AsyncClient) -> None:
    html = plain(await html_of(alice, "|a|b|\n|:-|-:|\n|1|2|"))
    cells = ["th align=left", "th align=right", "td align=left", "td align=right"]
    assert re.findall(r"<(t[hd] [^>]*)>", (html or "").replace('"', "")) == cells


async def test_every_outermost_block_finds_its_own_direction(alice: AsyncClient) -> None:
    text = "# שלום\n\nשלום\n\n- a\n\n  - b\n\n> c\n\n```\nd\n```\n\n|e|\n|-|\n|f|\n\n1. g"
    opened = re.findall(r"<(\w+)([^>]*)>", await html_of(alice, text) or "")
    assert [tag for tag, attributes in opened if ' dir="auto"' in attributes] == [
        "h1", "p", "ul", "blockquote", "pre", "table", "ol",
    ]  # fmt: skip


async def test_every_link_opens_apart_and_says_nothing_of_us(alice: AsyncClient) -> None:
    html = await html_of(alice, f"[a]({EVIL}) <{EVIL}> ![b]({EVIL}) [c]\n\n[c]: {EVIL}")
    assert html is not None
    assert html.count(f'<a href="{EVIL}" target="_blank" rel="noopener noreferrer nofollow">') == 4


@pytest.mark.parametrize(
    ("content", "html"),
    [
        ([{"type": "text", "text": "*a*"}, {"type": "text", "text": "b"}], "<p><em>a</em></p>\n<p>b</p>"),
        ([{"type": "input_text", "text": "a"}, {"type": "output_text", "text": "b"}], "<p>a</p>\n<p>b</p>"),
        ([{"type": "text", "text": "```\na"}, {"type": "text", "text": "*b*"}],
         "<pre><code>a</code></pre>\n<p><em>b</em></p>"),
        ([{"type": "refusal", "refusal": "no"}], "<p>no</p>"),
        ([{"type": "image_url", "image_url": {"url": "https://a.example/b.png"}}],
         '<p>[image] <a href="https://a.example/b.png">https://a.example/b.png</a></p>'),
        ([{"type": "input_image", "image_url": "https://a.example/ b"}], "<p>[image]</p>"),
        ([{"type": "image_url", "image_url": {"url": "javascript:alert(1)"}}], "<p>[image]</p>"),
        ([{"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}], "<p>[image]</p>"),
        ([{"type": "image_url", "image_url": {"url": "mailto:a@b.example"}}], "<p>[image]</p>"),
        ([{"type": "file", "file": {"filename": "<b>.pdf", "file_id": "x"}}], "<p>[file] &lt;b&gt;.pdf</p>"),
        ([{"type": "input_file", "filename": "a\u202efdp.exe"}],
         '<p>[input_file] a<span class="control">U+202E</span>fdp.exe</p>'),
        ([{"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}}], "<p>[input_audio]</p>"),
        ([{"type": "<script>", "x": 1}], "<p>[&lt;script&gt;]</p>"),
        ([{"type": "text", "text": 1}], "<p>[text]</p>"),
        ([{"type": "file", "file": {"filename": 1}}], "<p>[file]</p>"),
    ],
)  # fmt: skip
async def test_parts_are_shown_one_by_one(alice: AsyncClient, content: object, html: str) -> None:
    assert plain(await html_of(alice, content)) == html


@pytest.mark.parametrize("content", ["", " \n ", [], [{"type": "text", "text": ""}], "[a]: https://b.example"])
async def test_what_shows_nothing_is_null(alice: AsyncClient, content: object) -> None:
    assert await html_of(alice, content) is None


async def test_a_call_without_content_shows_nothing(alice: AsyncClient) -> None:
    calls = [{"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}]
    path = await new_conversation(alice, messages=[{"role": "assistant", "tool_calls": calls}])
    assert (await alice.get(f"{path}/messages", params={"format": "html"})).json()["data"][0]["html"] is None


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\u202eb", "a<U+202E>b"),
        ("a\0b", "a<U+0000>b"),
        ("a\x1b\x9bb", "a<U+001B U+009B>b"),
        ("`a\u200bb`", "a<U+200B>b"),
        ("```\na\u2066b\n```", "a<U+2066>b\n"),
        ("\u200b" * 3 + "a", "<U+200B×3>a"),
        ("a\u200fb\u200e", "a<U+200F>b<U+200E>"),
        ("a&#x202e;b", "a<U+202E>b"),
        ("a\u200db", "a<U+200D>b"),
        ("a\tb", "a\tb"),
        ("👨\u200d👩\u200d👧 🏴\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f ❤\ufe0f\u200d🔥", None),
        ("می\u200cخواهم क्\u200dष", None),
        ("葛\U000e0100", None),
    ],
)  # fmt: skip
async def test_what_cannot_be_seen_is_shown(alice: AsyncClient, text: str, shown: str | None) -> None:
    html = await html_of(alice, text)
    assert html is not None
    marked = re.sub(r'<span class="control">([^<]*)</span>', "{\\1}", html)
    said = re.sub(r"<[^>]*>", "", marked).replace("{", "<").replace("}", ">")
    assert said == (text if shown is None else shown)


# What never comes out


def test_the_corpus_is_large() -> None:
    assert len(HOSTILE) >= 250


async def test_nothing_hostile_comes_out(alice: AsyncClient) -> None:
    for wrap in (str, lambda text: [{"type": "text", "text": text}]):
        pages = await rendered(alice, [wrap(text) for text in SMALL.values()])
        assert None not in pages
        faults = {name: Page(html or "").faults for name, html in zip(SMALL, pages, strict=True)}
        assert {name: found for name, found in faults.items() if found} == {}


async def test_no_name_of_a_file_or_kind_comes_out_hostile(alice: AsyncClient) -> None:
    texts = list(SMALL.values())
    parts = [[{"type": text, "filename": text}, {"type": "input_image", "image_url": text}] for text in texts]
    for text, html in zip(texts, await rendered(alice, list(parts)), strict=True):
        assert Page(html or "").faults == [], text


async def test_nothing_said_is_lost_from_what_is_shown(alice: AsyncClient) -> None:
    """Letters and digits alone: the rest may be the marks of Markdown."""
    names = [name for name in SMALL if name.startswith(("a script ", "svg", "a form", "a style", "javascript"))]
    for name, html in zip(names, await rendered(alice, [SMALL[name] for name in names]), strict=True):
        assert "alert1" in re.sub(r"\W", "", Page(html or "").said) or "alert" not in SMALL[name], name


FRAGMENTS = (
    *"[]()<>!*_~`#|-\\&;:\"'\n\r\t =/\0",
    *("](", "![", "\n\n", "\n> ", "\n- ", "\n1. ", "```", "\n    ", "|-|", "&#", "&lt;", "a", "é", "ש"),
    *("https://", "javascript:", "data:", "mailto:", "//", "www.", "[a]: ", "<script>", "</code>", "<!--", "<a href="),
    *("\u202e", "\u200d", "\u2028", "\ufeff", "\U000e0061", "😀", " onerror=", "style=", "%0a", "x@y.z"),
)
markdown = st.one_of(
    st.lists(st.sampled_from(FRAGMENTS), min_size=1, max_size=40).map("".join),
    st.lists(st.sampled_from(list(SMALL.values())), min_size=2, max_size=4).map("\n".join),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=60),
)


@given(texts=st.lists(markdown, min_size=60, max_size=60))
@settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck))
async def test_nothing_hostile_comes_out_of_any_markdown(alice: AsyncClient, texts: list[str]) -> None:
    for text, html in zip(texts, await rendered(alice, list(texts)), strict=True):
        assert Page(html or "").faults == [], text


async def test_the_same_text_gives_the_same_html(alice: AsyncClient) -> None:
    assert await rendered(alice, list(SMALL.values())) == await rendered(alice, list(SMALL.values()))


# What it takes

WORST = {
    "autolinks",
    "links of foreign hosts",
    "underlined headings",
    "links in links left open",
    "a table that fills itself",
    "lazy lines",
    "a reference used often",
    "controls between letters",
    "quotes in quotes",
}


async def test_no_text_takes_a_second(alice: AsyncClient) -> None:
    """Those that take longest; the others are among the long tests."""
    await expect_haste(alice, WORST)


@pytest.mark.faults
async def test_no_other_text_takes_a_second(alice: AsyncClient) -> None:
    await expect_haste(alice, set(HUGE) - WORST)


async def expect_haste(alice: AsyncClient, names: set[str]) -> None:
    """Renders texts within a second each, of the processor's time, to nothing hostile."""
    took, faults = {}, {}
    for name, text in HUGE.items():
        if name not in names:
            continue
        path = await new_conversation(alice, [text])
        begun = process_time()
        (message,) = (await alice.get(f"{path}/messages", params={"format": "html"})).json()["data"]
        took[name] = process_time() - begun
        faults[name] = Page(message["html"] or "").faults[:3]
    assert {name: seconds for name, seconds in took.items() if seconds > 1} == {}
    assert {name: found for name, found in faults.items() if found} == {}


async def test_rendering_leaves_the_event_loop_to_others(alice: AsyncClient) -> None:
    """As far as the loop's own work goes: the thread may wait for the machine."""
    path = await new_conversation(alice, [HUGE["entities"]] * 2)
    rendering = create_task(alice.get(f"{path}/messages", params={"format": "html"}))
    longest, turns = 0.0, 0
    while not rendering.done():
        begun = thread_time()
        await sleep(0.001)
        longest, turns = max(longest, thread_time() - begun), turns + 1
    assert (longest < 0.05, turns > 20) == (True, True), (longest, turns)


async def test_an_owner_of_many_slow_pages_takes_turns_with_others(alice: AsyncClient, bob: AsyncClient) -> None:
    path = await new_conversation(alice, [HUGE["references left open"]])
    other_path = await new_conversation(bob, ["a"])
    ended: list[tuple[bool, int]] = []

    async def ask(client: AsyncClient, target: str) -> None:
        answer = await client.get(f"{target}/messages", params={"format": "html"})
        ended.append((client is bob, answer.status_code))

    async with TaskGroup() as tasks:
        for _ in range(24):
            tasks.create_task(ask(alice, path))
        await sleep(0.1)
        tasks.create_task(ask(bob, other_path))
    kept = [status for _, status in ended if status != 503]
    assert (kept, len(ended) > len(kept)) == ([200] * len(kept), True)
    rank = [is_other for is_other, status in ended if status == 200].index(True)
    assert rank < 6, ended


@pytest.mark.parametrize("letter", ["a", "é", "\U0001f600"])
async def test_a_message_of_more_than_64_kb_is_null(alice: AsyncClient, letter: str) -> None:
    count = HTML_LIMIT_BYTES // len(letter.encode())
    most, more = await rendered(alice, [letter * count, letter * (count + 1)])
    assert most is not None
    assert more is None
    half = [{"type": "text", "text": letter * (count // 2 + 1)}]
    assert await html_of(alice, half * 2) is None


async def test_a_page_shows_256_kb_and_then_what_fits(alice: AsyncClient) -> None:
    count = HTML_PAGE_LIMIT_BYTES // 60_000
    pages = await rendered(alice, ["a" * 60_000] * (count + 2) + ["b"])
    assert [html is not None for html in pages] == [True] * count + [False] * 2 + [True]


async def test_a_page_takes_no_longer_than_two_messages(alice: AsyncClient) -> None:
    *hard, easy = await rendered(alice, [HUGE["items"]] * 5 + ["a"])
    assert (hard, easy) == ([None] * 5, None)


async def test_a_text_too_hard_does_not_hide_its_neighbours(alice: AsyncClient) -> None:
    hard, easy = await rendered(alice, [HUGE["quotes in quotes"], "a"])
    assert (hard, plain(easy)) == (None, "<p>a</p>")


@pytest.mark.parametrize("depth", [17, 21])
async def test_what_is_nested_is_shown_or_left_to_the_page_but_not_dropped(alice: AsyncClient, depth: int) -> None:
    html = await html_of(alice, "> " * depth + "said")
    assert (html is None, "said" in (html or "")) in {(True, False), (False, True)}
    assert (html is None) == (depth == 21)
