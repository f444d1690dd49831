"""What holds for every statement in `sql/`: sqlc's guarantee without generated code, and the wall between owners."""

import ast as python
import pkgutil
import re
from collections.abc import Container, Iterator
from datetime import date, datetime
from importlib import import_module
from pathlib import Path
from types import NoneType
from typing import Any, Literal, get_args, get_origin, get_type_hints
from uuid import UUID

import psycopg
import pytest
from msgspec import Raw
from pglast import ast, parse_sql
from pglast.enums import A_Expr_Kind, BoolExprType, JoinType, OnConflictAction
from pglast.parser import ParseError
from psycopg.pq import ExecStatus

import app
from app.embedded import EmbeddedServer
from app.queries import TEXTS, Query
from tests.conftest import TEMPLATE, run_sql

APP_DIR = Path(app.__file__).parent
MODULES = [import_module(module.name) for module in pkgutil.walk_packages(app.__path__, "app.")]
QUERIES = sorted(
    {(query.name, query.row_type) for module in MODULES for query in vars(module).values() if isinstance(query, Query)},
    key=str,
)
OVER_ALL_OWNERS = {
    "list_expired_conversations",  # `verbatim purge` works for everybody
    "list_expired_messages",
    "list_lapsed_replies",  # any replica ends what another has left
    "probe_conversations",  # readiness; what it reads is thrown away
    "count_active_users",  # an admin's: how many, of the own tenant; no one's id leaves the database
    "list_active_conversations",  # the roll-up adds up for everybody; from here on, it alone
    "measure_tenant_days",
    "list_expired_conversation_days",  # `verbatim purge`
    "list_expired_owner_days",
}
PYTHON_TYPES = {
    "bool": bool,
    "bytea": bytes,
    "date": date,
    "float8": float,
    "int4": int,
    "int8": int,
    "json": Raw,
    "text": str,
    "_text": list[str],
    "timestamptz": datetime,
    "uuid": UUID,
    "varchar": str,
}


# The rules


def walk(node: object) -> Iterator[ast.Node]:
    """The node and all below it."""
    if isinstance(node, ast.Node):
        yield node
        for name in node:
            yield from walk(getattr(node, name))
    elif isinstance(node, tuple):
        for item in node:
            yield from walk(item)


def name_of(names: tuple[ast.String, ...]) -> str:
    return names[-1].sval


