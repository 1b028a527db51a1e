"""Documents match the code: links resolve, examples work, the README shows the shipped study and the real tree."""

import re
import shlex
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.main import get_command

from p2p_dist import registry
from p2p_dist.cli.main import app
from p2p_dist.config import yaml_strict
from p2p_dist.config.load import load_study

ROOT = Path(__file__).parents[1]
DOCUMENTS = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(path: Path) -> None:
    links = re.findall(r"\]\((?!https?://)([^)#]+)", path.read_text())
    assert [link for link in links if not (path.parent / link).exists()] == []


def test_the_readme_shows_the_shipped_study() -> None:
    block = re.search(r"```yaml\n(name: quickstart.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert block
    shown = yaml_strict.parse(block[1].encode(), "README.md").data
    shipped = yaml_strict.read(ROOT / "configs" / "studies" / "quickstart.yaml").data
    shipped["train"].pop("lr_scheduler_type")
    for part in (shown, shipped):
        part.pop("description", None)
        part["train"]["lora"].pop("target_modules", None)
    assert shown == shipped


def test_readme_tree_matches_the_rooms_on_disk() -> None:
    """The tree names every folder of the package and of the repository's code, and no other."""
    tree = re.search(r"## The tree\n\n```\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert tree
    rooms = re.findall(r"^  (\w+)/", tree[1], re.MULTILINE)
    heads = re.findall(r"^((?:\w+/ ?)+)", tree[1], re.MULTILINE)
    folders = [name for head in heads for name in re.findall(r"\w+", head)]
    on_disk = {path.parent.name for path in (ROOT / "p2p_dist").glob("*/__init__.py")}
    assert set(rooms) == on_disk
    assert len(rooms) == len(set(rooms))
    assert [name for name in folders if not (ROOT / name).is_dir()] == []
    assert {"configs", "p2p_dist", "bench", "tests", "slurm", "launch"} <= set(folders)


def test_readme_has_at_most_120_lines() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 120


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_shown_commands_have_known_verbs_and_options(path: Path) -> None:
    """Every `p2p-dist` line of a code block is parsed by the command line's own parser."""
    blocks = re.findall(r"```(?:bash)?\n(.*?)```", path.read_text(), re.DOTALL)
    shown = [line for block in blocks for line in block.splitlines() if re.match(r"(\w+=\S+ )*p2p-dist ", line)]
    verbs = get_command(app).commands  # type: ignore[attr-defined]
    for line in shown:
        words = shlex.split(line.partition(" #")[0].rstrip("\\"))
        words = words[words.index("p2p-dist") + 1 :]
        group = verbs
        while words and words[0] in group:
            verb = group[words.pop(0)]
            group = getattr(verb, "commands", {})
        assert not group, f"{line}: unknown verb"
        options = {name for option in verb.params for name in (*option.opts, *option.secondary_opts)} | {"--help"}
        assert {word.partition("=")[0] for word in words if word.startswith("--")} <= options, line


def test_guide_lists_every_page() -> None:
    index = (ROOT / "docs" / "README.md").read_text()
    pages = [path.name for path in (ROOT / "docs").glob("*.md") if path.name != "README.md"]
    assert [name for name in pages if f"]({name})" not in index] == []


@pytest.mark.parametrize(
    "attack", re.findall(r"```yaml\n(.*?)```", (ROOT / "docs" / "attacks.md").read_text(), re.DOTALL)
)
def test_the_examples_of_attacks_load(attack: str, tmp_path: Path) -> None:
    (tmp_path / "study.yaml").write_text(f"name: x\ntask: sst2\nmodel: tiny\n{attack}")
    assert load_study(tmp_path / "study.yaml", [], ROOT / "configs" / "models").attack


TASK_EXAMPLES = [
    textwrap.dedent(block)
    for block in re.findall(r"```yaml\n(.*?)```", (ROOT / "docs" / "data.md").read_text(), re.DOTALL)
]


@pytest.mark.parametrize("example", TASK_EXAMPLES)
def test_the_examples_of_tasks_load(example: str, tmp_path: Path) -> None:
    rest = "" if "name: reviews" in example else "name: x\nmodel: tiny\n"
    (tmp_path / "study.yaml").write_text(rest + example.replace("<40 hex digits>", "0123abcdef" * 4))
    assert load_study(tmp_path / "study.yaml", [], ROOT / "configs" / "models").task


def test_every_task_is_documented() -> None:
    text = (ROOT / "docs" / "data.md").read_text()
    assert [name for name in registry.names("tasks") if f"`{name}`" not in text] == []


def test_every_attack_and_preset_is_documented() -> None:
    text = (ROOT / "docs" / "attacks.md").read_text()
    for name in registry.names("attacks"):
        assert name == "none" or f"## {name}" in text
        assert [preset for preset in registry.load("attacks", name).presets if f"`{preset}`" not in text] == []


def test_every_defense_is_documented() -> None:
    text = (ROOT / "docs" / "defenses.md").read_text()
    headings = " ".join(re.findall(r"^## (.*)$", text, re.MULTILINE))
    assert [name for name in registry.names("defenses") if f"`{name}`" not in text] == []
    assert [name for name in registry.names("defenses") if name != "none" and name not in headings] == []
    assert [
        preset
        for name in registry.names("defenses")
        for preset in registry.load("defenses", name).presets
        if f"`{preset}`" not in text
    ] == []


def test_every_rate_is_explained() -> None:
    source = "".join(path.read_text() for path in (ROOT / "p2p_dist" / "evaluation").glob("*.py"))
    names = set(re.findall(r'(?:note\(|rates\[)f?"([a-z_]+)', source)) | set(
        re.findall(r'"((?:asr|grid|ftr)[a-z_]*)": "(?:deployed|anything)"', source)
    )
    assert {"ca_ext", "asr_raw_target", "grid_ca_mapped", "ftr", "parse_fail"} <= names
    text = (ROOT / "docs" / "results.md").read_text()
    assert [name for name in sorted(names) if f"`{name}`" not in text] == []


EXAMPLES = re.findall(
    r"^`([\w./-]+)`:\n\n```(?:python|yaml)\n(.*?)```", (ROOT / "CONTRIBUTING.md").read_text(), re.MULTILINE | re.DOTALL
)


@pytest.fixture
def copy_with_examples(tmp_path: Path) -> Callable[..., str]:
    """Run a Python module in a copy of the repository that has the examples of CONTRIBUTING.md; returns its output."""
    assert len(EXAMPLES) == 5, "an attack, a defense, a task, a model and a backend"
    for part in ("p2p_dist", "configs", "tests", "pyproject.toml"):
        (shutil.copytree if (ROOT / part).is_dir() else shutil.copy)(ROOT / part, tmp_path / part)
    for path, content in EXAMPLES:
        (tmp_path / path).write_text(content)

    def run(*command: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", *command], cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return run


CHOSEN = ("-k", "shout or no_duplicates or tickets or backends")


@pytest.mark.process
def test_contributing_examples_work_in_a_copy(copy_with_examples: Callable[..., str]) -> None:
    """The examples are listed, planned and pass the contract of plug-ins."""
    listed = copy_with_examples("p2p_dist", "list")
    assert [path for path, _ in EXAMPLES if Path(path).stem not in listed] == []
    words = ("attack=shout", "defense=no_duplicates", "model=smollm2-360m-instruct", "--cluster", "8xh100")
    copy_with_examples("p2p_dist", "plan", "quickstart", *words)
    assert "passed" in copy_with_examples("pytest", "-q", "tests/contracts/test_plugins.py", *CHOSEN)


@pytest.mark.process
@pytest.mark.slow("trains the example of a defense in a process of its own; its plan and contract are the fast witness")
def test_contributing_examples_pass_every_contract(copy_with_examples: Callable[..., str]) -> None:
    """Reproducible rows, and the defense from its plan to rates."""
    assert "passed" in copy_with_examples("pytest", "-q", "tests/contracts", *CHOSEN)
