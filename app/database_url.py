"""The database URL, parsed once, with one meaning for asyncpg and for libpq.

asyncpg sends a parameter that it does not know to the server, and libpq refuses it: here each parameter
means the same to both, or is refused by its name.
"""

import re
from ssl import CERT_NONE, VERIFY_X509_STRICT, SSLContext, create_default_context, get_default_verify_paths
from typing import Final, Literal, NotRequired, TypedDict
from urllib.parse import unquote

from asyncpg.connect_utils import SessionAttribute
from msgspec import Struct

_SCHEME: Final = re.compile(r"postgres(?:ql)?(?:\+(?:asyncpg|psycopg2?))?://", re.IGNORECASE)
_TARGET: Final = re.compile(r"(?P<hosts>[^/?]*)(?:/(?P<database>[^?]*))?(?:\?(?P<query>.*))?")
_HOST: Final = re.compile(r"(?P<host>\[[^\[\]]*\]|[^:\[\]]*)(?::(?P<port>[0-9]*))?")
_HOST_NAME: Final = re.compile(r"/[^,]+|[\w.-]+|[\da-fA-F:.]+(?:%[\w.-]+)?")
_LOOPBACK: Final = re.compile(r"localhost|127(\.([0-9]{1,2}|1[0-9]{2}|2[0-4][0-9]|25[0-5])){3}|::1|/.*", re.IGNORECASE)
_OPTION: Final = re.compile(r"\s*(?:-c\s*|--)([A-Za-z_][\w.-]*)=((?:\\.|[^\s\\])*+)")
_UNPRINTABLE: Final = re.compile(r"[\x00-\x1f\x7f\ufffd]")
_PARAMETERS: Final = {
    "sslmode": "disable|allow|prefer|require|verify-ca|verify-full|no-verify",
    "ssl": "true|false",
    "channel_binding": "disable|prefer|require",
    "gssencmode": "disable|prefer",
    "target_session_attrs": "any|primary|standby|prefer-standby|read-write|read-only",
    "pgbouncer": "true|false",
    **dict.fromkeys(("connect_timeout", "tcp_user_timeout", "sslsni", "keepalives"), "[0-9]{1,9}"),
    **dict.fromkeys(("keepalives_idle", "keepalives_interval", "keepalives_count"), "[0-9]{1,9}"),
    **dict.fromkeys(("host", "port", "user", "password", "dbname", "application_name", "options"), ".+"),
    **dict.fromkeys(("search_path", "schema", "sslrootcert", "sslcert", "sslkey"), ".+"),
}
_SYNONYMS: Final = {"ssl": "sslmode", "schema": "search_path"}
_SSLMODES: Final = {"true": "verify-full", "false": "disable", "no-verify": "require"}
_PORT: Final = 5432
_AMBIGUOUS: Final = "the database URL is ambiguous: percent-encode the special characters of its user and password"


class AsyncpgArguments(TypedDict):
    """Keyword arguments of `asyncpg.connect` and `asyncpg.create_pool`."""

    host: list[str]
    port: list[int]
    user: str | None
    password: str | None
    database: str
    ssl: SSLContext | Literal[False, "allow", "prefer"]
    server_settings: dict[str, str]
    target_session_attrs: NotRequired[SessionAttribute]
    statement_cache_size: NotRequired[int]