class OwnerRule:
    """Every reference of an owned table is held to the owner by a predicate of its own level of the statement.

    A level is one SELECT, UPDATE, DELETE or INSERT with the tables of its own FROM; the parameter is `owner_id`, or an
    element of `owner_ids`, which a FROM unnests.
    """

    def __init__(self, sql: str, parameters: tuple[str, ...], owner_columns: dict[str, str]) -> None:
        self.statement, self.parameters, self.owner_columns = parse_sql(sql), parameters, owner_columns
        self.examined: set[int] = set()
        self.elements = {
            path for node in walk(tuple(raw.stmt for raw in self.statement)) for path in self.unnested(node)
        }
        while further := self.passed_on() - self.elements:
            self.elements |= further
        self.faults: list[str] = []
        self.check()

    def check(self) -> None:
        for node in walk(tuple(raw.stmt for raw in self.statement)):
            match node:
                case ast.SelectStmt():
                    self.check_level(node.fromClause or (), node.whereClause)
                case ast.UpdateStmt():
                    self.check_level((node.relation, *(node.fromClause or ())), node.whereClause)
                    self.refuse_move(node.relation.relname, node.targetList)
                case ast.DeleteStmt():
                    self.check_level((node.relation, *(node.usingClause or ())), node.whereClause)
                case ast.InsertStmt():
                    self.check_insert(node)
                case ast.LockingClause():
                    self.examined |= {id(relation) for relation in node.lockedRels or ()}  # names aliases, no tables
                case ast.CommonTableExpr(ctename=name) if name in self.owner_columns:
                    self.faults.append(f"a CTE hides the table {name}")
        for node in walk(tuple(raw.stmt for raw in self.statement)):
            if isinstance(node, ast.RangeVar) and node.relname in self.owner_columns and id(node) not in self.examined:
                self.faults.append(f"{node.relname} stands where the rule does not look")

    def check_level(self, sources: tuple[ast.Node, ...], where: ast.Node | None) -> set[tuple[str, str]]:
        """The owner columns, as (alias, column), that the level holds to the parameter."""
        conditions: list[tuple[ast.Node | None, set[str]]] = []
        tables = dict(table for source in sources for table in self.tables_of(source, conditions))
        conditions.append((where, set(tables)))
        held = set()
        for alias, table in tables.items():
            if column := self.owner_columns.get(table):
                names = {(alias, column), *([(column,)] if len(tables) == 1 else [])}
                if any(alias in aliases and self.holds(condition, names) for condition, aliases in conditions):
                    held.add((alias, column))
                else:
                    self.faults.append(f"{table} AS {alias} is not held to :owner_id")
        return held

    def tables_of(self, source: ast.Node, conditions: list[tuple[ast.Node | None, set[str]]]) -> list[tuple[str, str]]:
        """Alias and table of what a FROM item brings in, and the join conditions with the aliases they hold."""
        if isinstance(source, ast.JoinExpr):
            left, right = self.tables_of(source.larg, conditions), self.tables_of(source.rarg, conditions)
            kept = {JoinType.JOIN_INNER: left + right, JoinType.JOIN_LEFT: right, JoinType.JOIN_RIGHT: left}
            conditions.append((source.quals, {alias for alias, _ in kept.get(source.jointype, [])}))
            return left + right
        alias = getattr(source, "alias", None)
        if isinstance(source, ast.RangeVar) and not (alias and alias.colnames):
            self.examined.add(id(source))
            return [(alias.aliasname if alias else source.relname, source.relname)]
        return [(alias.aliasname if alias else f"#{id(source)}", "")]

    def holds(self, condition: ast.Node | None, names: set[tuple[str, ...]]) -> bool:
        """Whether the condition can only be true where one of the columns equals the parameter."""
        match condition:
            case ast.BoolExpr(boolop=BoolExprType.AND_EXPR):
                return any(self.holds(part, names) for part in condition.args)
            case ast.A_Expr(kind=A_Expr_Kind.AEXPR_OP) if name_of(condition.name) == "=":
                left, right = condition.lexpr, condition.rexpr
                return any(
                    isinstance(column, ast.ColumnRef) and self.path_of(column) in names and self.is_owner(value)
                    for column, value in ((left, right), (right, left))
                )
        return False

    def path_of(self, column: ast.ColumnRef) -> tuple[str, ...]:
        return tuple(getattr(field, "sval", "*") for field in column.fields)

    def unnested(self, node: ast.Node) -> Iterator[tuple[str, ...]]:
        """The column that holds an element of `owner_ids`, of `unnest(:owner_ids, ...) AS alias (column, ...)`."""
        match node:
            case ast.RangeFunction(functions=((ast.FuncCall() as call, _),), alias=ast.Alias(colnames=names)) if names:
                if name_of(call.funcname) == "unnest":
                    for argument, name in zip(call.args, names, strict=False):
                        if self.is_parameter(argument, "owner_ids"):
                            yield node.alias.aliasname, name.sval

    def passed_on(self) -> set[tuple[str, ...]]:
        """The columns of CTEs that hold nothing but elements, by the names under which they are read."""
        nodes = [*walk(tuple(raw.stmt for raw in self.statement))]
        columns = {
            (node.ctename, target.name or self.path_of(target.val)[-1])
            for node in nodes
            if isinstance(node, ast.CommonTableExpr) and isinstance(node.ctequery, ast.SelectStmt)
            for target in (() if node.aliascolnames or node.ctequery.larg else node.ctequery.targetList)
            if isinstance(target.val, ast.ColumnRef) and self.is_element(node.ctequery, self.path_of(target.val))
        }
        aliases = {
            (node.alias.aliasname, column)
            for node in nodes
            if isinstance(node, ast.RangeVar) and node.alias and not node.alias.colnames
            for name, column in columns
            if name == node.relname
        }
        return columns | aliases

    def is_element(self, select: ast.SelectStmt, path: tuple[str, ...]) -> bool:
        """Whether a column read there is an element: by its full name, or by its own where one source is read."""
        sources = select.fromClause or ()
        if len(path) == 1 and len(sources) == 1 and isinstance(sources[0], ast.RangeVar):
            alias = sources[0].alias
            path = (alias.aliasname if alias else sources[0].relname, *path)
        return path in self.elements

    def is_owner(self, value: ast.Node) -> bool:
        if isinstance(value, ast.ColumnRef):
            return self.path_of(value) in self.elements
        return self.is_parameter(value, "owner_id")

    def is_parameter(self, value: ast.Node, name: str) -> bool:
        while isinstance(value, ast.TypeCast):  # an array may come as its text
            value = value.arg
        return isinstance(value, ast.ParamRef) and self.parameters[value.number - 1] == name

    def check_insert(self, insert: ast.InsertStmt) -> None:
        self.examined.add(id(insert.relation))
        column = self.owner_columns.get(insert.relation.relname)
        if column is None:
            return
        self.refuse_move(insert.relation.relname, getattr(insert.onConflictClause, "targetList", None))
        names = [target.name for target in insert.cols or ()]
        place = names.index(column) if column in names else None
        if place is None or not all(self.brings_owner(source, place) for source in self.rows_of(insert.selectStmt)):
            self.faults.append(f"{insert.relation.relname} gets a row whose {column} is not :owner_id")

    def rows_of(self, select: ast.SelectStmt | None) -> Iterator[tuple[ast.SelectStmt, tuple[ast.Node, ...]]]:
        if select is not None and select.larg:
            yield from (*self.rows_of(select.larg), *self.rows_of(select.rarg))
        elif select is not None and select.valuesLists:
            yield from ((select, row) for row in select.valuesLists)
        else:
            targets = select.targetList if select is not None else ()
            yield select, tuple(target.val for target in targets or ())

    def brings_owner(self, row: tuple[ast.SelectStmt, tuple[ast.Node, ...]], place: int) -> bool:
        """The parameter itself, or the owner column of a table that the SELECT holds to it."""
        select, values = row
        if place >= len(values):
            return False
        if self.is_owner(values[place]):
            return True
        held = self.check_level(select.fromClause or (), select.whereClause) if select else set()
        return isinstance(values[place], ast.ColumnRef) and self.path_of(values[place]) in held

    def refuse_move(self, table: str, targets: tuple[ast.ResTarget, ...] | None) -> None:
        if self.owner_columns.get(table) in {target.name for target in targets or ()}:
            self.faults.append(f"a row of {table} gets another owner")


