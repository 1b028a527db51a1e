"""Submission by sbatch: a list of checked arguments and a constant script. tests/slurm hands it to a real one."""

import shlex
from collections.abc import Callable
from pathlib import Path

import pytest

from p2p_dist.errors import Exit
from p2p_dist.scheduling.study import shipped
from tests.cli.test_main import invoke

pytestmark = pytest.mark.usefixtures("with_data")


@pytest.fixture
def submit(study_file: Callable[[], Path], tmp_path: Path) -> Callable[..., tuple[int, str, str]]:
    """`p2p-dist submit slurm STUDY ...`: (exit code, output, error)."""
    return lambda *options: invoke("submit", "slurm", str(study_file()), *options, "--runs-dir", str(tmp_path / "runs"))


def call(submit: Callable[..., tuple[int, str, str]], *options: str) -> tuple[list[str], str]:
    """The words of the call that would be made, and the script."""
    code, said, error = submit(*options, "--dry-run")
    assert code == Exit.OK, error
    first, _, script = said.partition("\n\n")
    return shlex.split(first), script.rstrip("\n") + "\n"


def test_a_job_over_nodes(submit: Callable[..., tuple[int, str, str]], tmp_path: Path) -> None:
    asked = (
        "--nodes",
        "2",
        "--gpus-per-node",
        "8",
        "--partition",
        "gpu,big",
        "--time",
        "1-12:00:00",
        "--constraint",
        "h100&(nvlink|ib)",
    )
    words, script = call(submit, "train.lora={r: 8, alpha: 16}", *asked, "--run-option=--cohort=4")
    at = next(at for at, word in enumerate(words) if not word.startswith("-") and at)
    assert words[0] == "sbatch"
    assert {
        "--nodes=2",
        "--gpus-per-node=8",
        "--partition=gpu,big",
        "--time=1-12:00:00",
        "--constraint=h100&(nvlink|ib)",
    } < set(words[1:at])
    assert words[at:] == [
        str(shipped("slurm") / "study.sbatch"),
        str(tmp_path / "study.yaml"),
        "train.lora={r: 8, alpha: 16}",
        "--cohort=4",
        "--runs-dir",
        str(tmp_path / "runs"),
    ]
    assert script == (shipped("slurm") / "study.sbatch").read_text(), "nothing is written into the script"
    assert {"#SBATCH --requeue", "#SBATCH --open-mode=append", "#SBATCH --signal=B:USR1@300"} < set(script.splitlines())
    assert not (tmp_path / "runs").exists(), "nothing is made where nothing is submitted"


def test_an_array_of_tasks(submit: Callable[..., tuple[int, str, str]]) -> None:
    words, script = call(submit, "--tasks", "6", "--cpus-per-node", "4")
    assert {"--array=0-5", "--cpus-per-task=4", str(shipped("slurm") / "array.sbatch")} < set(words)
    assert not [word for word in words if word.startswith("--nodes")]
    assert script == (shipped("slurm") / "array.sbatch").read_text()


@pytest.mark.parametrize("gpus", ["8", "a100:8", "h100_80gb:1"])
def test_gpus_may_have_a_type(submit: Callable[..., tuple[int, str, str]], gpus: str) -> None:
    assert f"--gpus-per-node={gpus}" in call(submit, "--gpus-per-node", gpus)[0]


@pytest.mark.parametrize("gpus", ["a100", "a100:", ":8", "a100:8:2", "a 100:8", "8,b:2", "-1", "$(id):1"])
def test_gpus_that_are_no_number_are_refused(submit: Callable[..., tuple[int, str, str]], gpus: str) -> None:
    code, _, error = submit(f"--gpus-per-node={gpus}", "--dry-run")
    assert (code, "error[E130]" in error) == (Exit.USAGE, True), error


def test_sbatch_options_come_before_the_script(submit: Callable[..., tuple[int, str, str]]) -> None:
    words, script = call(submit, "--sbatch", 'comment=$(id) "x"', "--sbatch", "mem=64G", "--sbatch", "qos=high")
    at = next(at for at, word in enumerate(words) if word.endswith(".sbatch"))
    assert {'--comment=$(id) "x"', "--mem=64G", "--qos=high"} < set(words[:at])
    assert script == (shipped("slurm") / "study.sbatch").read_text()
    assert "error[E130]" in submit("--sbatch", "qos=a b", "--dry-run")[2], "as --qos is checked"
    assert "error[E134]" in submit("--sbatch", "qos=a", "--qos=b", "--dry-run")[2]


def test_setup_file_travels_as_an_argument(submit: Callable[..., tuple[int, str, str]], tmp_path: Path) -> None:
    setup = tmp_path / "my setup.sh"
    code, _, error = submit("--setup", str(setup), "--dry-run")
    assert (code, "error[E136]: Cannot read the setup file" in error) == (Exit.USAGE, True)
    setup.write_text("module load cuda\n")
    words, script = call(submit, "--setup", str(setup))
    at = next(at for at, word in enumerate(words) if word.endswith(".sbatch"))
    assert words[at + 1 : at + 4] == ["--setup", str(setup), str(tmp_path / "study.yaml")]
    assert "module load" not in script


def test_env_hands_over_names_and_no_values(
    submit: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    words, script = call(submit, "--env", "HF_TOKEN", "--env", "HF_TOKEN")
    (exported,) = [word.removeprefix("--export=").split(",") for word in words if word.startswith("--export=")]
    assert exported.count("HF_TOKEN") == 1
    assert "hf_secret" not in "".join([*words, script])
    assert "error[E137]" in submit("--env", "NOT_SET_HERE", "--dry-run")[2]


def test_tokens_stay_behind(submit: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.setenv("HF_HOME", "/shared/hub")
    words, _ = call(submit)
    (exported,) = [word.removeprefix("--export=").split(",") for word in words if word.startswith("--export=")]
    assert {"PATH", "HF_HOME"} <= set(exported)
    assert "HF_TOKEN" not in exported
    assert not [word for word in words if "secret" in word or "/shared/hub" in word], "names only"


@pytest.mark.parametrize("option", ["--partition", "--account", "--qos", "--constraint", "--time"])
@pytest.mark.parametrize(
    "value", ["", "a b", "gpu; id", "$(id)", "`id`", "--wrap=id", "gpu\n#SBATCH --uid=0", "gpu\n", "a" * 129, "gpu'"]
)
def test_what_is_no_name_and_no_time_is_refused(
    submit: Callable[..., tuple[int, str, str]], option: str, value: str
) -> None:
    code, _, error = submit(f"{option}={value}", "--dry-run")
    assert (code, "error[E130]" in error, f" at {option}" in error) == (Exit.USAGE, True, True), error


@pytest.mark.parametrize("value", ["tomorrow", "1:2:3:4", "1-2-3", "-5", "1:"])
def test_times_are_those_of_slurm(submit: Callable[..., tuple[int, str, str]], value: str) -> None:
    assert "error[E130]" in submit(f"--time={value}", "--dry-run")[2]


def test_without_slurm_it_says_so(
    submit: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    code, _, error = submit()
    assert (code, "error[E131]: no sbatch on the PATH" in error) == (Exit.USAGE, True)