class DatabaseUrl(Struct, kw_only=True, frozen=True):
    """Where the database is and how to reach it; as text it shows hosts and database only."""

    hosts: tuple[tuple[str, int], ...]
    user: str | None = None
    password: str | None = None
    database: str
    sslmode: str
    sslrootcert: str | None = None
    sslcert: str | None = None
    sslkey: str | None = None
    connect_timeout_seconds: int | None = None
    application_name: str | None = None
    options: str | None = None
    search_path: str | None = None
    target_session_attrs: str | None = None
    pooled: bool = False

    def __str__(self) -> str:
        hosts = (
            f"[{host}]:{port}" if ":" in host and host[0] != "/" else f"{host}:{port}" for host, port in self.hosts
        )
        return f"{','.join(hosts)}/{self.database}"

    __repr__ = __str__

    def for_asyncpg(self) -> AsyncpgArguments:
        """Return arguments for asyncpg, all but `timeout`. Raises ValueError when a certificate cannot be read."""
        arguments = AsyncpgArguments(
            host=[host for host, _ in self.hosts],
            port=[port for _, port in self.hosts],
            user=self.user,
            password=self.password,
            database=self.database,
            ssl=self._ssl(),
            server_settings=self._server_settings(),
        )
        if self.target_session_attrs:
            arguments["target_session_attrs"] = SessionAttribute(self.target_session_attrs)
        if self.pooled:
            arguments["statement_cache_size"] = 0
        return arguments

    def for_libpq(self) -> dict[str, str | int]:
        """Return arguments for `psycopg.connect`; what is not given is absent."""
        settings = self._server_settings()
        sslrootcert = self.sslrootcert
        if self.sslmode == "verify-full" and sslrootcert in {None, "system"}:
            # psycopg-binary knows no system CAs: its OpenSSL looks for them in /usr/lib/psycopg-openssl
            sslrootcert = get_default_verify_paths().cafile or "system"
        arguments = {
            "host": ",".join(host for host, _ in self.hosts),
            "port": ",".join(str(port) for _, port in self.hosts),
            "user": self.user,
            "password": self.password,
            "dbname": self.database,
            "sslmode": self.sslmode,
            "sslrootcert": sslrootcert,
            "sslcert": self.sslcert,
            "sslkey": self.sslkey,
            "gssencmode": "disable",  # else a Kerberos ticket would take the place of TLS
            "connect_timeout": self.connect_timeout_seconds,
            "target_session_attrs": self.target_session_attrs,
            "application_name": settings.pop("application_name", None),
            "options": " ".join("-c " + re.sub(r"([\s\\])", r"\\\1", f"{key}={settings[key]}") for key in settings),
        }
        return {name: value for name, value in arguments.items() if value}

    def _server_settings(self) -> dict[str, str]:
        given = {"application_name": self.application_name, "search_path": self.search_path}
        settings = _option_pairs(self.options or "") | {name: value for name, value in given.items() if value}
        return {} if self.pooled else settings

    def _ssl(self) -> SSLContext | Literal[False, "allow", "prefer"]:
        if self.sslmode == "disable":
            return False
        if self.sslmode in {"allow", "prefer"}:
            return "allow" if self.sslmode == "allow" else "prefer"
        reading = "sslrootcert"
        try:
            context = create_default_context(cafile=None if self.sslrootcert == "system" else self.sslrootcert)
            if self.sslcert:
                reading = "sslcert or sslkey"
                context.load_cert_chain(self.sslcert, self.sslkey, password="")  # no prompt at the terminal
        except OSError:
            raise ValueError(f"{reading} cannot be read") from None
        context.verify_flags &= ~VERIFY_X509_STRICT  # which Python 3.13 sets and libpq does not
        context.check_hostname = self.sslmode == "verify-full"
        if self.sslmode == "require":
            context.verify_mode = CERT_NONE
        return context


def parse_database_url(
    text: str, *, password: str | None = None, pooled: bool = False, allow_unverified: bool = False
) -> DatabaseUrl:
    """Return what a URL means; `password` replaces the URL's, `pooled` stands for `pgbouncer=true`.

    Raises ValueError, whose text shows no password.
    """
    userinfo, authority, database, query = _split(text.strip())
    names, ports = _names_and_ports(authority)
    given = _parameters(query)
    url_user, _, url_password = userinfo.partition(":")
    given["user"] = given.get("user") or _decoded(url_user)
    given["password"] = password or given.get("password") or _decoded(url_password)
    given["database"] = given.get("dbname") or _decoded(database) or given["user"] or "postgres"
    hosts = _hosts(
        given["host"].split(",") if "host" in given else names,
        given["port"].split(",") if "port" in given else ports,
    )
    given["sslmode"] = _sslmode(hosts, given, allow_unverified=allow_unverified)
    dropped = {"sslrootcert", "sslcert", "sslkey"} if given["sslmode"] == "disable" else set()
    fields = DatabaseUrl.__struct_fields__
    url = DatabaseUrl(
        hosts=hosts,
        connect_timeout_seconds=int(given.get("connect_timeout", "0")) or None,
        pooled=pooled or given.get("pgbouncer") == "true",
        **{name: value for name, value in given.items() if value and name in fields and name not in dropped},
    )
    if pooled and given.get("pgbouncer") == "false":
        raise ValueError("pgbouncer=false contradicts VERBATIM_POOLED_DATABASE")
    if url.pooled and (url.options or url.search_path not in {None, "public"}):
        raise ValueError("options and search_path get lost behind a pooler: use ALTER ROLE ... SET")
    _option_pairs(url.options or "")
    if url.sslrootcert or url.sslcert:
        url.for_asyncpg()  # reads the files
    return url


