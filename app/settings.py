"""Every setting of the service: one struct, read from the environment here and nowhere else."""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

import msgspec
from msgspec import Meta, Struct

from app.database_url import DatabaseUrl, parse_database_url

PREFIX = "VERBATIM_"
Seconds = Annotated[float, Meta(gt=0, le=3600)]
_MODEL_URL = re.compile(r"https?://[^\s/?#@\\]+(?:/[^\s?#]*)?")
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
    workers: Annotated[
        int, Meta(ge=1, le=64, description="The processes that serve; each has its own connections and its own cache.")
    ] = 1
    data_dir: Annotated[Path, Meta(description="Where the embedded PostgreSQL and the ready key lie.")] = Path("var")
    pool_size: Annotated[int, Meta(ge=1, le=1000, description="The most database connections of this process.")] = 16
    connect_timeout_seconds: Annotated[Seconds, Meta(description="The longest wait for a new connection.")] = 2.0
    acquire_timeout_seconds: Annotated[Seconds, Meta(description="The longest wait for a free connection.")] = 1.0
    lock_timeout_seconds: Annotated[Seconds, Meta(description="The longest wait for another's lock.")] = 1.0
    command_timeout_seconds: Annotated[Seconds, Meta(description="The longest wait for a statement.")] = 2.5
    shared_statements: Annotated[
        bool, Meta(description="Lets requests that arrive at the same time share a statement. Off on Citus.")
    ] = True
    page_cache_bytes: Annotated[
        int, Meta(ge=0, le=2**36, description="The most memory for pages that may be asked for again.")
    ] = 256 * 2**20
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
    reply_timeout_seconds: Annotated[
        Seconds, Meta(description="The longest time a reply may take; what it has said by then is kept.")
    ] = 600.0
    reply_flush_seconds: Annotated[
        Seconds, Meta(description="How long a reply's text may wait to be kept, and shown.")
    ] = 0.25
    reply_flush_bytes: Annotated[
        int, Meta(ge=1, le=2**20, description="How much of a reply's text may wait to be kept, and shown.")
    ] = 2048
    reply_lease_seconds: Annotated[
        Seconds,
        Meta(description="How long a reply is taken for alive of which its replica says nothing; then it is ended."),
    ] = 15.0
    reply_limit: Annotated[
        int, Meta(ge=1, le=100_000, description="The most replies that this process makes at once; more get a 503.")
    ] = 256
    heartbeat_seconds: Annotated[
        Seconds, Meta(description="How often an event stream without events says that it is there.")
    ] = 15.0
    stream_seconds: Annotated[
        float,
        Meta(gt=0, le=7 * 86_400, description="How long an event stream goes on before its client must come again."),
    ] = 3600.0
    follow_seconds: Annotated[
        Seconds, Meta(description="How often the conversations that are followed are looked at for what others did.")
    ] = 1.0
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
    model_base_url: Annotated[
        str | None,
        Meta(description="The model server: what stands before `/chat/completions`. Unset: a built-in responder."),
    ] = None
    model_name: Annotated[str | None, Meta(description="The model, as its server names it.")] = None
    model_api_key: Annotated[str | None, Meta(description="The key that the model server wants.")] = None
    model_api_key_file: Annotated[
        Path | None, Meta(description="A file that holds it instead, for secrets by file.")
    ] = None
    model_timeout_seconds: Annotated[
        Seconds, Meta(description="The longest silence of the model server, and wait for a connection to it.")
    ] = 60.0
    model_stream: Annotated[bool, Meta(description="Asks the model for its answer as it grows.")] = True
    model_system_prompt: Annotated[
        str | None, Meta(description="What the model is told first, before the conversation's own words.")
    ] = None
    model_context_tokens: Annotated[
        int, Meta(ge=1, le=10**9, description="The most tokens of a conversation that the model is shown.")
    ] = 32_000
    model_max_output_tokens: Annotated[
        Annotated[int, Meta(ge=1, le=10**9)] | None,
        Meta(description="The most tokens of an answer. Unset: what the model server allows."),
    ] = None

    def __repr__(self) -> str:
        """What is set, without any value: some are secret."""
        changed = [name for name in self.__struct_fields__ if getattr(self, name) != getattr(_DEFAULTS, name)]
        return f"Settings({', '.join(changed)})"

    def parsed_database_url(self) -> DatabaseUrl | None:
        """The database, None for the embedded one. Raises SettingsError."""
        return self._parse("DATABASE_URL", self.database_url, self._password(), pooled=self.pooled_database)

    def parsed_migration_url(self) -> DatabaseUrl | None:
        """The database as `migrate` reaches it, None for the embedded one. Raises SettingsError."""
        url = self._parse("VERBATIM_MIGRATION_DATABASE_URL", self.migration_database_url)
        return url or self.parsed_database_url()

    def parsed_model_url(self) -> str | None:
        """The model server's base URL without a slash at its end, None for the built-in responder.

        Raises SettingsError.
        """
        if self.model_base_url is None:
            return None
        wanted = "must be an http or https URL without credentials, query and fragment"
        try:
            parts = urlsplit(self.model_base_url)
            if _MODEL_URL.fullmatch(self.model_base_url) and parts.hostname and parts.port != 0:
                return self.model_base_url.rstrip("/")
        except ValueError:  # of the port
            pass
        raise SettingsError(f"VERBATIM_MODEL_BASE_URL {wanted}")

    def read_model_api_key(self) -> str | None:
        """The key for the model server. Raises SettingsError."""
        from_file = _read_secret("VERBATIM_MODEL_API_KEY_FILE", self.model_api_key_file)
        key, variable = (
            (self.model_api_key, "VERBATIM_MODEL_API_KEY")
            if from_file is None
            else (from_file, "VERBATIM_MODEL_API_KEY_FILE")
        )
        if key is not None and not re.fullmatch("[!-~]+", key):
            raise SettingsError(f"{variable} must hold visible ASCII characters alone")
        return key

    def _password(self) -> str | None:
        return _read_secret("VERBATIM_DATABASE_PASSWORD_FILE", self.database_password_file)

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


_DEFAULTS = Settings()


def _read_secret(variable: str, path: Path | None) -> str | None:
    try:
        return path.read_text().rstrip("\n") if path else None
    except OSError as error:
        raise SettingsError(f"{variable} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise SettingsError(f"{variable} cannot be read: it is no UTF-8") from None


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
    _check_model(settings)
    settings.parsed_migration_url()
    settings.parsed_database_url()


def _check_model(settings: Settings) -> None:
    if (settings.model_base_url is None) != (settings.model_name is None):
        raise SettingsError("VERBATIM_MODEL_BASE_URL and VERBATIM_MODEL_NAME must be set together")
    if len(settings.model_name or "") > 128:  # noqa: PLR2004  # as a message's model
        raise SettingsError("VERBATIM_MODEL_NAME: must have at most 128 characters")
    if settings.model_api_key and settings.model_api_key_file:
        raise SettingsError("only one of VERBATIM_MODEL_API_KEY and VERBATIM_MODEL_API_KEY_FILE can be set")
    if settings.model_base_url is None and (settings.model_api_key or settings.model_api_key_file):
        raise SettingsError("VERBATIM_MODEL_API_KEY is of use only with VERBATIM_MODEL_BASE_URL")
    settings.parsed_model_url()
    settings.read_model_api_key()