def find_unowned(sql: str, parameters: tuple[str, ...], owner_columns: dict[str, str]) -> list[str]:
    """The references of owned tables that are not held to the owner."""
    return OwnerRule(sql, parameters, owner_columns).faults


def find_forbidden(  # noqa: C901, PLR0912  # one case for each rule
    sql: str, volatile: Container[str], mutable: Container[str]
) -> Iterator[str]:
    """What is not to be written: by STYLE, for `json` payloads, behind a pooler, and on Citus."""
    for node in walk(tuple(raw.stmt for raw in parse_sql(sql))):
        match node:
            case ast.A_Star():
                yield "*"
            case ast.SelectStmt(limitOffset=offset) if offset is not None:
                yield "OFFSET"
            case ast.UpdateStmt():
                yield from (f"{name}() in UPDATE" for name in functions_in(node) if name in volatile)
            case ast.ReturningClause():
                yield from (f"{name}() in RETURNING" for name in functions_in(node) if name in mutable)
                if any(isinstance(below, ast.TypeCast | ast.SQLValueFunction | ast.SubLink) for below in walk(node)):
                    yield "a cast, a clock or a subquery in RETURNING"
            case ast.OnConflictClause(action=OnConflictAction.ONCONFLICT_UPDATE):
                yield from (f"{name}() in DO UPDATE" for name in functions_in(node) if name in mutable)
            case ast.A_Expr() if name_of(node.name) in {"->", "->>", "#>", "#>>"}:
                yield f"{name_of(node.name)} fails on a stored \\u0000"
            case ast.TypeName() if node.names and name_of(node.names) == "jsonb":
                yield "jsonb fails on a stored \\u0000"
            case ast.FuncCall() if name_of(node.funcname) == "set_config":
                yield "set_config() does not reach the workers of Citus: SET LOCAL does"
            case ast.MergeStmt() | ast.IntoClause():
                yield type(node).__name__
    for raw in parse_sql(sql):
        match raw.stmt:
            case ast.SelectStmt() | ast.InsertStmt() | ast.UpdateStmt() | ast.DeleteStmt() | ast.VariableSetStmt():
                pass
            case statement:
                yield f"{type(statement).__name__} is no statement of a request"
    yield from find_session_state(sql)


SESSION_FUNCTIONS = re.compile(
    r"pg_(try_)?advisory_(un)?lock\w*|pg_notify|pg_listening_channels|currval|lastval|setseed"
)


def find_session_state(sql: str) -> Iterator[str]:
    """What a statement leaves in its session, or looks for there: behind a pooler the next one has another."""
    for node in walk(tuple(raw.stmt for raw in parse_sql(sql))):
        match node:
            case ast.FuncCall(args=(_, _, is_local)) if name_of(node.funcname) == "set_config":
                if not (isinstance(is_local, ast.A_Const) and getattr(is_local.val, "boolval", False)):
                    yield "set_config() beyond the transaction"
            case ast.FuncCall() if SESSION_FUNCTIONS.fullmatch(name_of(node.funcname)):
                yield f"{name_of(node.funcname)}() needs a session"
            case ast.VariableSetStmt(is_local=False):
                yield "SET without LOCAL"
            case ast.RangeVar() if node.relpersistence == "t" or node.schemaname == "pg_temp":
                yield "a temporary table"
            case (
                ast.ListenStmt() | ast.UnlistenStmt() | ast.NotifyStmt() | ast.PrepareStmt() | ast.ExecuteStmt()
                | ast.DeallocateStmt() | ast.DiscardStmt() | ast.DeclareCursorStmt() | ast.FetchStmt() | ast.LoadStmt()
            ):  # fmt: skip
                yield f"{type(node).__name__} needs a session"


