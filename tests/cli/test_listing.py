"""`p2p-dist list` and `p2p-dist schema`, and names that are nearly right."""

import json
from pathlib import Path

import pytest

from p2p_dist import registry
from p2p_dist.errors import Exit
from tests.cli.test_main import invoke

PLUGINS = [(kind, name) for kind in ("tasks", "attacks", "defenses") for name in registry.names(kind)]


def test_list_defense_shows_options_presets_and_needs() -> None:
    code, text, _ = invoke("list", "defenses", "p2p")
    assert code == Exit.OK
    assert "  ratio: number > 0, < 1, default 0.2\n      " in text
    assert "enign rows as a share of the training rows" in text
    assert '  benign_trigger: text, default "The query currently entered is: "' in text
    assert "preset paper:" in text
    assert "prompt_control=true" in text
    assert "  screening.rounds: 2 or null, default null" in text


def test_list_attack_shows_the_files_it_reads() -> None:
    fields = registry.load("attacks", "lws").file_fields
    assert fields
    assert f"Reads files:  {', '.join(fields)}" in invoke("list", "attacks", "lws")[1]


def test_list_task_shows_labels_and_licence() -> None:
    text = invoke("list", "tasks", "sst2")[1]
    assert "Classes:      negative, positive" in text
    assert "Licence:      none stated" in text


@pytest.mark.parametrize("kind", ["tasks", "attacks", "defenses"])
def test_list_kind_has_a_line_on_each(kind: str) -> None:
    code, text, _ = invoke("list", kind)
    assert code == Exit.OK
    assert [name for name in registry.names(kind) if f"\n{name}: " not in f"\n{text}"] == []
    assert all(len(line) <= 80 for line in text.splitlines())
    assert json.loads(invoke("list", kind, "--json")[1])[kind] == registry.names(kind)


def test_list_defenses_says_what_each_needs() -> None:
    text = " ".join(invoke("list", "defenses")[1].split())
    assert "Needs clean rows (ratio x training rows), a clean adapter; for labels and text." in text
    assert "Needs nothing; for labels." in text


def test_list_task_keeps_the_lines_of_its_example() -> None:
    text = invoke("list", "tasks", "sst2")[1]
    assert "\n    Output: " in text
    assert "\n2. " in invoke("list", "defenses", "onion")[1]


@pytest.mark.parametrize("part", ["study", "rows", "train"])
def test_list_part_of_a_study_shows_its_keys(part: str) -> None:
    code, text, _ = invoke("list", part)
    assert (code, text.startswith(f"keys of {part}\n")) == (Exit.OK, True)
    assert {"study": "rows.reserve", "rows": "reserve", "train": "lora.r"}[part] in text


def test_list_fits_80_columns() -> None:
    texts = [invoke("list", *words)[1] for words in ([], ["train"], ["rows"], ["study"], *PLUGINS)]
    assert [line for text in texts for line in text.splitlines() if len(line) > 80 and " " in line.strip()] == []


def test_list_study_shows_its_file_and_json_its_data() -> None:
    assert "name: quickstart" in invoke("list", "studies", "quickstart")[1]
    assert json.loads(invoke("list", "models", "tiny", "--json")[1])["shape"]["layers"] > 0


def test_list_json_has_what_the_text_has() -> None:
    described = json.loads(invoke("list", "attacks", "badnets", "--json")[1])
    assert described["presets"]["p2p"]
    assert {"name": "rate", "type": "number > 0, < 1", "default": "0.02"}.items() <= described["options"][0].items()


def test_schema_is_json_for_every_kind() -> None:
    for kind in ([], ["study"], ["model"], ["cluster"]):
        code, text, _ = invoke("schema", *kind)
        assert (code, json.loads(text)["type"]) == (Exit.OK, "object")
    assert "did you mean 'cluster'" in invoke("schema", "clusters")[2]


@pytest.mark.parametrize(
    ("words", "nearest"),
    [
        (["plan", "quickstrt"], "quickstart"),
        (["run", "quick_start"], "quickstart"),
        (["plan", "quickstart", "--cluster", "8xh10"], "8xh100"),
        (["plan", "quickstart", "model=qwen3-0.6"], "qwen3-0.6b"),
        (["list", "defenses", "p3p"], "p2p"),
        (["list", "models", "tny"], "tiny"),
        (["list", "studies", "scalng"], "scaling"),
    ],
)
def test_nearly_right_name_is_answered_with_the_nearest(words: list[str], nearest: str) -> None:
    code, _, error = invoke(*words)
    assert code == Exit.USAGE
    assert f"(did you mean {nearest!r}?)" in error
    assert "Try: " in error


@pytest.mark.parametrize("verb", [["status"], ["report"], ["compare", "mine"], ["mirror", "--to", "tensorboard"]])
def test_nearly_right_run_folder_is_answered_with_the_nearest(verb: list[str], tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    code, _, error = invoke(*verb[:1], "mne", *verb[1:], "--runs-dir", str(tmp_path))
    assert code == Exit.USAGE
    assert "error[E402]: study 'mne' has no run folder (did you mean 'mine'?)" in error
