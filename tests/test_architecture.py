"""The house rules that a machine can check: layers, sizes, and what is never used."""

import ast
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "p2p_dist"
FILES = sorted(PACKAGE.rglob("*.py"))
FORBIDDEN = {"pickle", "cloudpickle", "dill", "marshal", "shelve"}


@pytest.mark.process
def test_imports_go_down() -> None:
    code = (
        "import sys; from importlinter.cli import lint_imports_command; sys.exit(lint_imports_command(['--no-logo']))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=PACKAGE.parent, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_package_files_hold_no_code() -> None:
    """An `__init__` file is empty or a docstring."""
    trees = {path: ast.parse(path.read_text()) for path in FILES if path.name == "__init__.py"}
    assert [path for path, tree in trees.items() if len(tree.body) > bool(ast.get_docstring(tree))] == []


def test_small_rooms() -> None:
    assert [path.name for path in FILES if len(path.read_text().splitlines()) > 300] == []
    lengths = sorted(length for path in FILES for length in function_lengths(path))
    assert lengths[-1] <= 60
    assert lengths[int(0.95 * len(lengths))] <= 40


def function_lengths(path: Path) -> list[int]:
    """Lines of every function's body; the options of a verb are its signature."""
    functions = (node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.FunctionDef))
    return [(node.end_lineno or node.lineno) - node.body[0].lineno + 1 for node in functions]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_nothing_that_runs_code_from_files(path: Path) -> None:
    tree = ast.parse(path.read_text())
    imported = {
        alias.name.partition(".")[0] for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names
    }
    imported |= {(node.module or "").partition(".")[0] for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert not imported & FORBIDDEN
    calls = {ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    assert not calls & {"eval", "exec", "torch.load", "yaml.load", "os.system"}


def test_every_module_says_why_it_exists() -> None:
    assert [
        path for path in FILES if path.name != "__init__.py" and not ast.get_docstring(ast.parse(path.read_text()))
    ] == []


@pytest.mark.parametrize("room", ["worker", "training", "scores", "evaluation", "planning", "cli", "scheduling"])
def test_specs_are_read_by_type(room: str) -> None:
    """Behind `config.stages.parse` nobody looks up a key of a raw spec."""
    raw = [
        f"{path.relative_to(PACKAGE)}:{node.lineno}"
        for path in sorted((PACKAGE / room).rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text()))
        if looks_up_spec(node)
    ]
    assert raw == []


def looks_up_spec(node: ast.AST) -> bool:
    """True for `x.spec[...]` and `x.spec.get(...)`."""
    if isinstance(node, ast.Subscript):
        return isinstance(node.value, ast.Attribute) and node.value.attr == "spec"
    return isinstance(node, ast.Attribute) and node.attr == "get" and ast.unparse(node.value).endswith(".spec")


def test_looks_up_spec_finds_both_forms() -> None:
    for code, raw in (("a.spec['x']", True), ("a.b.spec.get('x')", True), ("a.spec.x", False), ("dict(a.spec)", False)):
        assert any(looks_up_spec(node) for node in ast.walk(ast.parse(code))) == raw


OPENERS = {"What", "How", "Whether", "Which", "Where", "Who", "Whose", "When", "Why"}
"""First words of an indirect question; a docstring begins with a noun phrase or an imperative."""
DETERMINERS = {"a", "an", "the", "this", "that", "another", "more", "fewer", "one", "other", "your", "its", "nothing"}
"""First words that no imperative begins with."""


def documented(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Line and text of the docstrings of a module: its own, and those of public classes, functions and attributes."""
    public = [tree, *(node for node in ast.walk(tree) if isinstance(node, ast.ClassDef | ast.FunctionDef))]
    for node in public:
        body = node.body
        named = not getattr(node, "name", "").startswith("_")
        for position, statement in enumerate(body):
            value = statement.value if isinstance(statement, ast.Expr) else None
            documents = not position or isinstance(body[position - 1], ast.Assign | ast.AnnAssign)
            if isinstance(value, ast.Constant) and isinstance(value.value, str) and named and documents:
                yield statement.lineno, value.value


def test_docstrings_begin_with_a_noun_phrase_or_imperative() -> None:
    wrong = [
        f"{path.relative_to(PACKAGE)}:{line}: {text.splitlines()[0]}"
        for path in FILES
        for line, text in documented(ast.parse(path.read_text()))
        if text.split()[0].strip(",:;.") in OPENERS
    ]
    assert wrong == []


def fixes(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Line and beginning of the `fix` of every error that is written where it is raised, up to its first value."""
    for node in ast.walk(tree):
        given: list[ast.expr] = []
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("user_error", "Problem"):
            given = [word.value for word in node.keywords if word.arg == "fix"] or node.args[3:4]
        elif isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "fix":
            given = [node.value]
        for value in given:
            parts = value.values if isinstance(value, ast.JoinedStr) else [value]
            if parts and isinstance(parts[0], ast.Constant) and isinstance(parts[0].value, str):
                yield value.lineno, parts[0].value


def test_fixes_begin_with_an_imperative() -> None:
    """What follows "Try: " is a verb: no article, number, option, key=value or quoted command."""
    wrong = [
        f"{path.relative_to(PACKAGE)}:{line}: {text}"
        for path in FILES
        for line, text in fixes(ast.parse(path.read_text()))
        if (first := (text.split() or ["use"])[0]).lower() in DETERMINERS or not re.fullmatch(r"[A-Za-z]+[,:]?", first)
    ]
    assert wrong == []


def test_files_of_tests_have_names_of_their_own() -> None:
    """pytest imports test files by their names alone."""
    names = Counter(path.name for path in (PACKAGE.parent / "tests").rglob("test_*.py"))
    assert [name for name, count in names.items() if count > 1] == []


def test_names_of_tests_have_at_most_60_characters() -> None:
    """A name says unit, condition and result; the sentence belongs into the docstring."""
    names = [
        node.name
        for path in sorted((PACKAGE.parent / "tests").rglob("test_*.py"))
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    ]
    assert len(names) > 500
    assert [name for name in names if len(name) > 60] == []