def functions_in(node: ast.Node) -> set[str]:
    return {name_of(below.funcname) for below in walk(node) if isinstance(below, ast.FuncCall)}


SQL_VERB = re.compile(
    r"\s*(SELECT|INSERT\s+INTO|UPDATE|DELETE\s+FROM|WITH|MERGE|TRUNCATE|CREATE|ALTER|DROP|SET|SHOW|LISTEN|NOTIFY|LOCK"
    r"|COPY|CALL|EXPLAIN|VACUUM|ANALYZE|REINDEX|GRANT|REVOKE|BEGIN|COMMIT)(\s+[\w\"*({%]|\s*$)"
    r"|(?i:\s*(select\s.*\sfrom|insert\s+into|update\s+\w+\s+set|delete\s+from|with\s+\w+\s+as)\s)"
)


def find_built_sql(source: str) -> Iterator[int]:
    """The lines of Python on which SQL is put together from strings."""
    for node in python.walk(python.parse(source)):
        match node:
            case python.JoinedStr(values=parts):
                pieces = parts
            case python.BinOp(op=python.Mod() | python.Add(), left=left, right=right):
                pieces = [left, right]
            case python.Call(func=python.Attribute(value=value, attr="format" | "format_map" | "replace" | "join")):
                pieces = [value, *node.args]
            case _:
                continue
        constants = [below for piece in pieces for below in python.walk(piece) if isinstance(below, python.Constant)]
        if any(isinstance(constant.value, str) and SQL_VERB.match(constant.value) for constant in constants):
            yield node.lineno


SESSION_METHODS = {
    "add_listener",
    "add_log_listener",
    "prepare",
    "reload_schema_state",
    "remove_listener",
    "set_builtin_type_codec",
}
"""Of an asyncpg connection: what they make or ask for lives in one session of the server."""
SESSION_PIECE = re.compile(
    r"\s*(SET\s+(?!LOCAL\b)\w|RESET\s|LISTEN\s|UNLISTEN\s|NOTIFY\s|PREPARE\s|DEALLOCATE\s|DISCARD\s|DECLARE\s"
    r"|CREATE\s+((LOCAL|GLOBAL)\s+)?TEMP)|.*\b(pg_(try_)?advisory_(un)?lock\w*|set_config)\s*\(",
    re.DOTALL,
)
"""A string that is a statement only when something is put into it."""


def find_session_use(source: str) -> Iterator[str]:
    """What Python makes of a session of the server that a pooler would give to somebody else in between."""
    tree = python.parse(source)
    told = {id(node.value) for node in python.walk(tree) if isinstance(node, python.Expr)}  # docstrings
    for node in python.walk(tree):
        match node:
            case python.Call(func=python.Attribute(attr=name)) if name in SESSION_METHODS:
                yield f"{node.lineno}: {name}()"
            case python.Constant(value=str(text)) if id(node) not in told:
                try:
                    yield from (f"{node.lineno}: {fault}" for fault in find_session_state(text))
                except (ParseError, UnicodeEncodeError):
                    if SESSION_PIECE.match(text):
                        yield f"{node.lineno}: {text.strip()}"


# The statements of sql/


@pytest.fixture(scope="module")
def database(template: EmbeddedServer) -> Iterator[psycopg.Connection[tuple[Any, ...]]]:
    """One migrated database, in which nothing is written."""
    run_sql(template.url(), "CREATE DATABASE {} TEMPLATE {} STRATEGY FILE_COPY", "test_contract", TEMPLATE)
    with psycopg.connect(**template.url("test_contract").for_libpq(), autocommit=True) as connection:
        yield connection
    run_sql(template.url(), "DROP DATABASE {}", "test_contract")


@pytest.fixture(scope="module")
def owner_columns(database: psycopg.Connection[tuple[Any, ...]]) -> dict[str, str]:
    """The column that names the owner, for each table that has one."""
    tables = database.execute(
        "SELECT table_name FROM information_schema.columns WHERE column_name = 'owner_id' AND table_schema = 'public'"
    )
    return {"owners": "id"} | {table: "owner_id" for (table,) in tables}


def functions(database: psycopg.Connection[tuple[Any, ...]], volatility: str) -> set[str]:
    """PostgreSQL's functions of which some form is of this volatility."""
    rows = database.execute("SELECT DISTINCT proname FROM pg_proc WHERE provolatile = ANY (%s)", [list(volatility)])
    return {name for (name,) in rows}


def test_every_statement_is_in_use() -> None:
    assert set(TEXTS) == {name for name, _ in QUERIES}


