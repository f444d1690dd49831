"""Texts of messages as HTML: Markdown without raw HTML, what cannot be seen made visible, sanitised at the end.

Nothing of it is stored, and the same text gives the same HTML.
"""

import re
from asyncio import get_running_loop
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from html import escape
from itertools import groupby
from time import perf_counter
from uuid import UUID

import nh3
from markdown_it import MarkdownIt
from markdown_it.renderer import RendererHTML
from markdown_it.rules_block import StateBlock, table
from markdown_it.rules_core import StateCore
from markdown_it.rules_inline import StateInline
from markdown_it.token import Token
from markdown_it.utils import EnvType, OptionsDict
from msgspec import Raw
from msgspec.structs import replace

from app.context import members_of, text_of
from app.drafts import Part, parts_of
from app.lanes import Lanes
from app.wire.messages import HTML_LIMIT_BYTES, HTML_PAGE_LIMIT_BYTES, Message

_STEPS = 20_000
_PAGE_STEPS = 2 * _STEPS
_BLOCK_STEPS, _CELL_STEPS = 2, 2
_INLINE_STEPS = {"<": 4, "[": 2, "!": 2}
_GROWN_LIMIT = 4 * HTML_LIMIT_BYTES
_LEVELS = 18
"""Of nested blocks; at maxNesting the parser would drop what is in them."""

_NESTED_LIMIT = 100
_SHOWN_RUNS = 8
_TURN_SECONDS = 0.02
_WEB_ADDRESS = re.compile(r"https?://[A-Z0-9\[][!-~]*", re.ASCII | re.IGNORECASE)
_ADDRESS = re.compile(rf"{_WEB_ADDRESS.pattern}|mailto:[!-~]+", re.ASCII | re.IGNORECASE)
_LANGUAGE = re.compile(r"language-[A-Za-z0-9+#._-]{1,32}")
_NUMBER = re.compile(r"[0-9]{1,9}")
_NEWLINES = re.compile(r"\r\n?")

# What has no glyph of its own, except where it shapes its neighbours: in emoji, in scripts that join or stack.
_SHAPED = "\u0590-\u1fff\u2190-\u2bff\ufb1d-\ufdff\ufe0f\ufe70-\ufefc\U00010000-\U000dffff"
_IDEOGRAPHS = "\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_UNSEEN = (
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180e\u200b\u200e\u200f\u2028-\u202e"
    "\u2060-\u206f\u3164\ufeff\uffa0\ufff0-\ufffb\ufffe\uffff\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e00ff"
    "\U000e01f0-\U000e0fff]"
    f"|(?<![{_SHAPED}])[\u200c\u200d]|[\u200c\u200d](?![{_SHAPED}])"
    f"|(?<![{_IDEOGRAPHS}])[\U000e0100-\U000e01ef]"
)
_FLAG = "\U0001f3f4[\U000e0030-\U000e0039\U000e0061-\U000e007a]{1,6}\U000e007f"
_TAG_OR_UNSEEN = re.compile(f"<[^>]*>|{_FLAG}|((?:{_UNSEEN})+)")

_DIRECTED = ("p", "h1", "h2", "h3", "h4", "h5", "h6", "blockquote", "ul", "ol", "table")
_PARTS = ("li", "thead", "tbody", "tr", "td", "th")
_ALIGNMENTS = {"align": {"left", "center", "right"}}


class _TooMuch(Exception):
    """Rendering would take more work, or make more HTML, than a text may."""


class _Meter:
    """What is left of the work that rendering may do; each try of the parser's rules at a place is a step."""

    def __init__(self, steps: int) -> None:
        self.left = steps

    def spend(self, steps: int = 1) -> None:
        """Raises _TooMuch."""
        self.left -= steps
        if self.left < 0:
            raise _TooMuch


# The parser


def _meter_block(state: StateBlock, _start: int, _end: int, _silent: bool) -> bool:  # noqa: FBT001  # the parser calls rules by place
    if state.level >= _LEVELS:
        raise _TooMuch
    state.env["meter"].spend(_BLOCK_STEPS)
    return False


def _meter_inline(state: StateInline, _silent: bool) -> bool:  # noqa: FBT001  # the parser calls rules by place
    state.env["meter"].spend(_INLINE_STEPS.get(state.src[state.pos], 1))
    return False


