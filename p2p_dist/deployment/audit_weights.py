"""Scan of an adapter's weights from anywhere against clean adapters of the same base and shape; nothing is asked of a
model (`results.weight_features`)."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file

from p2p_dist.deployment import contract
from p2p_dist.errors import user_error
from p2p_dist.modeling.adapter_config import FILE, read_config
from p2p_dist.results import confined
from p2p_dist.results.collect import is_clean
from p2p_dist.results.folder_handles import Damaged
from p2p_dist.results.resolved import read_resolved
from p2p_dist.results.rundir import RunDir, is_run_folder
from p2p_dist.results.weight_features import LEAST_CLEAN, WeightFeatures, distance, rank_among
from p2p_dist.training.adapter_io import features_of_tensors

CAVEAT = (
    "learning rate, rows and steps change these numbers as well: compare with adapters that were trained alike; no "
    "evidence by itself"
)


@dataclass(frozen=True)
class WeightScan:
    """Distance of an adapter to clean ones, and the distance of each of those to the others."""

    adapter: float
    clean: Sequence[float]

    @property
    def p(self) -> float:
        """Share of the adapters, itself included, that are as far (permutation test)."""
        return rank_among(self.adapter, self.clean)

    @property
    def text(self) -> str:
        """The scan as a sentence."""
        return (
            f"weights: distance {self.adapter:.2f} to {len(self.clean)} clean adapters, which are "
            f"{min(self.clean):.2f} to {max(self.clean):.2f} from each other (p = {self.p:.2g}); {CAVEAT}"
        )


def scan(folder: Path, clean_folders: Sequence[Path]) -> WeightScan:
    """Scan an adapter, or that of an export. Clean adapters are those of the clean models of a study's run folder, or
    all below a folder.

    Raises UserError E170 where there is no adapter, for fewer than three clean ones and for adapters of another shape,
    and E285 or E307 as `read_config` does.
    """
    adapter = _features(_adapter_of(folder))
    clean = [_features(place) for place in clean_adapters(clean_folders)]
    if len(clean) < LEAST_CLEAN:
        what = f"{len(clean)} clean adapters to compare with; {LEAST_CLEAN} are needed"
        raise user_error("E170", what, "--clean-adapters", "train the clean model with three seeds or more")
    distances = [distance(one, [other for other in clean if other is not one]) for one in clean]
    measured = distance(adapter, clean)
    if measured is None or None in distances:
        what = "the adapters are of other layers, or their weights do not differ"
        raise user_error("E170", what, str(folder), "name clean adapters of the same base and settings")
    return WeightScan(measured.features, [one.features for one in distances if one is not None])


def clean_adapters(folders: Sequence[Path]) -> list[Path]:
    """Folders of the clean adapters below some folders; of a study's run folder, those of its clean models alone."""
    adapters: set[Path] = set()
    for folder in folders:
        if is_run_folder(folder):
            run = RunDir(folder)
            ids = {one["train"] for one in read_resolved(run)["runs"] if is_clean(one["cell"])}
            adapters |= {place for id_ in ids if (place := run.at("train", id_).adapter).is_dir()}
        else:
            adapters |= {path.parent for path in folder.rglob(FILE)}
    return sorted(adapters)


def _adapter_of(folder: Path) -> Path:
    for place in (folder / contract.FOLDERS["adapter"], folder):
        if (place / FILE).is_file():
            return place
    what = f"no adapter here (no {FILE}), and merged weights do not tell it apart from the base"
    raise user_error("E170", what, str(folder), "name a folder with an adapter, or leave out --clean-adapters")


def _features(folder: Path) -> WeightFeatures:
    path = folder / "adapter_model.safetensors"
    scale = read_config(folder).scale
    try:
        with confined.path_to_open_file(path) as file:
            tensors = load_file(file)
        return features_of_tensors(tensors, scale)
    except (OSError, KeyError, Damaged, SafetensorError) as error:
        what = f"cannot read the adapter's weights: {error}"
        raise user_error("E170", what, str(path), "download the adapter again") from error