@pytest.mark.parametrize(("name", "row_type"), QUERIES, ids=lambda value: getattr(value, "__name__", value))
def test_a_statement_fills_its_struct(database: psycopg.Connection[tuple[Any, ...]], name: str, row_type: type) -> None:
    result = database.pgconn.prepare(b"", TEXTS[name].sql.encode())
    assert result.status == ExecStatus.COMMAND_OK, f"{TEXTS[name].place}: {result.error_message.decode()}"
    described = database.pgconn.describe_prepared(b"")
    columns = [(described.fname(place) or b"").decode() for place in range(described.nfields)]
    assert columns == list(get_type_hints(row_type))
    for place, (column, hint) in enumerate(get_type_hints(row_type).items()):
        fault = find_misfit(database, hint, described.ftype(place), described.ftable(place), described.ftablecol(place))
        assert fault is None, f"{TEXTS[name].place}: {column} {fault}"


def find_misfit(
    database: psycopg.Connection[tuple[Any, ...]], hint: Any, type_oid: int, table_oid: int, column: int
) -> str | None:
    """Why a column does not fit into a field; a nullable column of a table needs a field that takes None."""
    wanted = get_args(hint) if NoneType in get_args(hint) else (hint,)
    if object in wanted:
        return None
    (type_name,) = database.execute("SELECT typname FROM pg_type WHERE oid = %s", [type_oid]).fetchone() or ("",)
    kinds = {str if get_origin(kind) is Literal else kind for kind in wanted}
    if PYTHON_TYPES.get(type_name) not in kinds:
        return f"is of type {type_name}"
    attribute = database.execute(
        "SELECT attnotnull FROM pg_attribute WHERE attrelid = %s AND attnum = %s"
        " AND attrelid::regclass::text <> '_yoyo_migration'",  # yoyo's own table has NULL nowhere, and says nothing
        [table_oid, column],
    ).fetchone()
    return "can be NULL" if attribute == (False,) and NoneType not in kinds else None


@pytest.mark.parametrize("name", sorted(TEXTS.keys() - OVER_ALL_OWNERS))
def test_a_statement_reaches_rows_of_one_owner_only(owner_columns: dict[str, str], name: str) -> None:
    assert find_unowned(TEXTS[name].sql, TEXTS[name].parameters, owner_columns) == []


@pytest.mark.parametrize("name", sorted(OVER_ALL_OWNERS))
def test_an_exception_is_one(owner_columns: dict[str, str], name: str) -> None:
    assert find_unowned(TEXTS[name].sql, TEXTS[name].parameters, owner_columns) != []


def test_no_statement_has_what_is_forbidden(database: psycopg.Connection[tuple[Any, ...]]) -> None:
    volatile, mutable = functions(database, "v"), functions(database, "vs")
    assert {
        text.place: faults for text in TEXTS.values() if (faults := [*find_forbidden(text.sql, volatile, mutable)])
    } == {}


def test_every_key_of_an_owned_table_starts_with_the_owner(
    database: psycopg.Connection[tuple[Any, ...]], owner_columns: dict[str, str]
) -> None:
    keys = database.execute("""
        SELECT indrelid::regclass::text, indexrelid::regclass::text, indkey[0] FROM pg_index WHERE indisunique
        UNION ALL SELECT conrelid::regclass::text, conname, conkey[1] FROM pg_constraint WHERE contype = 'f'
    """).fetchall()
    columns = database.execute("SELECT attrelid::regclass::text, attnum, attname FROM pg_attribute").fetchall()
    names = {(table, number): column for table, number, column in columns}
    owned = {key: names[table, first] for table, key, first in keys if table in owner_columns and table != "owners"}
    assert len(owned) >= 5
    assert set(owned.values()) == {"owner_id"}, owned


def test_requests_leave_nothing_in_a_session() -> None:
    found = {path.name: [*find_session_use(path.read_text())] for path in APP_DIR.rglob("*.py")}
    migrations = found.pop("migrations.py")  # which go past the pooler, and hold a lock of a session
    assert any("advisory_lock" in use for use in migrations)
    assert {name: uses for name, uses in found.items() if uses} == {}


def test_no_sql_is_built_from_strings() -> None:
    built = {path.name: [*find_built_sql(path.read_text())] for path in APP_DIR.rglob("*.py")}
    assert {name: lines for name, lines in built.items() if lines} == {}


# The rules themselves: what they must catch

