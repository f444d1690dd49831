import os
import re
from collections.abc import Iterator
from pathlib import Path
from types import NoneType
from typing import Any, get_args, get_type_hints

import msgspec
import pytest
from msgspec import Meta

from app.settings import Settings, SettingsError, read_settings, variable_of
from app.tokens import ALGORITHMS

ROOT = Path(__file__).parent.parent
DEFAULTS = msgspec.structs.asdict(Settings())
HINTS: dict[str, Any] = get_type_hints(Settings, include_extras=True)
JWT = {"VERBATIM_JWT_ISSUER": "https://gate", "VERBATIM_JWT_AUDIENCE": "verbatim", "VERBATIM_JWT_JWKS_FILE": "keys"}
SECRET = "hunter2"


def meaning_of(field: str) -> str:
    return next(meta.description for meta in HINTS[field].__metadata__ if meta.description)


def default_of(field: str) -> str:
    """A default as the environment would say it; empty: unset."""
    value = DEFAULTS[field]
    return "" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def render_table() -> str:
    """The settings as the README shows them."""
    rows = ["| Variable | Default | Meaning |", "| --- | --- | --- |"]
    for field in DEFAULTS:
        default = f"`{default_of(field)}`" if default_of(field) else ""
        rows.append(f"| `{variable_of(field)}` | {default} | {meaning_of(field)} |")
    return "\n".join(rows)


def render_example() -> str:
    """`.env.example`: every setting with its default, commented out."""
    settings = [f"# {meaning_of(field)}\n#{variable_of(field)}={default_of(field)}\n" for field in DEFAULTS]
    return "\n".join(["# Copy to .env and uncomment what is to differ. These are the defaults.\n", *settings])


def refusal(**variables: str) -> str:
    with pytest.raises(SettingsError) as caught:
        read_settings(variables)
    return str(caught.value)


# The documents


def test_the_readme_lists_every_setting() -> None:
    path = ROOT / "README.md"
    head, _, rest = path.read_text().partition("<!-- settings -->\n")
    _, _, tail = rest.partition("<!-- /settings -->")
    expected = f"{head}<!-- settings -->\n{render_table()}\n<!-- /settings -->{tail}"
    if "REGENERATE" in os.environ:
        path.write_text(expected)
    assert path.read_text() == expected, "a setting changed: REGENERATE=1 pytest tests/test_settings.py"


def test_the_example_lists_every_setting() -> None:
    path = ROOT / ".env.example"
    if "REGENERATE" in os.environ:
        path.write_text(render_example())
    assert path.read_text() == render_example(), "a setting changed: REGENERATE=1 pytest tests/test_settings.py"


def test_the_example_uncommented_is_the_default() -> None:
    example = re.findall(r"^#([A-Z_]+)=(.*)$", (ROOT / ".env.example").read_text(), re.MULTILINE)
    assert read_settings(dict(example)) == Settings()


# What is refused


@pytest.mark.parametrize("name", ["VERBATIM_PROT", "VERBATIM_", "VERBATIM_DATABASE_URL", "VERBATIM_port"])
def test_an_unknown_name_is_refused(name: str) -> None:
    assert refusal(**{name: ""}) == f"unknown settings: {name}"


def test_other_variables_are_nobody_s_business() -> None:
    assert read_settings({"PATH": "/bin", "PGHOST": "elsewhere", "POSTGRES_PASSWORD": SECRET}) == Settings()


def bad_values() -> Iterator[tuple[str, str]]:
    """For each setting that is not any text: a value of another type, and those just beyond its limits."""
    for field, hint in HINTS.items():
        kinds = {kind for kind in (get_args(get_args(hint)[0]) or get_args(hint)[:1]) if kind is not NoneType}
        if kinds <= {str, Path}:
            continue
        yield field, "much"
        for meta in [meta for part in (hint, *get_args(hint)) for meta in getattr(part, "__metadata__", ())]:
            yield from ((field, str(limit)) for limit in beyond(meta))


def beyond(meta: Meta) -> Iterator[float]:
    if meta.ge is not None:
        yield meta.ge - 1
    if meta.gt is not None:
        yield meta.gt
    if meta.le is not None:
        yield meta.le + 1


BAD_VALUES = sorted(set(bad_values()))


def test_most_settings_can_be_bad() -> None:
    assert len({field for field, _ in BAD_VALUES}) >= len(DEFAULTS) // 2


@pytest.mark.parametrize(("field", "value"), BAD_VALUES)
def test_a_bad_value_names_its_variable(field: str, value: str) -> None:
    url = f"postgresql://me:{SECRET}@localhost/verbatim"
    variables = {"DATABASE_URL": url, **JWT, "VERBATIM_JWT_JWKS_FILE": "", "VERBATIM_JWT_JWKS_URL": "https://gate/keys"}
    message = refusal(**variables | {variable_of(field): value})
    assert message.startswith(f"{variable_of(field)}: ")
    assert "\n" not in message
    assert SECRET not in message


@pytest.mark.parametrize("name", ["DATABASE_URL", "VERBATIM_MIGRATION_DATABASE_URL"])
@pytest.mark.parametrize(
    "value",
    [
        f"mysql://me:{SECRET}@localhost/verbatim",
        f"me:{SECRET}@localhost",
        f"postgresql://me:{SECRET}@localhost:99999/verbatim",
        f"postgresql://me:{SECRET}@far.example/verbatim?sslmode=disable",
        f"postgresql://me:{SECRET}@localhost/verbatim?passwort={SECRET}",
        f"postgresql://me:{SECRET}\n@localhost/verbatim",
        f"postgresql://me:{SECRET}%zz%00@localhost/verbatim",
    ],
)
def test_a_bad_database_url_is_not_shown(name: str, value: str) -> None:
    message = refusal(**{name: value})
    assert message.startswith(f"{name}: ")
    assert SECRET not in message
    assert "\n" not in message


