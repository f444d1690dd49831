"""What is installed is what was locked; what runs in the container is little and may do little."""

import json
import re
from pathlib import Path

import pytest

from app.server import GRACE_SECONDS
from app.settings import Settings

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize(
    "name", ["requirements.lock", "requirements-local.lock", "requirements-dev.lock", "tests/bench/baseline.lock"]
)
def test_every_requirement_is_locked_to_hashes(name: str) -> None:
    text = (ROOT / name).read_text()
    requirements = re.split(r"\n(?=\S)", text.strip())
    assert len(requirements) > 20
    for requirement in requirements:
        assert re.match(r"[a-z0-9._\[\]-]+==\S+", requirement), requirement
        assert re.search(r"--hash=sha256:[0-9a-f]{64}", requirement), requirement
    assert "://" not in text


def test_every_package_of_npm_is_locked_to_a_hash_and_to_no_address() -> None:
    lock = json.loads((ROOT / "tests" / "node" / "package-lock.json").read_text())
    packages = {name: package for name, package in lock["packages"].items() if name}
    assert {"node_modules/openai", "node_modules/@openai/agents"} <= packages.keys()
    for name, package in packages.items():
        assert package["integrity"].startswith("sha512-"), name
        assert "resolved" not in package, name


def test_all_that_installs_demands_the_hashes() -> None:
    for name in ("Makefile", "Dockerfile"):
        for line in (ROOT / name).read_text().splitlines():
            if "pip install" in line:
                assert "--require-hashes" in line or "--no-deps --no-build-isolation --editable ." in line, line
            if "/npm " in line:
                assert "/npm ci " in line or "--package-lock-only" in line, line


def test_the_container_is_an_ordinary_user_without_pip_on_a_read_only_file_system() -> None:
    *_, stage = re.split(r"^FROM ", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE)
    assert re.search(r"^USER 10001:10001$", stage, re.MULTILINE)
    assert "pip install" not in stage
    compose = (ROOT / "compose.yaml").read_text()
    shared = compose[compose.index("x-verbatim:") : compose.index("services:")]
    for line in ("read_only: true", "cap_drop: [ALL]", 'security_opt: ["no-new-privileges:true"]'):
        assert line in shared


def test_postgresqls_log_keeps_parameters_out() -> None:
    compose = (ROOT / "compose.yaml").read_text()
    for setting in ("log_parameter_max_length=0", "log_parameter_max_length_on_error=0", "log_error_verbosity=terse"):
        assert f"-c, {setting}" in compose


def test_there_is_time_to_stop_well() -> None:
    """The drain, what is in flight then, and the end of the pool."""
    verbatim, _ = (ROOT / "compose.yaml").read_text().split("\n  migrate:\n")
    (seconds,) = re.findall(r"stop_grace_period: (\d+)s", verbatim)
    assert int(seconds) >= Settings().drain_seconds + GRACE_SECONDS + 5
