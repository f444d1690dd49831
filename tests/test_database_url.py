import inspect
import ssl
import traceback
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from asyncpg.connect_utils import SSLMode, _parse_connect_arguments
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from msgspec.structs import asdict
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from app.database_url import DatabaseUrl, parse_database_url

SECRET = "s3cr3t"


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("PGHOST", "PGPORT", "PGUSER", "PGPASSWORD", "PGDATABASE", "PGSSLMODE", "PGTARGETSESSIONATTRS"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="module")
def pem(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A file that is a CA, a client's certificate and its key at once."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "test")])
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(datetime.now(UTC) - timedelta(days=1))
        .not_valid_after(datetime.now(UTC) + timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = tmp_path_factory.mktemp("tls") / "all.pem"
    encoding, form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    private = key.private_bytes(encoding, form, serialization.NoEncryption())
    path.write_bytes(certificate.public_bytes(encoding) + private)
    return str(path)


def expected(host: str, **fields: Any) -> DatabaseUrl:
    """Return a meaning whose hosts are written `host:port,host:port`, with the defaults of most cases."""
    pairs = (pair.rpartition(":") for pair in host.split(","))
    hosts = tuple((name, int(port)) for name, _, port in pairs)
    return DatabaseUrl(
        **{"user": "app", "password": SECRET, "database": "app", "sslmode": "verify-full"} | fields, hosts=hosts
    )


MEANINGS = {
    "Neon": (
        f"postgresql://app:{SECRET}@ep-cool-1a2b.eu-central-1.aws.neon.tech/app?sslmode=verify-full&channel_binding=require",
        expected("ep-cool-1a2b.eu-central-1.aws.neon.tech:5432"),
    ),
    "Supabase direct": (
        f"postgresql://postgres:{SECRET}@db.abcdefgh.supabase.co:5432/postgres",
        expected("db.abcdefgh.supabase.co:5432", user="postgres", database="postgres"),
    ),
    "Supabase pooler": (
        f"postgres://postgres.abcdefgh:{SECRET}@aws-0-eu-central-1.pooler.supabase.com:6543/postgres?pgbouncer=true",
        expected(
            "aws-0-eu-central-1.pooler.supabase.com:6543", user="postgres.abcdefgh", database="postgres", pooled=True
        ),
    ),
    "RDS": (
        f"postgresql://app:{SECRET}@mydb.c9akciq32.eu-west-1.rds.amazonaws.com:5432/app?sslmode=verify-full&sslrootcert=PEM",
        expected("mydb.c9akciq32.eu-west-1.rds.amazonaws.com:5432", sslrootcert="PEM"),
    ),
    "Azure single server": (
        f"postgres://app@srv:{SECRET}@srv.postgres.database.azure.com/app?sslmode=verify-full",
        expected("srv.postgres.database.azure.com:5432", user="app@srv"),
    ),
    "Azure single server, encoded": (
        f"postgres://app%40srv:{SECRET}@srv.postgres.database.azure.com:5432/app?ssl=true",
        expected("srv.postgres.database.azure.com:5432", user="app@srv"),
    ),
    "Heroku": (
        f"postgres://app:{SECRET}@ec2-54-1-2-3.compute-1.amazonaws.com:5432/d8r82722r2kuvn",
        expected("ec2-54-1-2-3.compute-1.amazonaws.com:5432", database="d8r82722r2kuvn"),
    ),
    "Render": (
        f"postgresql://app:{SECRET}@dpg-abc-a.frankfurt-postgres.render.com/app_x1",
        expected("dpg-abc-a.frankfurt-postgres.render.com:5432", database="app_x1"),
    ),
    "Railway": (
        f"postgresql://postgres:{SECRET}@roundhouse.proxy.rlwy.net:41234/railway",
        expected("roundhouse.proxy.rlwy.net:41234", user="postgres", database="railway"),
    ),
    "Aiven": (
        f"postgres://avnadmin:{SECRET}@pg-1.aivencloud.com:12691/defaultdb?sslmode=verify-ca&sslrootcert=PEM",
        expected(
            "pg-1.aivencloud.com:12691", user="avnadmin", database="defaultdb", sslmode="verify-ca", sslrootcert="PEM"
        ),
    ),
    "DigitalOcean": (
        f"postgresql://doadmin:{SECRET}@db-1-do-user-1.b.db.ondigitalocean.com:25060/defaultdb?sslmode=verify-full&sslrootcert=PEM",
        expected(
            "db-1-do-user-1.b.db.ondigitalocean.com:25060", user="doadmin", database="defaultdb", sslrootcert="PEM"
        ),
    ),
    "Crunchy Bridge": (
        f"postgres://application:{SECRET}@p.abc.db.postgresbridge.com:5432/postgres?sslrootcert=system",
        expected("p.abc.db.postgresbridge.com:5432", user="application", database="postgres", sslrootcert="system"),
    ),
    "Cloud SQL with a client certificate": (
        f"postgresql://app:{SECRET}@34.90.1.2/app?sslmode=verify-ca&sslrootcert=PEM&sslcert=PEM&sslkey=PEM",
        expected("34.90.1.2:5432", sslmode="verify-ca", sslrootcert="PEM", sslcert="PEM", sslkey="PEM"),
    ),
    "Cloud SQL socket": (
        f"postgresql+asyncpg://app:{SECRET}@/app?host=/cloudsql/project:europe-west1:db",
        expected("/cloudsql/project:europe-west1:db:5432", sslmode="disable"),
    ),
    "Cloud SQL socket beside a host, as Prisma has it": (
        f"postgresql://app:{SECRET}@localhost/app?host=/cloudsql/project:europe-west1:db&schema=public",
        expected("/cloudsql/project:europe-west1:db:5432", sslmode="disable", search_path="public"),
    ),
    "socket in the authority": (
        f"postgresql://app:{SECRET}@%2Fvar%2Frun%2Fpostgresql:5433/app",
        expected("/var/run/postgresql:5433", sslmode="disable"),
    ),
    "local socket": (
        "postgresql:///app?host=/var/run/postgresql",
        expected("/var/run/postgresql:5432", user=None, password=None, sslmode="disable"),
    ),
    "socket, TLS asked for": (
        "postgresql:///app?host=/tmp&port=5433&user=app&sslmode=require&sslrootcert=system",
        expected("/tmp:5433", password=None, sslmode="disable"),
    ),
    "everything in the query": (
        f"postgresql://?host=h1,h2&port=5433&user=app%40srv&password={SECRET}@x&dbname=app",
        expected("h1:5433,h2:5433", user="app@srv", password=f"{SECRET}@x"),
    ),
    "local": (
        f"postgresql+psycopg://app:{SECRET}@localhost/app",
        expected("localhost:5432", sslmode="prefer"),
    ),
    "local, TLS off": (
        f"postgresql+psycopg2://app:{SECRET}@127.0.3.1:5433/app?sslmode=disable",
        expected("127.0.3.1:5433", sslmode="disable"),
    ),
    "local, TLS unverified": (
        f"postgres+asyncpg://app:{SECRET}@localhost/app?sslmode=no-verify",
        expected("localhost:5432", sslmode="require"),
    ),
    "local, allow": (
        f"postgres://app:{SECRET}@localhost/app?sslmode=allow&gssencmode=prefer&channel_binding=prefer",
        expected("localhost:5432", sslmode="allow"),
    ),
    "local with a CA": (
        f"postgres://app:{SECRET}@localhost/app?sslrootcert=PEM",
        expected("localhost:5432", sslrootcert="PEM"),
    ),
    "require with a CA is verify-ca": (
        f"postgres://app:{SECRET}@localhost/app?sslmode=require&sslrootcert=PEM",
        expected("localhost:5432", sslmode="verify-ca", sslrootcert="PEM"),
    ),
    "nothing": (
        "postgresql://",
        expected("localhost:5432", user=None, password=None, database="postgres", sslmode="prefer"),
    ),
    "no database": (f"postgres://app:{SECRET}@localhost", expected("localhost:5432", sslmode="prefer")),
    "container": (f"postgres://app:{SECRET}@my_db:5432/app", expected("my_db:5432")),
    "Fly": (
        f"postgres://app:{SECRET}@my-db.flycast:5432/app?keepalives=1&keepalives_idle=30&sslsni=1&tcp_user_timeout=9",
        expected("my-db.flycast:5432"),
    ),
    "IPv6": (f"postgres://app:{SECRET}@[2001:db8::1]:5433/app", expected("2001:db8::1:5433")),
    "IPv6 loopback": (f"postgres://app:{SECRET}@[::1]/app", expected("::1:5432", sslmode="prefer")),
    "multi-host": (
        f"postgresql://app:{SECRET}@h1:5432,h2:5433,[2001:db8::1]/app?target_session_attrs=read-write",
        expected("h1:5432,h2:5433,2001:db8::1:5432", target_session_attrs="read-write"),
    ),
    "multi-host, one of them local": (
        f"postgresql://app:{SECRET}@localhost,h2/app",
        expected("localhost:5432,h2:5432"),
    ),
    "PgBouncer": (
        f"postgresql://app:{SECRET}@localhost:6432/app?pgbouncer=true&application_name=verbatim&connect_timeout=0",
        expected("localhost:6432", sslmode="prefer", application_name="verbatim", pooled=True),
    ),
    "Prisma": (
        f"postgresql://app:{SECRET}@localhost:5432/app?schema=sales&connect_timeout=10&pgbouncer=false",
        expected("localhost:5432", sslmode="prefer", search_path="sales", connect_timeout_seconds=10),
    ),
    "server settings": (
        "postgresql:///app?host=/tmp&application_name=my%20app&search_path=a,%20b&options=-c%20work_mem%3D5MB%20--lock-timeout=1s%20-cDateStyle=ISO,\\%20DMY",
        expected(
            "/tmp:5432",
            user=None,
            password=None,
            sslmode="disable",
            application_name="my app",
            search_path="a, b",
            options="-c work_mem=5MB --lock-timeout=1s -cDateStyle=ISO,\\ DMY",
        ),
    ),
    "raw characters in the password": (
        "postgres://app:p@ss#w/o:rd&=%@localhost/app?application_name=me@home",
        expected("localhost:5432", password="p@ss#w/o:rd&=%", sslmode="prefer", application_name="me@home"),
    ),
    "raw ? in the password": (
        "postgres://app:wh?at=#@localhost/app?sslmode=allow",
        expected("localhost:5432", password="wh?at=#", sslmode="allow"),
    ),
    "raw ? and @ in the password": (
        "postgres://app:w?h@t@localhost/app",
        expected("localhost:5432", password="w?h@t", sslmode="prefer"),
    ),
    "encoded everywhere": (
        "postgres://%61pp:%40%3A%2F%3F%23%25%20+@%6cocalhost/m%79%2Fapp?application_name=%C3%A9%26",
        expected("localhost:5432", password="@:/?#% +", database="my/app", sslmode="prefer", application_name="é&"),
    ),
    "raw @ in the query without user": (
        "postgres://localhost/app?application_name=me@home",
        expected("localhost:5432", user=None, password=None, sslmode="prefer", application_name="me@home"),
    ),
    "spaces around": (f"  postgres://app:{SECRET}@localhost/app\n", expected("localhost:5432", sslmode="prefer")),
}
UNVERIFIED = {"Aiven", "Cloud SQL with a client certificate"}

REFUSED = {
    f"mysql://app:{SECRET}@h/app": "postgresql://",
    f"app:{SECRET}@h/app": "postgresql://",
    f"postgres://app:{SECRET}@h/app\npostgres://": "one line",
    f"postgres://app:{SECRET}@h/app?pool_timeout=3": "'pool_timeout'",
    f"postgres://app:{SECRET}@h/app?sslmode=verify-full&service=x": "'service'",
    f"postgres://app:{SECRET}@h/app?sslmode=full": "sslmode",
    f"postgres://app:{SECRET}@h/app?ssl=maybe": "ssl",
    f"postgres://app:{SECRET}@h/app?ssl=true&sslmode=verify-full": "sslmode is given twice",
    f"postgres://app:{SECRET}@h/app?search_path=a&schema=b": "search_path is given twice",
    f"postgres://app:{SECRET}@h/app?options=-c%20a%3D1&options=-c%20b%3D1": "options is given twice",
    f"postgres://app:{SECRET}@h/app?application_name=": "application_name",
    f"postgres://app:{SECRET}@h/app?connect_timeout={SECRET}": "connect_timeout",
    f"postgres://app:{SECRET}@h/app?keepalives_idle=-1": "keepalives_idle",
    f"postgres://app:{SECRET}@h/app?tcp_user_timeout=1s": "tcp_user_timeout",
    f"postgres://app:{SECRET}@h/app?pgbouncer=yes": "pgbouncer",
    f"postgres://app:{SECRET}@h/app?target_session_attrs=leader": "target_session_attrs",
    f"postgres://app:{SECRET}@h/app?gssencmode=require": "gssencmode",
    f"postgres://app:{SECRET}@h/app?options=endpoint%3Dx": "options",
    f"postgres://app:{SECRET}@h/app?pgbouncer=true&search_path=sales": "search_path",
    f"postgres://app:{SECRET}@localhost/app?sslmode=require&channel_binding=require": "channel_binding",
    f"postgres://app:{SECRET}@localhost/app?sslmode=prefer&sslrootcert=PEM": "sslrootcert",
    f"postgres://app:{SECRET}@localhost/app?sslmode=require&sslrootcert=system": "sslrootcert",
    f"postgres://app:{SECRET}@localhost/app?sslmode=verify-ca": "sslrootcert",
    f"postgres://app:{SECRET}@h/app?sslrootcert=/absent.pem": "sslrootcert",
    f"postgres://app:{SECRET}@h/app?sslrootcert=/dev/null": "sslrootcert",
    f"postgres://app:{SECRET}@h/app?sslcert=/absent.pem&sslkey=PEM": "sslcert",
    f"postgres://app:{SECRET}@h/app?sslcert=PEM": "sslkey",
    f"postgres://app:{SECRET}@h:http/app": "port",
    f"postgres://app:{SECRET}@h:70000/app": "port",
    f"postgres://app:{SECRET}@h1,h2/app?port=1,2,3": "port",
    f"postgres://app:{SECRET}@h1,,h2/app": "host",
    f"postgres://app:{SECRET}@h%2C1/app": "host",
    f"postgres://app:{SECRET}@[::1/app": "host",
    f"postgres://app:{SECRET}%FF@h/app": "percent-escape",
    f"postgres://app:p@x?{SECRET}=1@h/app": "ambiguous",
    f"postgres://h/app?{SECRET}=x@y": "ambiguous",
    f"postgres://h/app?password=a&{SECRET}": "ambiguous",
    f"postgres://h/x:{SECRET}@y": "ambiguous",
    f"postgres://app:a?{SECRET}@h/app?application_name=x@y": "ambiguous",
    f"postgres://app:p?{SECRET}=1": "host",
}


def given_to_asyncpg(url: DatabaseUrl) -> tuple[list[Any], Any, Any]:
    """Return addresses, parameters and configuration as asyncpg itself reads our arguments."""
    call = inspect.signature(asyncpg.connect).bind(**url.for_asyncpg())
    call.apply_defaults()
    known = inspect.signature(_parse_connect_arguments).parameters
    return _parse_connect_arguments(**{name: value for name, value in call.arguments.items() if name in known})


def given_to_libpq(url: DatabaseUrl) -> dict[str, Any]:
    """Return the arguments as libpq itself reads them."""
    return conninfo_to_dict(make_conninfo(**url.for_libpq()))


def tls_of(parameters: Any) -> str:
    context = parameters.ssl
    if not context or parameters.sslmode in {SSLMode.allow, SSLMode.prefer}:
        return str(parameters.sslmode.name)
    if context.check_hostname:
        return "verify-full"
    return "verify-ca" if context.verify_mode == ssl.CERT_REQUIRED else "require"


def parse(text: str, pem: str, **choices: Any) -> DatabaseUrl:
    return parse_database_url(text.replace("PEM", pem), **choices)


@pytest.mark.parametrize("name", MEANINGS)
def test_a_url_has_its_meaning(name: str, pem: str) -> None:
    text, meaning = MEANINGS[name]

    url = parse(text, pem, allow_unverified=name in UNVERIFIED)

    files = {key: pem for key, value in asdict(meaning).items() if value == "PEM"}
    assert asdict(url) == asdict(meaning) | files


@pytest.mark.parametrize("name", MEANINGS)
def test_both_drivers_are_told_the_same(name: str, pem: str) -> None:
    url = parse(MEANINGS[name][0], pem, allow_unverified=name in UNVERIFIED)

    addresses, parameters, _ = given_to_asyncpg(url)
    libpq = given_to_libpq(url)

    hosts = list(zip(libpq["host"].split(","), libpq["port"].split(","), strict=True))
    assert addresses == [f"{host}/.s.PGSQL.{port}" if host[0] == "/" else (host, int(port)) for host, port in hosts]
    assert libpq.get("user", parameters.user) == parameters.user
    assert (parameters.password, parameters.database) == (libpq.get("password"), libpq["dbname"])
    assert tls_of(parameters) == libpq["sslmode"] == url.sslmode
    assert parameters.target_session_attrs.value == libpq.get("target_session_attrs", "any")
    assert parameters.server_settings.get("application_name") == libpq.get("application_name")
    assert bool(parameters.server_settings.keys() - {"application_name"}) == ("options" in libpq)


@pytest.mark.parametrize("text", REFUSED)
def test_a_refusal_names_the_cause_and_no_secret(text: str, pem: str) -> None:
    with pytest.raises(ValueError, match=r".") as caught:
        parse(text, pem)

    assert REFUSED[text] in str(caught.value)
    assert SECRET not in "".join(traceback.format_exception_only(caught.value)) + repr(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


@pytest.mark.parametrize("mode", ["disable", "allow", "prefer", "require", "no-verify", "verify-ca"])
def test_weak_tls_to_another_host_needs_the_setting(mode: str, pem: str) -> None:
    text = f"postgres://app:{SECRET}@localhost,db.example.com/app?sslmode={mode}"
    text += "&sslrootcert=PEM" if mode == "verify-ca" else ""

    with pytest.raises(ValueError, match="VERBATIM_ALLOW_UNVERIFIED_DATABASE"):
        parse(text, pem)

    assert parse(text, pem, allow_unverified=True).sslmode == mode.replace("no-verify", "require")


def test_the_default_of_neon_is_refused_with_the_mend() -> None:
    with pytest.raises(ValueError, match="use sslmode=verify-full"):
        parse_database_url(f"postgres://app:{SECRET}@ep-1.neon.tech/app?sslmode=require&channel_binding=require")


def test_with_the_setting_another_host_may_be_unverified() -> None:
    assert parse_database_url("postgres://db.example.com/app", allow_unverified=True).sslmode == "prefer"


@pytest.mark.parametrize("host", ["127.0.0.1.example.com", "localhost.example.com", "128.0.0.1", "[::2]", "0.0.0.0"])
def test_what_only_looks_like_loopback_is_another_host(host: str) -> None:
    assert parse_database_url(f"postgres://{host}/app").sslmode == "verify-full"


@pytest.mark.parametrize("name", MEANINGS)
def test_text_shows_hosts_and_database_only(name: str, pem: str) -> None:
    url = parse(MEANINGS[name][0], pem, allow_unverified=name in UNVERIFIED)

    assert repr(url) == str(url) == f"{url}"
    assert str(url).endswith(f"/{url.database}")
    assert not url.password or url.password not in str(url)
    assert "?" not in str(url)


def test_text_is_a_url_without_its_secrets() -> None:
    url = parse_database_url(f"postgres://app:{SECRET}@h1,[2001:db8::1]:5433/app?connect_timeout=3")

    assert str(url) == "h1:5432,[2001:db8::1]:5433/app"


@pytest.mark.parametrize("text", ["postgres://app@localhost", f"postgres://app:{SECRET}@localhost?password={SECRET}"])
def test_a_separate_password_comes_first(text: str) -> None:
    assert parse_database_url(text, password="other @?#").password == "other @?#"


def test_server_settings_are_the_same_for_both_drivers() -> None:
    url = parse_database_url(MEANINGS["server settings"][0])

    settings = url.for_asyncpg()["server_settings"]
    libpq = url.for_libpq()

    assert settings == {
        "work_mem": "5MB",
        "lock_timeout": "1s",
        "DateStyle": "ISO, DMY",
        "application_name": "my app",
        "search_path": "a, b",
    }
    assert libpq["application_name"] == "my app"
    assert libpq["options"] == ("-c work_mem=5MB -c lock_timeout=1s -c DateStyle=ISO,\\ DMY -c search_path=a,\\ b")


@pytest.mark.parametrize("by", ["parameter", "setting"])
def test_a_pooler_gets_no_settings_and_no_prepared_statements(by: str) -> None:
    text = MEANINGS["PgBouncer"][0]
    assert "?pgbouncer=true&" in text
    if by == "setting":
        text = text.replace("pgbouncer=true&", "")
    url = parse_database_url(text, pooled=by == "setting")

    _, parameters, configuration = given_to_asyncpg(url)

    assert parameters.server_settings == {}
    assert configuration.statement_cache_size == 0
    assert not url.for_libpq().keys() & {"application_name", "options"}


@pytest.mark.parametrize("query", ["options=-c%20a%3D1", "search_path=sales", "schema=sales"])
def test_a_pooler_would_lose_what_is_set_by_the_url(query: str) -> None:
    text = f"postgres://app:{SECRET}@localhost/app?{query}"
    assert not parse_database_url(text).pooled

    with pytest.raises(ValueError, match=r"ALTER ROLE \.\.\. SET"):
        parse_database_url(text, pooled=True)


def test_a_url_may_not_contradict_the_setting() -> None:
    with pytest.raises(ValueError, match="VERBATIM_POOLED_DATABASE"):
        parse_database_url("postgres://localhost/app?pgbouncer=false", pooled=True)


def test_system_certificates_are_those_of_python_for_both_drivers(monkeypatch: pytest.MonkeyPatch, pem: str) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", pem)
    url = parse_database_url("postgres://db.example.com/app?sslrootcert=system")

    context = url.for_asyncpg()["ssl"]

    assert isinstance(context, ssl.SSLContext)
    assert context.cert_store_stats()["x509_ca"] >= 1
    assert url.for_libpq()["sslrootcert"] == pem


def test_a_certificate_that_vanishes_is_named(tmp_path: Path, pem: str) -> None:
    copy = tmp_path / "ca.pem"
    copy.write_text(Path(pem).read_text())
    url = parse_database_url(f"postgres://db.example.com/app?sslrootcert={copy}")
    copy.unlink()

    with pytest.raises(ValueError, match="sslrootcert"):
        url.for_asyncpg()