OWNED = {"owners": "id", "conversations": "owner_id", "messages": "owner_id"}
PARAMETERS = ("owner_id", "id", "owner_ids")
HELD = [
    "SELECT 1 FROM messages WHERE owner_id = $1",
    "SELECT 1 FROM messages WHERE $1::uuid = messages.owner_id AND (seq = 1 AND role = 'user')",
    "SELECT 1 FROM public.messages AS m JOIN conversations AS c ON c.owner_id = $1 AND c.id = $2 WHERE m.owner_id = $1",
    "SELECT 1 FROM messages AS m LEFT JOIN conversations AS c ON c.owner_id = $1 WHERE m.owner_id = $1",
    "SELECT 1 FROM owners WHERE id = $1",
    "SELECT 1 FROM service_keys WHERE prefix = $2",
    "WITH a AS (SELECT seq FROM messages WHERE owner_id = $1) SELECT seq FROM a",
    "UPDATE messages AS m SET role = 'user' FROM (SELECT 1) AS t WHERE m.owner_id = $1",
    "DELETE FROM messages WHERE owner_id = $1 AND EXISTS (SELECT FROM conversations WHERE owner_id = $1)",
    "INSERT INTO messages (seq, owner_id) VALUES (1, $1), (2, $1)",
    "INSERT INTO messages (seq, owner_id) SELECT 1, $1",
    "INSERT INTO messages (owner_id, seq) SELECT c.owner_id, 1 FROM conversations AS c WHERE c.owner_id = $1",
    "SELECT 1 FROM messages AS m WHERE m.owner_id = $1 FOR UPDATE OF m",
    "SELECT 1 FROM unnest($3::uuid[]) AS f (owner_id), LATERAL (SELECT FROM messages WHERE owner_id = f.owner_id) AS t",
    "SELECT 1 FROM unnest($3::text::uuid[]) AS f (owner_id), messages AS m WHERE m.owner_id = f.owner_id",
    (
        "WITH i AS (SELECT f.owner_id AS o FROM unnest($3::uuid[]) AS f (owner_id)), j AS (SELECT DISTINCT o FROM i)"
        " UPDATE messages AS m SET role = 'user' FROM j AS k WHERE m.owner_id = k.o"
    ),
    (
        "WITH i AS (SELECT f.owner_id FROM unnest($3::uuid[]) AS f (owner_id))"
        " INSERT INTO messages (owner_id, seq) SELECT i.owner_id, 1 FROM i"
    ),
]
UNHELD = {
    "no predicate": "SELECT 1 FROM messages WHERE conversation_id = $2 AND $1 = $1",
    "another parameter": "SELECT 1 FROM messages WHERE owner_id = $2",
    "OR": "SELECT 1 FROM messages WHERE owner_id = $1 OR conversation_id = $2",
    "OR below AND": "SELECT 1 FROM messages WHERE seq = 1 AND (owner_id = $1 OR seq = 2)",
    "NOT": "SELECT 1 FROM messages WHERE NOT owner_id = $1",
    "no equality": "SELECT 1 FROM messages WHERE owner_id >= $1",
    "any": "SELECT 1 FROM messages WHERE owner_id = any($1)",
    "a constant": "SELECT 1 FROM messages WHERE owner_id = '00000000-0000-0000-0000-000000000000'",
    "a column": "SELECT 1 FROM messages WHERE owner_id = conversation_id",
    "one of two": "SELECT 1 FROM messages AS a JOIN messages AS b ON a.seq = b.seq WHERE a.owner_id = $1",
    "another alias": "SELECT 1 FROM messages AS m, service_keys AS k WHERE k.owner_id = $1 AND m.seq = 1",
    "unqualified beside another": "SELECT 1 FROM messages AS m, service_keys AS k WHERE owner_id = $1",
    "ON of an outer join": "SELECT 1 FROM messages AS m LEFT JOIN service_keys AS k ON m.owner_id = $1",
    "a full join": "SELECT 1 FROM messages AS m FULL JOIN service_keys AS k ON m.owner_id = $1",
    "the level above": "SELECT (SELECT count(*) FROM messages) FROM conversations WHERE owner_id = $1",
    "correlated": "SELECT 1 FROM conversations AS c WHERE c.owner_id = $1"
    " AND EXISTS (SELECT FROM messages AS m WHERE m.owner_id = c.owner_id)",
    "the level below": "SELECT 1 FROM messages AS m WHERE EXISTS (SELECT WHERE m.owner_id = $1)",
    "one arm of a union": "SELECT 1 FROM messages WHERE owner_id = $1 UNION SELECT 1 FROM messages",
    "a CTE": "WITH a AS (DELETE FROM messages RETURNING seq) SELECT 1 FROM conversations WHERE owner_id = $1",
    "a CTE that hides": "WITH messages AS (SELECT $1 AS owner_id) SELECT 1 FROM messages WHERE owner_id = $1",
    "a sample": "SELECT 1 FROM messages TABLESAMPLE system (1) WHERE owner_id = $1",
    "an element of another array": "SELECT 1 FROM unnest($2, $3::uuid[]) AS f (id, owner_id),"
    " LATERAL (SELECT FROM messages AS m WHERE m.owner_id = f.id) AS t",
    "a CTE's column that is no element": "WITH i AS (SELECT f.id AS owner_id FROM unnest($2, $3::uuid[]) AS f"
    " (id, owner_id)) SELECT 1 FROM messages AS m, i WHERE m.owner_id = i.owner_id",
    "a CTE's column that is computed": "WITH i AS (SELECT max(f.owner_id) AS owner_id FROM unnest($3::uuid[]) AS f"
    " (owner_id)) SELECT 1 FROM messages AS m, i WHERE m.owner_id = i.owner_id",
    "a CTE of two arms": "WITH i AS (SELECT f.owner_id FROM unnest($3::uuid[]) AS f (owner_id) UNION SELECT $2)"
    " SELECT 1 FROM messages AS m, i WHERE m.owner_id = i.owner_id",
    "a subquery that looks like elements": "SELECT 1 FROM (SELECT $2) AS f (owner_id), messages AS m"
    " WHERE m.owner_id = f.owner_id",
    "HAVING": "SELECT owner_id FROM messages GROUP BY owner_id HAVING owner_id = $1",
    "the owner of owners": "SELECT 1 FROM owners WHERE tenant_id = $1",
    "update": "UPDATE messages SET seq = 1 WHERE conversation_id = $2",
    "update from": "UPDATE service_keys AS k SET prefix = 'a' FROM messages AS m WHERE m.conversation_id = $2",
    "update of the owner": "UPDATE messages SET owner_id = $2 WHERE owner_id = $1",
    "upsert of the owner": "INSERT INTO owners (id) VALUES ($1) ON CONFLICT (id) DO UPDATE SET id = $2",
    "other names of columns": "SELECT 1 FROM messages AS m (id, owner_id) WHERE m.owner_id = $1",
    "delete using": "DELETE FROM messages AS m USING conversations AS c WHERE c.owner_id = $1 AND m.seq = 1",
    "insert without columns": "INSERT INTO messages VALUES ($1)",
    "insert of no owner": "INSERT INTO messages (seq) VALUES (1)",
    "insert of another": "INSERT INTO messages (owner_id, seq) VALUES ($1, 1), ($2, 2)",
    "insert from an unheld table": "INSERT INTO messages (owner_id) SELECT c.owner_id FROM conversations AS c",
    "insert from one arm": "INSERT INTO messages (owner_id) SELECT $1 UNION ALL SELECT $2",
    "insert by default": "INSERT INTO messages DEFAULT VALUES",
    "merge": "MERGE INTO messages AS m USING service_keys AS k ON m.owner_id = $1 WHEN MATCHED THEN DELETE",
}
FORBIDDEN = [
    "SELECT * FROM messages",
    "SELECT m.* FROM messages AS m",
    "DELETE FROM messages RETURNING *",
    "SELECT 1 OFFSET 2",
    "SELECT (SELECT 1 LIMIT 1 OFFSET 1)",
    "UPDATE messages SET seq = random()",
    "UPDATE messages SET seq = 1 WHERE created_at < clock_timestamp()",
    "INSERT INTO messages (seq) VALUES (1) RETURNING now()",
    "INSERT INTO messages (seq) VALUES (1) RETURNING current_timestamp",
    "INSERT INTO messages (seq) VALUES (1) RETURNING created_at::text",
    "WITH a AS (DELETE FROM messages RETURNING gen_random_uuid()) SELECT 1",
    "INSERT INTO owners (id) VALUES ($1) ON CONFLICT (id) DO UPDATE SET created_at = now()",
    "SELECT metadata -> 'a'",
    "SELECT 1 WHERE metadata ->> 'a' = 'b'",
    "SELECT metadata #>> '{a}'",
    "SELECT metadata::jsonb",
    "SELECT cast(metadata AS jsonb)",
    "SELECT pg_catalog.set_config('a', 'b', true)",
    "TRUNCATE messages",
    "MERGE INTO messages AS m USING owners AS o ON m.owner_id = o.id WHEN MATCHED THEN DELETE",
    "SELECT 1 INTO a",
    "LOCK TABLE messages",
    "BEGIN",
]
SESSION_STATE = [
    "SELECT set_config('a', 'b', false)",
    "SELECT pg_catalog.set_config('a', 'b', $1)",
    "WITH a AS (SELECT set_config('a', 'b', false)) SELECT 1",
    "SET lock_timeout = 1",
    "SET SESSION lock_timeout = 1",
    "SET ROLE a",
    "SET SESSION AUTHORIZATION a",
    "SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY",
    "RESET lock_timeout",
    "DISCARD ALL",
    "LOAD 'a'",
    "SELECT pg_advisory_lock(1)",
    "SELECT pg_try_advisory_lock_shared(1)",
    "SELECT pg_advisory_unlock_all()",
    "LISTEN a",
    "UNLISTEN a",
    "NOTIFY a, 'b'",
    "SELECT pg_notify('a', 'b')",
    "PREPARE a AS SELECT 1",
    "EXECUTE a",
    "DEALLOCATE a",
    "CREATE TEMP TABLE a (b int)",
    "CREATE TEMPORARY TABLE a ON COMMIT DROP AS SELECT 1",
    "SELECT 1 INTO TEMP a",
    "SELECT 1 FROM pg_temp.a",
    "DECLARE a CURSOR WITH HOLD FOR SELECT 1",
    "FETCH a",
    "SELECT currval('a')",
]
ALLOWED = [
    "SELECT count(*) FROM messages LIMIT 1",
    "UPDATE messages SET updated_at = now() RETURNING updated_at, seq + 1 AS next_seq",
    "INSERT INTO owners (id, created_at) VALUES (gen_random_uuid(), now()) RETURNING created_at",
    "INSERT INTO owners (id) VALUES ($1) ON CONFLICT (id) DO UPDATE SET created_at = excluded.created_at",
    "SELECT pg_advisory_xact_lock(1)",
    "SET LOCAL lock_timeout = 1",
    "SELECT metadata::json",
]


