"""Run folders by what the user names: a study file, the name of a study, or the folder itself."""

from pathlib import Path
from typing import TYPE_CHECKING

from p2p_dist.errors import user_error

if TYPE_CHECKING:
    from p2p_dist.results.rundir import RunDir


def run_folder(name: str, runs_dir: Path) -> "RunDir":
    """The run folder of a study. Raises UserError E402, with the nearest names, where there is none."""
    from p2p_dist.results.rundir import RunDir, is_study_name

    if Path(name).is_dir():
        return RunDir(Path(name))
    from p2p_dist import registry  # not needed for a folder, and half a second of imports
    from p2p_dist.config import yaml_strict
    from p2p_dist.scheduling.study import configs_dir

    if not is_study_name(name) and not Path(name).is_file():
        what = f"{name!r} is no run folder and no name of a study"
        raise user_error("E402", what, str(runs_dir), "name a study, its file or its run folder")
    shipped = configs_dir() / "studies" / f"{name}.yaml"
    file = Path(name) if Path(name).is_file() else shipped
    study = str(yaml_strict.read(file).data.get("name", "")) if file.is_file() else name
    folder = runs_dir / study
    if not is_study_name(study) or not folder.is_dir():
        known = sorted(path.name for path in runs_dir.iterdir() if path.is_dir()) if runs_dir.is_dir() else []
        message = f"study {name!r} has no run folder{registry.suggest(name, known)}"
        runs = f"name one of {', '.join(known)}" if known else "run a study first"
        raise user_error("E402", message, str(runs_dir), f"{runs}, or set --runs-dir")
    return RunDir(folder)
