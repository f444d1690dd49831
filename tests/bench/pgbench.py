"""pgbench with the service's own statements: what the wire and the database allow."""

import re
import subprocess
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from types import MappingProxyType

import psycopg
from msgspec import Struct

from app.database_url import DatabaseUrl
from app.identifiers import LAST_SEQ_LIMIT
from app.pages import FRONT, PAGE_LIMIT_BYTES
from app.queries import TEXTS
from tests.bench.data import CONTENT, METADATA, Kind
from tests.bench.outcomes import Outcome

_NOTHING = "-"

APPEND = {
    "role": "user",
    "status": "completed",
    "content": CONTENT.decode(),
    "metadata": METADATA.decode(),
    "body_bytes": f"{len(CONTENT) + len(METADATA)}",
    "input_tokens": "0",
    "output_tokens": "0",
}
LAST_50 = {
    "after_seq": "0",
    "before_seq": f"{LAST_SEQ_LIMIT}",
    "only_finished": "false",
    "page_size": "50",
    "page_bytes": f"{PAGE_LIMIT_BYTES}",
}
LIST_20 = {
    "before_active_at": f"{FRONT.active_at}",
    "before_updated_at": f"{FRONT.updated_at}",
    "before_id": f"{FRONT.id}",
    "examined_size": "21",
    "page_size": "21",
}
BY_KEY = {"key": "default"}
"""What the service gives to its statements beside the place; NULL for what is not named."""


class Script(Struct, frozen=True):
    """A script, and the texts that its variables stand for."""

    text: str
    variables: Mapping[str, str]


def pgbench_script(
    url: DatabaseUrl,
    query: str,
    values: Mapping[str, str],
    kind: Kind,
    expressions: Mapping[str, str] = MappingProxyType({}),
    setting: str = "",
) -> Script:
    """One of the service's statements for a random conversation of these.

    Each parameter is a parameter here too, of the type it has there, so that the plan is the same: of NULLs as well,
    which pgbench has no way to send. An expression stands for its parameter as it is; it may use what a line of
    pgbench's own sets before.
    """
    text = TEXTS[query]
    if unknown := (values.keys() | expressions.keys()) - set(text.parameters):
        raise ValueError(f"{text.place}: {query} has no parameter {', '.join(sorted(unknown))}")
    places = {
        "owner_id": f"('{{{','.join(kind.owner_ids)}}}'::uuid[])[:number % {kind.user_count} + 1]",
        "conversation_id": f"('{kind.prefix}' || lpad(:number, 12, '0'))::uuid",
    }
    by_name = {
        name: f"(:{name}::{type_name})" if name in values else f"(nullif(:nothing, '{_NOTHING}'::text)::{type_name})"
        for name, type_name in zip(text.parameters, _types_of(url, text.sql), strict=True)
    }
    by_name |= {name: place for name, place in places.items() if name in by_name} | expressions
    sql = re.sub(r"\$(\d+)", lambda match: by_name[text.parameters[int(match[1]) - 1]], text.sql)
    lines = [f"\\set number random(0, {kind.count - 1})", setting, f"{sql};\n"]
    return Script("\n".join(lines), {**values, "nothing": _NOTHING})


def _types_of(url: DatabaseUrl, sql: str) -> list[str]:
    with psycopg.connect(**url.for_libpq()) as connection:
        connection.execute(f"PREPARE asked AS {sql}")
        row = connection.execute("SELECT parameter_types::text[] FROM pg_prepared_statements").fetchone()
    assert row is not None
    types: list[str] = row[0]
    return types


def run_pgbench(binary: Path, url: DatabaseUrl, script: Script, clients: int, length: str) -> Outcome:
    """What pgbench reaches, not counting how it connects; `length` is `-T2` for two seconds, `-t9` for nine times."""
    ((host, port),) = url.hosts
    with TemporaryDirectory() as directory:
        path = Path(directory, "script.sql")
        path.write_text(script.text)
        command = [binary, "-n", "-M", "prepared", "-f", path, "-c", str(clients), "-j", "1", length]
        command += [word for name, value in script.variables.items() for word in ("-D", f"{name}={value}")]
        command += ["-h", str(host), "-p", str(port), "-U", str(url.user), str(url.database)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    found = re.search(r"actually processed: (\d+).*?^tps = ([\d.]+)", done.stdout, re.DOTALL | re.MULTILINE)
    if found is None or done.returncode:
        raise RuntimeError(f"pgbench failed: {done.stdout[-1000:]}{done.stderr[-2000:]}")
    failed = re.search(r"failed transactions: (\d+)", done.stdout)
    return Outcome(count=int(found[1]), per_second=float(found[2]), failed_count=int(failed[1]) if failed else 0)