@pytest.mark.parametrize("sql", HELD)
def test_the_owner_rule_passes_what_is_held(sql: str) -> None:
    assert find_unowned(sql, PARAMETERS, OWNED) == []


@pytest.mark.parametrize("sql", UNHELD.values(), ids=UNHELD)
def test_the_owner_rule_catches_what_is_not(sql: str) -> None:
    assert find_unowned(sql, PARAMETERS, OWNED) != []


@pytest.mark.parametrize("sql", FORBIDDEN + SESSION_STATE)
def test_what_is_forbidden_is_caught(database: psycopg.Connection[tuple[Any, ...]], sql: str) -> None:
    assert [*find_forbidden(sql, functions(database, "v"), functions(database, "vs"))] != []


@pytest.mark.parametrize("sql", ALLOWED)
def test_what_is_allowed_is_not(database: psycopg.Connection[tuple[Any, ...]], sql: str) -> None:
    assert [*find_forbidden(sql, functions(database, "v"), functions(database, "vs"))] == []


@pytest.mark.parametrize("sql", SESSION_STATE)
def test_session_state_is_caught_in_python_too(sql: str) -> None:
    assert [*find_session_use(f"async def f(connection):\n    await connection.execute({sql!r})")] != []


@pytest.mark.parametrize(
    ("source", "is_caught"),
    [
        ("connection.add_listener('a', print)", True),
        ("connection.set_builtin_type_codec('hstore', codec_name='pg_contrib.hstore')", True),
        ("STATEMENT = connection.prepare('SELECT 1')", True),
        ("self.statement = await self.connection.prepare(query)", True),
        ("connection.execute('set lock_timeout to 1')", True),
        ("connection.execute(f'SET lock_timeout = {limit}')", True),
        ("connection.execute('SET ROLE %s' % role)", True),
        ("connection.execute('SELECT pg_advisory_lock(%s)', key)", True),
        ("connection.execute('SELECT 1; LISTEN a')", True),
        ("connection.execute(f'LISTEN {channel}')", True),
        ("connection.execute('SET LOCAL lock_timeout = 1')", False),
        ("connection.execute(\"SELECT set_config('lock_timeout', '1s', true)\")", False),
        ("connection.execute('SELECT pg_advisory_xact_lock($1)', key)", False),
        ("connection.set_type_codec('json', schema='pg_catalog', encoder=bytes, decoder=Raw)", False),
        ("raise NotFound('reset to what it was')", False),
        ("def f():\n    'SET a = 1'", False),
    ],
)
def test_session_use_is_caught(source: str, is_caught: bool) -> None:
    assert bool([*find_session_use(source)]) is is_caught


