"""pyproject.toml declares what the product imports, and nothing else."""

import ast
import functools
import re
import sys
import tomllib
from importlib.metadata import packages_distributions
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PRODUCT = sorted((ROOT / "p2p_dist").rglob("*.py"))
FOR_DEVELOPERS = {"bench", "dev"}
NOT_INSTALLED = {"mlflow": "mlflow-skinny", "trackio": "trackio", "wandb": "wandb"}
"""Import names of optional packages that the test environment may lack, with their distributions."""
THROUGH_TRANSFORMERS = {"accelerate": "integrations/accelerate.py", "gguf": "modeling_gguf_pytorch_utils.py"}
"""Packages that the product uses through an option of transformers, with the module there that imports them."""
THROUGH_MLFLOW = {"alembic", "sqlalchemy"}
"""What the mirror of mlflow stores its runs with; mlflow-skinny leaves both out."""
OPTIONS = {"accelerate": "device_map", "gguf": "gguf_file"}


def distribution(requirement: str) -> str:
    name = re.match(r"[A-Za-z0-9._-]+", requirement)
    assert name is not None
    return re.sub(r"[-_.]+", "-", name[0]).lower()


@functools.cache
def nodes_of(path: Path) -> list[ast.AST]:
    return list(ast.walk(ast.parse(path.read_text())))


def imported(path: Path) -> set[str]:
    """Top-level names of everything that a file imports, lazily or not."""
    names: set[str] = set()
    for node in nodes_of(path):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names.add(node.module.partition(".")[0])
    return names


def imported_distributions() -> set[str]:
    modules = set().union(*map(imported, PRODUCT))
    modules -= {"p2p_dist", *sys.stdlib_module_names}
    known = packages_distributions()
    return {distribution(known.get(name, [NOT_INSTALLED.get(name, name)])[0]) for name in modules}


def declared() -> set[str]:
    """Distributions of the dependencies and of the extras that are for users."""
    extras = PROJECT["optional-dependencies"]
    lists = [PROJECT["dependencies"], *(extras[name] for name in extras if name not in FOR_DEVELOPERS)]
    return {distribution(requirement) for requirements in lists for requirement in requirements}


def test_dependencies_imported_by_the_product_are_declared() -> None:
    assert imported_distributions() - declared() == set()


def test_dependencies_declared_are_imported_by_the_product() -> None:
    assert declared() - imported_distributions() == THROUGH_TRANSFORMERS.keys() | THROUGH_MLFLOW


@pytest.mark.parametrize("name", THROUGH_TRANSFORMERS)
def test_dependencies_through_transformers_are_used(name: str) -> None:
    """Transformers imports the package, and the product sets the option that needs it."""
    spec = find_spec("transformers")
    assert spec is not None
    assert spec.origin is not None
    assert name in imported(Path(spec.origin).parent / THROUGH_TRANSFORMERS[name])
    nodes = [node for path in PRODUCT for node in nodes_of(path)]
    options = {node.value for node in nodes if isinstance(node, ast.Constant)}
    options |= {node.arg for node in nodes if isinstance(node, ast.keyword)}
    assert OPTIONS[name] in options
