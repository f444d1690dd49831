"""Named SQL: every statement of the service stands in `sql/` and is known here by its name.

A query's text is read when the module that uses it is imported, so the service cannot start with a broken one.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Generic, TypeAlias, TypeVar

from asyncpg import Connection, Record
from asyncpg.pool import PoolConnectionProxy
from msgspec import Struct

SQL_DIR = Path(__file__).parent.parent / "sql"

BULK_SECONDS = 30.0
"""The limit of a statement over a whole conversation: 100,000 messages take 2 to 5 s."""

Conn: TypeAlias = "Connection[Record] | PoolConnectionProxy[Record]"
RowT = TypeVar("RowT", bound=Struct)

_HEADER = re.compile(r"^-- name: (?P<name>\w+)\((?P<parameters>(?:[\w\s,]|\n--)*)\)$", re.MULTILINE)
_TOKENS = re.compile(
    r"""
    (?<!\w)[eE]'(?:[^'\\]|\\.)*' | '(?:[^']|'')*' | "(?:[^"]|"")*" | /\*.*?\*/ | \$(?P<tag>\w*)\$.*?\$(?P=tag)\$
    | :: | (?<=[\w\]]):\w
    | (?P<gap>(?:\s*--[^\n]*|\s*\n)+\s*)
    | :(?P<parameter>[a-z_]\w*)
    """,
    re.VERBOSE | re.DOTALL,
)


class NoRow(Struct):
    """The row type of statements that return nothing."""


class Text(Struct, frozen=True):
    """A statement as asyncpg wants it: `$n` for the n-th parameter of the header."""

    sql: str
    parameters: tuple[str, ...]
    place: str


def parse_queries(text: str, source: str) -> dict[str, Text]:
    """The queries of one file. Raises ValueError naming file and line."""
    queries: dict[str, Text] = {}
    for marker in re.finditer("-- name:", text):
        if not _HEADER.match(text, marker.start()):
            raise ValueError(f"{_place(text, source, marker)}: not of the form -- name: name(parameter, ...)")
    headers = list(_HEADER.finditer(text))
    for header, following in zip(headers, [*headers[1:], None], strict=True):
        place = _place(text, source, header)
        parameters = tuple(re.findall(r"\w+", header["parameters"]))
        if header["name"] in queries or len(set(parameters)) != len(parameters):
            raise ValueError(f"{place}: {header['name']} or one of its parameters is named twice")
        body = text[header.end() : following.start() if following else None]
        queries[header["name"]] = Text(_numbered(body, parameters, place), parameters, place)
    return queries


def _place(text: str, source: str, match: re.Match[str]) -> str:
    return f"{source}:{text.count(chr(10), 0, match.start()) + 1}"


def _numbered(body: str, parameters: tuple[str, ...], place: str) -> str:
    used = set()

    def number(token: re.Match[str]) -> str:
        name = token["parameter"]
        if name is None:
            return token[0] if token["gap"] is None else "\n"
        if name not in parameters:
            raise ValueError(f"{place}: :{name} is not declared")
        used.add(name)
        return f"${parameters.index(name) + 1}"

    sql = _TOKENS.sub(number, body).strip().removesuffix(";")
    if unused := set(parameters) - used:
        raise ValueError(f"{place}: {', '.join(sorted(unused))} declared but unused")
    return sql


def _read_all() -> dict[str, Text]:
    texts: dict[str, Text] = {}
    for path in sorted(SQL_DIR.glob("*.sql")):
        for name, text in parse_queries(path.read_text(), path.name).items():
            if name in texts:
                raise ValueError(f"{text.place}: {name} is also at {texts[name].place}")
            texts[name] = text
    return texts


TEXTS = _read_all()


class Query(Generic[RowT]):
    """One statement: its text, its parameters' order and the struct that its columns fill in order.

    Its time limit is the pool's unless it has one of its own.
    """

    def __init__(self, name: str, row_type: type[RowT], timeout_seconds: float | None = None) -> None:
        if name not in TEXTS:
            raise ValueError(f"there is no query {name} in {SQL_DIR}")
        self.name, self.row_type, self._timeout_seconds = name, row_type, timeout_seconds
        self.sql, self.parameters = TEXTS[name].sql, TEXTS[name].parameters

    def _arguments(self, values: dict[str, object]) -> Sequence[object]:
        if len(values) != len(self.parameters):
            raise TypeError(f"{self.name} takes {self.parameters}, not {tuple(values)}")
        return [values[name] for name in self.parameters]

    async def fetch(self, connection: Conn, **values: object) -> list[RowT]:
        """All rows. Raises what asyncpg raises."""
        row_type = self.row_type
        records = await connection.fetch(self.sql, *self._arguments(values), timeout=self._timeout_seconds)
        return [row_type(*record) for record in records]

    async def fetch_records(self, connection: Conn, **values: object) -> list[Record]:
        """All rows as the driver gives them, whose columns are those of the struct. Raises what asyncpg raises."""
        return await connection.fetch(self.sql, *self._arguments(values), timeout=self._timeout_seconds)

    async def fetch_one(self, connection: Conn, **values: object) -> RowT | None:
        """The first row, None when there is none. Raises what asyncpg raises."""
        record = await connection.fetchrow(self.sql, *self._arguments(values), timeout=self._timeout_seconds)
        return None if record is None else self.row_type(*record)

    async def execute(self, connection: Conn, **values: object) -> int:
        """Runs a statement that returns no row; the number of rows it wrote. Raises what asyncpg raises."""
        status = await connection.execute(self.sql, *self._arguments(values), timeout=self._timeout_seconds)
        return int(status.rpartition(" ")[2])
