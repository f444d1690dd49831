"""What the formats of a window share: which steps and calls are in it, and the parts of their contents. No I/O."""

import re
from collections.abc import Iterable, Sequence
from itertools import count

from msgspec import Raw, Struct

from app.context import Call, Entry, Step, Window, elements_of, is_a, leave_out, members_of, text_of
from app.wire.context import ContextMessage, LeftOut, Reason
from app.wire.messages import Message

_NOT_OF_A_TOOL_NAME = re.compile(r"[^a-zA-Z0-9_-]")
_TOOL_NAME_LIMIT = 64


class Draft:
    """What is written so far: the steps that are in it, and what the format has no place for."""

    def __init__(self, window: Window) -> None:
        self.window = window
        self.is_completed = window.query.complete
        self.system: list[Raw] = []
        self.messages: list[ContextMessage | Raw] = []
        self.spoken: list[Step] = []
        self.left_out: list[LeftOut] = []

    def report(self, message: Message, reason: Reason) -> None:
        """Notes what the format leaves out, once for each message and reason."""
        report = leave_out(message, reason)
        if self.left_out[-1:] != [report]:
            self.left_out.append(report)


class SentCall(Struct):
    """A call in words that a provider takes."""

    id: str
    name: str
    arguments: Raw | None
    result: Entry | None
    """None: a synthetic one."""


class Names:
    """The ids of calls as a provider takes them: of a form, and each once."""

    def __init__(self, form: re.Pattern[str]) -> None:
        self._form, self._known = form, set[str]()

    def take(self, call: Call, seq: int, place: int) -> str:
        """The call's own id, if it can be."""
        candidates = (f"call_{seq}_{place}{'_' * number}" for number in count())
        taken = call.id if self._form.fullmatch(call.id) else next(candidates)
        while taken in self._known:
            taken = next(candidates)
        self._known.add(taken)
        return taken


def sent_calls(step: Step, names: Names, *, is_completed: bool) -> list[SentCall]:
    """The calls that can be sent: those that have a result, or get one."""
    seq = step.entry.message.seq
    return [
        SentCall(
            names.take(call, seq, place),
            _NOT_OF_A_TOOL_NAME.sub("_", call.name)[:_TOOL_NAME_LIMIT],
            call.arguments,
            result,
        )
        for place, (call, result) in enumerate(zip(step.calls, step.results, strict=True))
        if result is not None or is_completed
    ]


def join(steps: Iterable[Step]) -> list[list[Step]]:
    """The steps, with those together that make one message of the assistant."""
    groups: list[list[Step]] = []
    for step in steps:
        if step.is_joined and groups:
            groups[-1].append(step)
        else:
            groups.append([step])
    return groups


class Part(Struct):
    """A part of a content: its kind in our words, its value, and the bytes that came when they fit OpenAI."""

    kind: str
    value: Raw
    original: Raw | None = None


def parts_of(content: Raw | None) -> list[Part]:
    """The parts of a content that say something; a string is one of text."""
    if content is None:
        return []
    if is_a(content, b'"'):
        return [Part("text", content)] if len(content) > len('""') else []
    parts = [_part_of(raw) for raw in elements_of(content)]
    return [part for part in parts if part.kind not in {"text", "refusal"} or len(part.value) > len('""')]


def _part_of(raw: Raw) -> Part:
    members = members_of(raw)
    kind = text_of(members.get("type"))
    if kind in {"text", "input_text", "output_text"} and is_a(members.get("text"), b'"'):
        return Part("text", members["text"], raw if kind == "text" else None)
    if kind == "refusal" and is_a(members.get("refusal"), b'"'):
        return Part("refusal", members["refusal"], raw)
    if kind in {"image_url", "input_image"}:
        image = members.get("image_url")
        url = members_of(image).get("url", image)
        if url is not None and is_a(url, b'"'):
            return Part("image", url, raw if kind == "image_url" and is_a(image, b"{") else None)
    if kind == "input_audio":
        audio = members_of(members.get("input_audio"))
        if text_of(audio.get("data")) and text_of(audio.get("format")) in {"wav", "mp3"}:
            return Part(kind, raw, raw)
    if kind == "file" and any(text_of(value) for value in members_of(members.get("file")).values()):
        return Part(kind, raw, raw)
    return Part("unknown", raw)


def note(draft: Draft, steps: Sequence[Step], sent: Sequence[Sequence[SentCall]], *, content: bool) -> None:
    """Notes which of the steps are in it: by their content, that is the first one's, or by calls."""
    for place, (step, calls) in enumerate(zip(steps, sent, strict=True)):
        if not calls and not (content and place == 0):
            draft.report(step.entry.message, "empty")
            continue
        draft.spoken.append(step)
        if step.has_unknown_calls:
            draft.report(step.entry.message, "unsupported_call")