@pytest.mark.parametrize(
    ("source", "is_built"),
    [
        ('f"SELECT {column} FROM messages"', True),
        ('f"{prefix}" f"SELECT 1"', True),
        ('"SELECT %s" % column', True),
        ('"select a from " + table', True),
        ('"""\n    UPDATE {}\n    SET a = 1\n""".format(table)', True),
        ('" ".join(["SELECT a", *columns])', True),
        ('f"update {thing} failed"', False),
        ('f"{name} is selected from {many}"', False),
        ('connection.execute("SELECT a FROM b WHERE c = %s", (d,))', False),
    ],
)
def test_sql_built_from_strings_is_caught(source: str, is_built: bool) -> None:
    assert bool([*find_built_sql(source)]) is is_built


@pytest.mark.parametrize(
    ("hint", "column", "fault"),
    [
        (int, "last_seq", None),
        (str, "last_seq", "is of type int8"),
        (str, "key", "can be NULL"),
        (str | None, "key", None),
        (Literal["a", "b"], "key", "can be NULL"),
        (list[str], "tags", None),
        (Raw, "metadata", None),
        (object, "key", None),
    ],
)
def test_a_column_that_does_not_fit_is_caught(
    database: psycopg.Connection[tuple[Any, ...]], hint: Any, column: str, fault: str | None
) -> None:
    found = database.execute(
        "SELECT atttypid, attrelid, attnum FROM pg_attribute"
        " WHERE attrelid = 'conversations'::regclass AND attname = %s",
        [column],
    ).fetchone()
    assert find_misfit(database, hint, *(found or ())) == fault
