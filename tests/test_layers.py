import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import app

APP_DIR = Path(app.__file__).parent
CONFIGURATION = APP_DIR.parent / "pyproject.toml"
CONTRACTS = tomllib.loads(CONFIGURATION.read_text())["tool"]["importlinter"]["contracts"]


def broken(configuration: Path) -> bool:
    """In a process of its own: the linter turns off every logger there is."""
    command = [Path(sys.executable).with_name("lint-imports"), "--config", configuration, "--no-cache"]
    return subprocess.run(command, cwd=APP_DIR.parent, capture_output=True, check=False).returncode != 0


def test_imports_go_downward() -> None:
    assert not broken(CONFIGURATION), "run `lint-imports`"


def test_every_module_has_its_layer() -> None:
    layers = next(contract for contract in CONTRACTS if contract["type"] == "layers")["layers"]
    placed = {name.strip() for layer in layers for name in layer.split("|")}
    modules = {
        f"app.{path.stem}" for path in APP_DIR.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()
    }
    assert modules - {"app.__init__"} == placed


@pytest.mark.parametrize(
    "contract",
    [
        'type = "layers"\nlayers = ["app.stores", "app.controllers"]',
        'type = "forbidden"\nsource_modules = ["app.problems"]\nforbidden_modules = ["litestar"]',
    ],
)
def test_an_import_that_goes_upward_is_caught(tmp_path: Path, contract: str) -> None:
    configuration = tmp_path / "pyproject.toml"
    head = '[tool.importlinter]\nroot_package = "app"\ninclude_external_packages = true\n\n'
    configuration.write_text(f'{head}[[tool.importlinter.contracts]]\nname = "planted"\n{contract}\n')
    assert broken(configuration)