def test_a_password_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    variables = {"DATABASE_URL": "postgresql://localhost/verbatim", "VERBATIM_DATABASE_PASSWORD_FILE": str(tmp_path)}
    assert refusal(**variables) == "VERBATIM_DATABASE_PASSWORD_FILE cannot be read: Is a directory"


def test_a_message_may_not_be_larger_than_a_body() -> None:
    message = refusal(VERBATIM_BODY_LIMIT_BYTES="2048", VERBATIM_MESSAGE_LIMIT_BYTES="2049")
    assert message == "VERBATIM_MESSAGE_LIMIT_BYTES must not exceed VERBATIM_BODY_LIMIT_BYTES"


# What is read


def test_an_empty_variable_is_an_unset_one() -> None:
    assert read_settings({variable_of(field): "" for field in DEFAULTS}) == Settings()


def test_text_becomes_what_the_setting_is() -> None:
    settings = read_settings(
        {
            "VERBATIM_PORT": "0",
            "VERBATIM_ALLOW_UNVERIFIED_DATABASE": "true",
            "VERBATIM_DATA_DIR": "/data",
            "VERBATIM_ACQUIRE_TIMEOUT_SECONDS": "0.5",
            "VERBATIM_HOST": "::",
        }
    )
    assert (settings.port, settings.allow_unverified_database, settings.data_dir) == (0, True, Path("/data"))
    assert (settings.acquire_timeout_seconds, settings.host) == (0.5, "::")


def test_a_password_from_a_file_takes_the_place_of_the_url_s(tmp_path: Path) -> None:
    (tmp_path / "password").write_text(f"{SECRET}\n")
    url = read_settings(
        {"DATABASE_URL": "postgresql://me@localhost/a", "VERBATIM_DATABASE_PASSWORD_FILE": str(tmp_path / "password")}
    ).parsed_database_url()
    assert url
    assert url.password == SECRET


def test_migrations_go_to_the_same_database_unless_told() -> None:
    one, other = "postgresql://localhost/one", "postgresql://localhost/other"
    assert str(read_settings({"DATABASE_URL": one}).parsed_migration_url()) == "localhost:5432/one"
    told = read_settings({"DATABASE_URL": one, "VERBATIM_MIGRATION_DATABASE_URL": other})
    assert str(told.parsed_migration_url()) == "localhost:5432/other"
    assert read_settings({}).parsed_migration_url() is None


def test_a_pooled_database_is_that_of_requests_not_of_migrations() -> None:
    pooled, direct = "postgresql://localhost:6432/one?pgbouncer=true", "postgresql://localhost/one"
    variables = {"DATABASE_URL": "postgresql://localhost:6432/one", "VERBATIM_POOLED_DATABASE": "true"}
    for told in (variables, {"DATABASE_URL": pooled}):
        settings = read_settings(told | {"VERBATIM_MIGRATION_DATABASE_URL": direct})
        url, migration_url = settings.parsed_database_url(), settings.parsed_migration_url()
        assert url
        assert migration_url
        assert (url.pooled, migration_url.pooled) == (True, False)
        alone = read_settings(told).parsed_migration_url()
        assert alone
        assert alone.pooled  # which `migrate` refuses


def test_a_setting_that_a_pooler_would_lose_is_refused() -> None:
    url = f"postgresql://app:{SECRET}@localhost:6432/one?search_path=sales"
    with pytest.raises(SettingsError, match=r"^DATABASE_URL: .* ALTER ROLE") as caught:
        read_settings({"DATABASE_URL": url, "VERBATIM_POOLED_DATABASE": "true"})
    assert SECRET not in str(caught.value)


# JWT


def test_jwt_settings_that_go_together_are_accepted() -> None:
    assert read_settings(JWT).jwt_jwks_file == Path("keys")


@pytest.mark.parametrize("name", sorted(JWT))
def test_a_jwt_setting_alone_is_refused(name: str) -> None:
    assert refusal(**{name: JWT[name]}).startswith("VERBATIM_JWT_ISSUER ")


@pytest.mark.parametrize("name", sorted(JWT))
def test_a_jwt_setting_that_is_missing_is_named(name: str) -> None:
    assert name in refusal(**JWT | {name: ""})


def test_keys_come_from_one_place() -> None:
    assert "one of VERBATIM_JWT_JWKS_FILE" in refusal(**JWT, VERBATIM_JWT_JWKS_URL="https://gate/keys")


def test_keys_come_by_http() -> None:
    variables = JWT | {"VERBATIM_JWT_JWKS_FILE": "", "VERBATIM_JWT_JWKS_URL": "gate/keys"}
    assert refusal(**variables).startswith("VERBATIM_JWT_JWKS_URL: ")


def test_every_algorithm_of_the_verifier_can_be_let_in() -> None:
    assert read_settings({"VERBATIM_JWT_ALGORITHMS": ", ".join(ALGORITHMS)})


@pytest.mark.parametrize("value", ["none", "HS256", "RS256,HS256", "RS256,", ",", "RS256 ES256", "rs256"])
def test_no_other_algorithm_can(value: str) -> None:
    assert refusal(VERBATIM_JWT_ALGORITHMS=value).startswith("VERBATIM_JWT_ALGORITHMS: ")