def _metered_table(state: StateBlock, start: int, end: int, silent: bool) -> bool:  # noqa: FBT001  # the parser calls rules by place
    """A table, whose cells are paid for: rows too short are filled up to the columns of the head."""
    if silent or not table(state, start, end, True):  # noqa: FBT003  # rules are called by place
        return silent and table(state, start, end, silent)
    columns = state.src.count("|", state.bMarks[start], state.eMarks[start]) + 1
    last = start
    while last < end and not state.isEmpty(last):
        last += 1
        state.env["meter"].spend(columns * _CELL_STEPS)
    return table(state, start, end, silent)


def _normalize(state: StateCore) -> None:
    """Newlines, and nothing else: a NUL is to be shown."""
    state.src = _NEWLINES.sub("\n", state.src)


def _link_image(renderer: RendererHTML, tokens: Sequence[Token], place: int, options: OptionsDict, env: EnvType) -> str:
    """An image as a link to it; in a link, its text alone."""
    token = tokens[place]
    address = str(token.attrs["src"])
    text = escape(renderer.renderInlineAsText(token.children, options, env) or address)
    return text if token.meta.get("is_linked") else _link(address, text)


def _link(address: str, text: str) -> str:
    return f'<a href="{escape(address)}">{text}</a>'


class _Parser(MarkdownIt):
    """CommonMark with tables and strikethrough, without raw HTML; a line break is kept, as in a chat."""

    def __init__(self) -> None:
        super().__init__("commonmark", {"html": False, "breaks": True})
        self.enable(["table", "strikethrough"])
        self.core.ruler.at("normalize", _normalize)
        self.block.ruler.at("table", _metered_table, {"alt": ["paragraph", "reference"]})
        self.block.ruler.before(
            "table", "meter", _meter_block, {"alt": ["paragraph", "reference", "blockquote", "list"]}
        )
        self.inline.ruler.before("text", "meter", _meter_inline)
        self.add_render_rule("image", _link_image)

    def validateLink(self, url: str) -> bool:  # noqa: N802  # overrides the parser's method
        """Whether an address may be one of a link; else the link stays the text that it is."""
        return _ADDRESS.fullmatch(url) is not None


_PARSER = _Parser()


def _filter_attribute(tag: str, name: str, value: str) -> str | None:
    shape = {("code", "class"): _LANGUAGE, ("ol", "start"): _NUMBER}.get((tag, name))
    return value if shape is None or shape.fullmatch(value) else None


_SANITISER = nh3.Cleaner(
    tags={*_DIRECTED, *_PARTS, "pre", "br", "hr", "code", "em", "strong", "s", "a", "span"},
    clean_content_tags=set(),
    attributes={"*": set(), "a": {"href"}, "code": {"class"}, "ol": {"start"}},
    attribute_filter=_filter_attribute,
    generic_attribute_prefixes=set(),
    tag_attribute_values={"span": {"class": {"control"}}, "td": _ALIGNMENTS, "th": _ALIGNMENTS}
    | {tag: {"dir": {"auto"}} for tag in _DIRECTED},
    set_tag_attribute_values={"pre": {"dir": "auto"}, "a": {"target": "_blank"}},
    link_rel="noopener noreferrer nofollow",
    url_schemes={"http", "https", "mailto"},
    url_relative="deny",
)


# From tokens to HTML


def _mend(tokens: Sequence[Token]) -> None:
    """Notes the images that stand in a link, aligns cells without style, has what stands outermost find its direction.

    What is in a list, a quote or a table goes as that goes: a browser that looks for a block's direction passes over
    what in it looks for its own (HTML, "the directionality"). Raises _TooMuch.
    """
    for token in tokens:
        if token.nesting == 1 and not token.level:
            token.attrs["dir"] = "auto"
    depth, growth = 0, 0
    for token in _walk(tokens):
        depth += token.nesting
        growth += len(str(token.attrs.get("href", ""))) + len(str(token.attrs.get("src", "")))
        if depth > _NESTED_LIMIT or growth > _GROWN_LIMIT:
            raise _TooMuch
        if style := token.attrs.pop("style", ""):
            token.attrs["align"] = str(style).removeprefix("text-align:")