def _split(text: str) -> tuple[str, str, str, str]:
    scheme = _SCHEME.match(text)
    if not scheme or _UNPRINTABLE.search(text):
        raise ValueError("the database URL must be one line that begins with postgresql://")
    rest = text[scheme.end() :]
    head, _, tail = rest.partition("?")
    is_query = tail.partition("=")[0] in _PARAMETERS or ("/" in head and re.match(r"\w+=", tail))
    userinfo, at, _ = (head if "@" in head or is_query else rest).rpartition("@")
    target = _TARGET.fullmatch(rest, len(userinfo + at))
    if not target or re.search(r"^[^:]*[/?]|@.*\?\w+=", userinfo):
        raise ValueError(_AMBIGUOUS)
    return userinfo, target["hosts"], target["database"] or "", target["query"] or ""


def _decoded(text: str) -> str:
    decoded = unquote(text)
    if _UNPRINTABLE.search(decoded):
        raise ValueError("the database URL holds a percent-escape of no printable UTF-8")
    return decoded


def _names_and_ports(authority: str) -> tuple[list[str], list[str]]:
    found = [match for piece in authority.split(",") if (match := _HOST.fullmatch(piece))]
    names = [_decoded(match["host"]).strip("[]") for match in found]
    if len(found) != authority.count(",") + 1:
        raise ValueError("a host or its port is malformed")
    return names if any(names) else ["localhost"], [match["port"] or "" for match in found]


def _parameters(query: str) -> dict[str, str]:
    parameters: dict[str, str] = {}
    for item in filter(None, query.split("&")):
        name, value = (_decoded(part) for part in item.partition("=")[::2])
        if name not in _PARAMETERS:
            # what looks like a name may be a piece of a password with a raw `?` or `&`
            raise ValueError(_AMBIGUOUS if re.search("@|password", query) else f"unknown parameter {name!r}")
        if not re.fullmatch(_PARAMETERS[name], value):
            raise ValueError(f"{name} must be of the form {_PARAMETERS[name]}")
        name = _SYNONYMS.get(name, name)
        if name in parameters:
            raise ValueError(f"{name} is given twice")
        parameters[name] = value
    return parameters


def _hosts(names: list[str], ports: list[str]) -> tuple[tuple[str, int], ...]:
    if not all(_HOST_NAME.fullmatch(name) for name in names):
        raise ValueError("a host is malformed")
    if not all(re.fullmatch("[0-9]{0,5}", port) and 0 < int(port or _PORT) < 2**16 for port in ports):
        raise ValueError("port is no number from 1 to 65535")
    if len(ports) not in {1, len(names)}:
        raise ValueError("port: give one for all hosts, or one for each")
    return tuple((name, int(ports[place % len(ports)] or _PORT)) for place, name in enumerate(names))


def _sslmode(hosts: tuple[tuple[str, int], ...], given: dict[str, str], *, allow_unverified: bool) -> str:
    mode = _SSLMODES.get(given.get("sslmode", ""), given.get("sslmode"))
    files = given.keys() & {"sslrootcert", "sslcert", "sslkey"}
    may_be_weak = allow_unverified or all(_LOOPBACK.fullmatch(host) for host, _ in hosts)
    if all(host.startswith("/") for host, _ in hosts):
        mode = "disable"  # a socket carries no TLS in either driver
    elif mode is None:
        mode = "prefer" if may_be_weak and "sslrootcert" not in files else "verify-full"
    elif mode != "verify-full" and not may_be_weak:
        setting = "VERBATIM_ALLOW_UNVERIFIED_DATABASE"
        raise ValueError(f"sslmode={mode} does not verify the server: use sslmode=verify-full, or set {setting}")
    elif mode == "require" and "sslrootcert" in files:
        mode = "verify-ca"  # as libpq does (its documentation, "SSL Support")
    if files and mode in {"allow", "prefer"}:
        raise ValueError(f"{min(files)} needs sslmode=verify-full")
    if mode == "verify-ca" and given.get("sslrootcert", "system") == "system":
        raise ValueError("sslmode=verify-ca needs a file as sslrootcert, since anyone has a certificate of a public CA")
    if len(files & {"sslcert", "sslkey"}) == 1:
        raise ValueError("sslcert and sslkey go together")
    if given.get("channel_binding") == "require" and mode != "verify-full":
        raise ValueError("channel_binding=require needs sslmode=verify-full, since asyncpg cannot bind channels")
    return mode


def _option_pairs(options: str) -> dict[str, str]:
    if not re.fullmatch(rf"(?:{_OPTION.pattern})*\s*", options):
        raise ValueError("options must be of the form -c name=value")
    return {name.replace("-", "_"): re.sub(r"\\(.)", r"\1", value) for name, value in _OPTION.findall(options)}
