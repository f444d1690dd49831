"""Every setting of the service: one struct, read from the environment here and nowhere else."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct

from app.database_url import DatabaseUrl, parse_database_url

PREFIX = "VERBATIM_"
Seconds = Annotated[float, Meta(gt=0, le=3600)]
_ALGORITHM = r"\s*(?:[RPE]S(?:256|384|512)|EdDSA)\s*"


class SettingsError(Exception):
    """A setting is wrong; the message is one line that names it and never its value when it may be secret."""


class Settings(Struct, kw_only=True, frozen=True):
    """What can be set. A field `name` is the environment variable `VERBATIM_NAME`; `database_url` is `DATABASE_URL`."""

    database_url: Annotated[
        str | None,
        Meta(description="The database. Unset: an embedded PostgreSQL under `VERBATIM_DATA_DIR`."),
    ] = None
    database_password_file: Annotated[
        Path | None, Meta(description="A file that holds the password of `DATABASE_URL`, for secrets by file.")
    ] = None
    migration_database_url: Annotated[
        str | None,
        Meta(description="The database for `migrate`, when it needs another role or must not go through a pooler."),
    ] = None
    allow_unverified_database: Annotated[
        bool,
        Meta(description="Lets a database beyond loopback do without TLS that verifies it (`sslmode=verify-full`)."),
    ] = False
    pooled_database: Annotated[
        bool, Meta(description="Says that `DATABASE_URL` goes through PgBouncer in transaction mode.")
    ] = False
    allow_unsafe_database: Annotated[
        bool,
        Meta(
            description="Serves, with a warning, on a database that may lose what it acknowledged (`fsync` off, say)."
        ),
    ] = False
    host: Annotated[str, Meta(description="The address to listen on.")] = "127.0.0.1"
    port: Annotated[int, Meta(ge=0, le=65535, description="The port to listen on; 0 takes a free one.")] = 8000
    data_dir: Annotated[Path, Meta(description="Where the embedded PostgreSQL and the ready key lie.")] = Path("var")
    pool_size: Annotated[int, Meta(ge=1, le=1000, description="The most database connections of this process.")] = 16
    connect_timeout_seconds: Annotated[Seconds, Meta(description="The longest wait for a new connection.")] = 2.0
    acquire_timeout_seconds: Annotated[Seconds, Meta(description="The longest wait for a free connection.")] = 1.0
    lock_timeout_seconds: Annotated[Seconds, Meta(description="The longest wait for another's lock.")] = 1.0
    command_timeout_seconds: Annotated[Seconds, Meta(description="The longest wait for a statement.")] = 2.5
    request_timeout_seconds: Annotated[
        Seconds, Meta(description="The longest time to an answer, once the request is there.")
    ] = 4.5
    body_timeout_seconds: Annotated[Seconds, Meta(description="The longest wait for the body of a request.")] = 30.0
    keep_alive_seconds: Annotated[
        int,
        Meta(ge=1, le=3600, description="How long an idle connection stays open: longer than at the gateway."),
    ] = 75
    drain_seconds: Annotated[
        float, Meta(ge=0, le=3600, description="How long SIGTERM lets a service go on that says it is not ready.")
    ] = 5.0
    queue_limit: Annotated[
        int,
        Meta(ge=1, le=100_000, description="The most requests that wait for a connection; more get a 503 at once."),
    ] = 512
    conversation_limit: Annotated[
        int, Meta(ge=1, le=1000, description="The most connections that writes to one conversation may hold at once.")
    ] = 4
    connection_limit: Annotated[
        int, Meta(ge=1, le=100_000, description="The most clients' connections that are open at once.")
    ] = 1000
    head_limit_bytes: Annotated[
        int, Meta(ge=1024, le=2**20, description="The largest head of a request: its line and its headers.")
    ] = 32 * 2**10
    body_limit_bytes: Annotated[int, Meta(ge=1024, le=2**28, description="The largest request body.")] = 32 * 2**20
    body_memory_bytes: Annotated[
        int, Meta(ge=1024, le=2**40, description="The most bytes of bodies that are held at once; others get a 503.")
    ] = 256 * 2**20
    message_limit_bytes: Annotated[int, Meta(ge=1024, le=2**28, description="The most payload of one message.")] = (
        10 * 2**20
    )
    restore_days: Annotated[
        int, Meta(ge=0, le=3650, description="How long what is deleted can be restored before `purge` erases it.")
    ] = 30
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"],
        Meta(description="The least level that is logged; `warning` leaves out the line of each request."),
    ] = "info"
    jwt_issuer: Annotated[str | None, Meta(description="The `iss` of JWTs that are let in. Unset: no JWT is.")] = None
    jwt_audience: Annotated[str | None, Meta(description="The `aud` that a JWT must name.")] = None
    jwt_jwks_file: Annotated[Path | None, Meta(description="The issuer's public keys (a JWKS) in a file.")] = None
    jwt_jwks_url: Annotated[
        Annotated[str, Meta(pattern="^https?://")] | None, Meta(description="The issuer's public keys (a JWKS) by URL.")
    ] = None
    jwt_algorithms: Annotated[
        str,
        Meta(
            pattern=f"^{_ALGORITHM}(?:,{_ALGORITHM})*$",
            description="The signature algorithms that are let in, separated by commas.",
        ),
    ] = "RS256,ES256,EdDSA"
    jwt_tenant_claim: Annotated[str, Meta(description="The claim that names the tenant.")] = "tenant"

    def parsed_database_url(self) -> DatabaseUrl | None:
        """The database, None for the embedded one. Raises SettingsError."""
        return self._parse("DATABASE_URL", self.database_url, self._password(), pooled=self.pooled_database)

    def parsed_migration_url(self) -> DatabaseUrl | None:
        """The database as `migrate` reaches it, None for the embedded one. Raises SettingsError."""
        url = self._parse("VERBATIM_MIGRATION_DATABASE_URL", self.migration_database_url)
        return url or self.parsed_database_url()

    def _password(self) -> str | None:
        try:
            return self.database_password_file.read_text().rstrip("\n") if self.database_password_file else None
        except OSError as error:
            raise SettingsError(f"VERBATIM_DATABASE_PASSWORD_FILE cannot be read: {error.strerror}") from None
        except UnicodeDecodeError:
            raise SettingsError("VERBATIM_DATABASE_PASSWORD_FILE cannot be read: it is no UTF-8") from None

    def _parse(
        self, name: str, text: str | None, password: str | None = None, *, pooled: bool = False
    ) -> DatabaseUrl | None:
        if text is None:
            return None
        try:
            return parse_database_url(
                text, password=password, pooled=pooled, allow_unverified=self.allow_unverified_database
            )
        except ValueError as error:
            raise SettingsError(f"{name}: {error}") from None


def variable_of(field: str) -> str:
    """The environment variable of a field of `Settings`."""
    return "DATABASE_URL" if field == "database_url" else PREFIX + field.upper()


def read_settings(environ: Mapping[str, str] = os.environ) -> Settings:
    """The settings of an environment; an empty variable is an unset one. Raises SettingsError."""
    fields = {variable_of(field): field for field in Settings.__struct_fields__}
    if unknown := sorted(name for name in environ if name.startswith(PREFIX) and name not in fields):
        raise SettingsError(f"unknown settings: {', '.join(unknown)}")
    values = {field: environ[name] for name, field in fields.items() if environ.get(name)}
    try:
        settings = msgspec.convert(values, Settings, strict=False, dec_hook=_decode)
    except msgspec.ValidationError as error:
        reason, _, path = str(error).partition(" - at `$.")
        raise SettingsError(f"{variable_of(path.rstrip('`'))}: {reason[:1].lower()}{reason[1:]}") from None
    _check(settings)
    return settings


def _decode(_wanted: type, value: object) -> Path:
    return Path(str(value))  # no other type here needs help


def _check(settings: Settings) -> None:
    keys = [settings.jwt_jwks_file, settings.jwt_jwks_url]
    if settings.jwt_issuer is None:
        if settings.jwt_audience or any(keys):
            raise SettingsError("VERBATIM_JWT_ISSUER must be set with the other VERBATIM_JWT settings")
    elif settings.jwt_audience is None or sum(key is not None for key in keys) != 1:
        raise SettingsError(
            "VERBATIM_JWT_ISSUER needs VERBATIM_JWT_AUDIENCE and one of VERBATIM_JWT_JWKS_FILE, VERBATIM_JWT_JWKS_URL"
        )
    if settings.message_limit_bytes > settings.body_limit_bytes:
        raise SettingsError("VERBATIM_MESSAGE_LIMIT_BYTES must not exceed VERBATIM_BODY_LIMIT_BYTES")
    if settings.body_limit_bytes > settings.body_memory_bytes:
        raise SettingsError("VERBATIM_BODY_LIMIT_BYTES must not exceed VERBATIM_BODY_MEMORY_BYTES")
    settings.parsed_migration_url()
    settings.parsed_database_url()