def _walk(tokens: Sequence[Token]) -> Iterator[Token]:
    for token in tokens:
        yield token
        is_linked = False
        for child in token.children or ():
            if child.type in {"link_open", "link_close"}:
                is_linked = child.nesting == 1
            child.meta["is_linked"] = is_linked
            yield child


def _show_unseen(match: re.Match[str]) -> str:
    """A run of characters that cannot be seen, by their code points; a tag as it is."""
    if match[1] is None:
        return match[0]
    runs = [(character, len([*group])) for character, group in groupby(match[1])]
    names = [f"U+{ord(character):04X}" + (f"\u00d7{count}" if count > 1 else "") for character, count in runs]
    if len(names) > _SHOWN_RUNS:
        names[_SHOWN_RUNS:] = [f"+{sum(count for _, count in runs[_SHOWN_RUNS:])}"]
    return f'<span class="control">{" ".join(names)}</span>'


def _write(text: str, meter: _Meter) -> str:
    """A text's HTML, not yet sanitised. Raises _TooMuch."""
    env: EnvType = {"meter": meter}
    tokens = _PARSER.parse(text, env)
    _mend(tokens)
    return str(_PARSER.renderer.render(tokens, _PARSER.options, env))


def _write_part(part: Part, meter: _Meter) -> str:
    """A part of text as its HTML, another as what it is, with its file's name or its image's address."""
    if part.kind in {"text", "refusal"}:
        return _write(text_of(part.value) or "", meter)
    if part.kind == "image":
        address = text_of(part.value) or ""
        return _label("image", _link(address, escape(address)) if _WEB_ADDRESS.fullmatch(address) else "")
    members = members_of(part.value)
    name = text_of(members.get("filename")) or text_of(members_of(members.get("file")).get("filename")) or ""
    return _label(text_of(members.get("type")) or "", escape(name))


def _label(kind: str, shown: str) -> str:
    return f'<p dir="auto">[{escape(kind)}]{shown and f" {shown}"}</p>\n'


class _Page:
    """A page whose messages are rendered one after the other, each within its own limits and what is left of its."""

    def __init__(self) -> None:
        self._bytes_left = HTML_PAGE_LIMIT_BYTES
        self._steps_left = _PAGE_STEPS

    def render(self, content: Raw | None) -> str | None:
        """A content's HTML; None when it says nothing to be seen, or is too much."""
        parts = parts_of(content)
        size = sum(len(text.encode()) for part in parts if (text := text_of(part.value)))
        if size > min(HTML_LIMIT_BYTES, self._bytes_left):
            return None
        self._bytes_left -= size
        meter = _Meter(min(_STEPS, self._steps_left))
        try:
            return self._sanitise("".join(_write_part(part, meter) for part in parts))
        except _TooMuch:
            return None
        finally:
            self._steps_left -= min(_STEPS, self._steps_left) - max(0, meter.left)

    def _sanitise(self, html: str) -> str | None:
        shown = _TAG_OR_UNSEEN.sub(_show_unseen, html)
        if len(shown) > _GROWN_LIMIT:
            raise _TooMuch
        return _SANITISER.clean(shown).strip() or None

    def render_some(self, messages: Sequence[Message]) -> list[Message]:
        """The first of the messages with their `html`: as many as a turn has time for, at least one."""
        until, done = perf_counter() + _TURN_SECONDS, []
        for message in messages:
            done.append(replace(message, html=self.render(message.content)))
            if perf_counter() > until:
                break
        return done


_WORKER = ThreadPoolExecutor(1, "rendering")  # more would not be faster, and each takes its turn from the event loop
_OWNERS = Lanes(width=1, length=16, seconds=2)


async def render_messages(owner_id: UUID, messages: Sequence[Message]) -> list[Message]:
    """Messages with their `html`, made in a thread: a short text too may be slow to read.

    Owners take turns of one long message, or of several short ones; of one owner a page at a time is rendered, 16 more
    wait for it, each at most 2 s. Raises Unavailable.
    """
    page, rendered = _Page(), list[Message]()
    async with _OWNERS.enter(owner_id):
        while len(rendered) < len(messages):
            left = messages[len(rendered) :]
            rendered += await get_running_loop().run_in_executor(_WORKER, page.render_some, left)
    return rendered
