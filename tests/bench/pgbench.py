"""pgbench with the service's own statements: what the wire and the database allow."""

import re
import subprocess
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

import psycopg

from app.database_url import DatabaseUrl
from app.pages import FRONT, PAGE_LIMIT_BYTES
from app.queries import TEXTS
from tests.bench.data import CONTENT, METADATA, Kind
from tests.bench.outcomes import Outcome

VARIABLES = {"content": CONTENT.decode(), "metadata": METADATA.decode(), "nothing": "-"}

APPEND = {"role": "'user'", "status": "'completed'", "content": ":content", "metadata": ":metadata"} | {
    "body_bytes": f"{len(CONTENT) + len(METADATA)}",
    "input_tokens": "0",
    "output_tokens": "0",
}
LAST_50 = {"after_seq": "0", "before_seq": f"{2**40}", "only_finished": "false"} | {
    "page_size": "50",
    "page_bytes": f"{PAGE_LIMIT_BYTES}",
}
LIST_20 = {
    "before_active_at": f"'{FRONT.active_at}'",
    "before_updated_at": f"'{FRONT.updated_at}'",
    "before_id": f"'{FRONT.id}'",
    "examined_size": "21",
    "page_size": "21",
}
BY_KEY = {"key": "'default'"}
"""What the service gives for each parameter of its statement beside the place; NULL for what is not named."""


def pgbench_script(url: DatabaseUrl, query: str, values: Mapping[str, str], kind: Kind) -> str:
    """A script that runs one of the service's statements for a random conversation of these.

    Each parameter is a parameter here too, of the type it has there, so that the plan is the same: of NULLs as well,
    which pgbench has no way to send.
    """
    text = TEXTS[query]
    with psycopg.connect(**url.for_libpq()) as connection:
        connection.execute(f"PREPARE asked AS {text.sql}")
        types = connection.execute("SELECT parameter_types::text[] FROM pg_prepared_statements").fetchone() or ([],)
    places = {
        "owner_id": f"('{{{','.join(kind.owner_ids)}}}'::uuid[])[:number % {kind.user_count} + 1]",
        "conversation_id": f"('{kind.prefix}' || lpad(:number, 12, '0'))::uuid",
    }
    if unknown := values.keys() - set(text.parameters):
        raise ValueError(f"{text.place}: {query} has no parameter {', '.join(sorted(unknown))}")
    settings, expressions = [], []
    for name, type_name in zip(text.parameters, types[0], strict=True):
        value = values.get(name, "nullif(:nothing, '-'::text)")
        if re.fullmatch(r"\d+", value):
            settings.append(f"\\set {name} {value}")
            value = f":{name}"
        expressions.append(places.get(name, f"({value}::{type_name})"))
    sql = re.sub(r"\$(\d+)", lambda match: expressions[int(match[1]) - 1], text.sql)
    return "\n".join([f"\\set number random(0, {kind.count - 1})", *settings, f"{sql};\n"])


def run_pgbench(binary: Path, url: DatabaseUrl, script: str, clients: int, seconds: int, threads: int = 1) -> Outcome:
    """What pgbench reaches; its connecting is not counted."""
    ((host, port),) = url.hosts
    with TemporaryDirectory() as directory:
        path = Path(directory, "script.sql")
        path.write_text(script)
        command = [binary, "-n", "-M", "prepared", "-f", path, "-c", str(clients), "-j", str(threads), "-T", str(seconds)]
        command += [word for name, value in VARIABLES.items() for word in ("-D", f"{name}={value}")]
        command += ["-h", str(host), "-p", str(port), "-U", str(url.user), str(url.database)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    found = re.search(r"actually processed: (\d+).*?^tps = ([\d.]+)", done.stdout, re.DOTALL | re.MULTILINE)
    if found is None or done.returncode:
        raise RuntimeError(f"pgbench failed: {done.stdout}{done.stderr[-2000:]}")
    failed = re.search(r"failed transactions: (\d+)", done.stdout)
    return Outcome(count=int(found[1]), per_second=float(found[2]), failed_count=int(failed[1]) if failed else 0)
