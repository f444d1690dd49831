from pathlib import Path
from uuid import uuid4

import pytest
from msgspec import Struct

from app import queries
from app.queries import Conn, NoRow, Query, Text, parse_queries


class _Answer(Struct, frozen=True):
    value: int


def parse(text: str) -> Text:
    (query,) = parse_queries(text, "things.sql").values()
    return query


def body(text: str, *parameters: str) -> str:
    """The SQL made of a body with these parameters."""
    return parse(f"-- name: get_thing({', '.join(parameters)})\n{text};\n").sql


def test_parameters_are_numbered_in_the_order_of_the_header() -> None:
    query = parse("-- name: get_thing(owner_id, id)\nSELECT 1 WHERE :id = :owner_id OR :id = 2;")
    assert query.sql == "SELECT 1 WHERE $2 = $1 OR $2 = 2"
    assert query.parameters == ("owner_id", "id")


def test_a_header_may_take_several_lines() -> None:
    query = parse("-- name: get_thing(\n--     owner_id,\n--     id\n-- )\nSELECT :owner_id, :id;")
    assert query.parameters == ("owner_id", "id")


def test_a_query_may_have_no_parameters() -> None:
    assert parse("-- name: list_things()\nSELECT 1;") == Text("SELECT 1", (), "things.sql:1")


def test_a_file_has_many_queries_after_its_opening_sentence() -> None:
    text = "-- A thing: is :it not?\n\n-- name: a()\n-- What's no row?\nSELECT 1;\n\n-- name: b(x)\nSELECT :x;\n"
    parsed = parse_queries(text, "things.sql")
    assert {name: query.sql for name, query in parsed.items()} == {"a": "SELECT 1", "b": "SELECT $1"}
    assert [query.place for query in parsed.values()] == ["things.sql:3", "things.sql:7"]


@pytest.mark.parametrize(
    "text",
    [
        "SELECT ':no'",
        "SELECT 'it''s :no'",
        "SELECT E'it\\'s :no'",
        "SELECT e'\\\\', E':no'",
        'SELECT ":no"',
        'SELECT "a "" :no"',
        "SELECT /* :no\n' */ 1",
        "SELECT $$ :no ' $$",
        "SELECT $tag$ :no $$ $tag$",
        "SELECT 1::text, '{1}'::int[]",
        "SELECT tags[1:2], (tags)[2:n]",
    ],
)
def test_what_only_looks_like_a_parameter_is_left_alone(text: str) -> None:
    assert body(text) == text


@pytest.mark.parametrize(
    ("text", "sql"),
    [
        ("SELECT :x::text", "SELECT $1::text"),
        ("SELECT (:x)::int[]", "SELECT ($1)::int[]"),
        ("SELECT tags[:x]", "SELECT tags[$1]"),
        ("SELECT tags[:x : 2]", "SELECT tags[$1 : 2]"),
        ("SELECT any(:x), f(a=>:x)", "SELECT any($1), f(a=>$1)"),
        ("SELECT 1 WHERE 1=:x", "SELECT 1 WHERE 1=$1"),
        ("SELECT ':no', :x, ':no'", "SELECT ':no', $1, ':no'"),
        ("SELECT date'2020-01-01\\', :x", "SELECT date'2020-01-01\\', $1"),
        ("SELECT '--', :x", "SELECT '--', $1"),
    ],
)
def test_parameters_are_found_beside_casts_slices_and_strings(text: str, sql: str) -> None:
    assert body(text, "x") == sql


def test_comments_and_indentation_are_dropped() -> None:
    assert body("SELECT\n    1, -- :not 'this\n\n    -- nor this\n    :x", "x") == "SELECT\n1,\n$1"


@pytest.mark.parametrize("literal", ["'one\n    two'", "$$one\n\n  -- two\n$$", '"one\n  two"', "E'\\\n  \\''"])
def test_a_literal_keeps_its_lines(literal: str) -> None:
    assert body(f"SELECT {literal}") == f"SELECT {literal}"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("SELECT 1;\n-- name: a()\nSELECT :x;", "things.sql:2: :x is not declared"),
        ("\n-- name: a(x, y)\nSELECT :y;", "things.sql:2: x declared but unused"),
        ("-- name: a(x)\nSELECT ':x';", "things.sql:1: x declared but unused"),
        ("-- name: a(x, x)\nSELECT :x;", "things.sql:1: a or one of its parameters is named twice"),
        ("-- name: a()\nSELECT 1;\n-- name: a()\nSELECT 2;", "things.sql:3: a or one of its parameters is named twice"),
        (
            "-- name: a()\nSELECT 1;\n-- name: b\nSELECT 2;",
            "things.sql:3: not of the form -- name: name(parameter, ...)",
        ),
        ("-- name: a(x-y)\nSELECT 1;", "things.sql:1: not of the form -- name: name(parameter, ...)"),
    ],
)
def test_a_mistake_is_named_with_file_and_line(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=r"^things\.sql:\d") as caught:
        parse_queries(text, "things.sql")
    assert str(caught.value).startswith(message)


def test_one_name_in_two_files_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for file in ("a.sql", "b.sql"):
        (tmp_path / file).write_text("-- A thing.\n\n-- name: get_thing()\nSELECT 1;\n")
    monkeypatch.setattr(queries, "SQL_DIR", tmp_path)
    with pytest.raises(ValueError, match=r"b\.sql:3: get_thing is also at a\.sql:3"):
        queries._read_all()


def test_a_query_that_stands_nowhere_is_refused() -> None:
    with pytest.raises(ValueError, match="there is no query get_nothing"):
        Query("get_nothing", NoRow)


@pytest.fixture
def question(monkeypatch: pytest.MonkeyPatch) -> Query[_Answer]:
    text = parse("-- name: double(number, times)\nSELECT 2 * :number::int FROM generate_series(1, :times::int);")
    monkeypatch.setitem(queries.TEXTS, "double", text)
    return Query("double", _Answer)


async def test_rows_fill_their_struct(connection: Conn, question: Query[_Answer]) -> None:
    assert await question.fetch(connection, times=2, number=4) == [_Answer(8), _Answer(8)]
    assert await question.fetch_one(connection, times=1, number=3) == _Answer(6)
    assert await question.fetch_one(connection, times=0, number=3) is None


@pytest.mark.parametrize("values", [{"number": 1}, {"number": 1, "times": 1, "more": 1}, {"number": 1, "count": 1}])
def test_arguments_must_be_those_of_the_header(question: Query[_Answer], values: dict[str, object]) -> None:
    with pytest.raises((TypeError, KeyError)):
        question._arguments(values)


async def test_execute_counts_the_rows_it_wrote(connection: Conn) -> None:
    expire = Query("expire_conversation", NoRow)
    assert await expire.execute(connection, owner_id=uuid4(), id=uuid4()) == 0
