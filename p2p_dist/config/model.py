"""Models by name: their files, the identity of their weights, and the shape that planning needs."""

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, ValidationError, model_validator

from p2p_dist import assets, registry
from p2p_dist.config import yaml_strict
from p2p_dist.config.families import text_config
from p2p_dist.config.identity import canonical
from p2p_dist.config.study import Strict, as_tuple
from p2p_dist.errors import user_error
from p2p_dist.model_files.digest import file_sha256, folder_digest
from p2p_dist.model_files.hub import config_file

_COMMIT = re.compile(r"^[0-9a-f]{40}$")
_HUB_ID = re.compile(r"^[\w.-]+/[\w.-]+$")

Count = Annotated[int, Field(ge=1)]


Architecture = Literal["llama", "qwen3", "mistral", "gemma3", "gpt_oss", "qwen2_5_vl"]
"""Families whose blocks are known well enough to plan their memory and to build them with random weights."""
_FAMILIES: dict[str, Architecture] = {
    "llama": "llama",
    "mistral": "mistral",
    "ministral": "mistral",
    "qwen2": "llama",
    "qwen3": "qwen3",
    "gemma3_text": "gemma3",
    "gpt_oss": "gpt_oss",
    "qwen2_5_vl": "qwen2_5_vl",
}
"""Architecture by `model_type`; Qwen2's blocks are Llama's with three biases."""


class VisionShape(Strict):
    """The shape of a vision tower."""

    layers: Count
    hidden: Count
    intermediate: Count
    heads: Count

    def parameters(self, out: int) -> int:
        """Number of all weights but norms and biases, for features of `out` numbers: patches of 3 x 2 x 14 x 14,
        blocks, and the merger of 2 x 2 patches."""
        block = 4 * self.hidden**2 + 3 * self.hidden * self.intermediate
        merged = 4 * self.hidden
        return 1176 * self.hidden + self.layers * block + merged * (merged + out)


class ShapeSpec(Strict):
    """A decoder's shape, from which memory is planned and random weights are built."""

    architecture: Architecture
    layers: Count
    hidden: Count
    intermediate: Count
    heads: Count
    kv_heads: Count
    head_dim: Count
    vocab: Count
    tied_embeddings: bool = False
    experts: Count | None = None
    """Experts of a block, in place of one feed-forward layer; they are no linear layers and get no adapters."""
    active_experts: Count | None = None
    """Experts that a token goes through."""
    vision: VisionShape | None = None
    """The tower that reads images."""

    @model_validator(mode="after")
    def _tower_fits(self) -> Self:
        if (self.vision is not None) != (self.architecture == "qwen2_5_vl"):
            raise ValueError("architecture qwen2_5_vl, and no other, has a vision tower (shape.vision)")
        if self.vision is not None and self.hidden != self.heads * self.head_dim:
            raise ValueError("heads of qwen2_5_vl are hidden / heads wide")
        return self

    @property
    def linear_parameters(self) -> int:
        """Number of weights in the linear layers of the blocks, without experts, embeddings and head."""
        attention = self.hidden * self.head_dim * (2 * self.heads + 2 * self.kv_heads)
        return self.layers * (attention + (0 if self.experts else 3 * self.hidden * self.intermediate))

    @property
    def parameters(self) -> int:
        """Number of all weights but the norms' and routers'."""
        experts = self.layers * (self.experts or 0) * 3 * self.hidden * self.intermediate
        tower = self.vision.parameters(self.hidden) if self.vision else 0
        embeddings = self.vocab * self.hidden * (1 if self.tied_embeddings else 2)
        return self.linear_parameters + experts + embeddings + tower

    def identity(self) -> dict[str, Any]:
        """The shape as it stands in ids; fields that came later are left out where they are not set."""
        return self.model_dump(exclude_none=True)


class ModelFile(Strict):
    """One file of `configs/models`."""

    description: str
    source: Literal["embedded", "hub", "random"]
    ref: str = ""
    """Asset name or hub id."""
    revision: Annotated[str, Field(pattern=_COMMIT.pattern)] | None = None
    """Commit on the hub."""
    licence: str
    shape: ShapeSpec


@dataclass(frozen=True)
class ModelRef:
    """A resolved model. `identity` goes into ids; `local` is its place on this machine."""

    name: str
    identity: Mapping[str, Any]
    local: Mapping[str, str] = field(default_factory=dict)
    shape: ShapeSpec | None = None


class ModelOptions(Strict):
    """A model with options of its own."""

    name: str
    """As where the model has no options: a known name, `random:NAME`, a hub id, a folder or a GGUF file."""
    allow_missing: Annotated[tuple[str, ...], BeforeValidator(as_tuple)] = ()
    """Patterns such as `lm_head.*`: weights of these names may be missing in the checkpoint, and are then drawn at
    random (always the same numbers), or may have no place in the architecture, and are then ignored."""
    add_bos_token: bool = False
    """Begin every prompt with the tokenizer's start token, as Llama and Gemma saw every text in pretraining."""


def with_options(model: ModelRef, options: ModelOptions) -> ModelRef:
    """The model with options in its identity, where they are set. Raises UserError E107 for a model without files."""
    changes: dict[str, Any] = {"allow_missing": sorted(set(options.allow_missing))} if options.allow_missing else {}
    changes |= {"add_bos_token": True} if options.add_bos_token else {}
    if changes and model.identity["source"] == "random":
        what = f"{', '.join(changes)}: random models have neither a checkpoint nor a start token"
        raise user_error("E107", what, "model", "remove the option, or name a saved model")
    return replace(model, identity={**model.identity, **changes})


def with_distinct_names(models: Sequence[ModelRef]) -> tuple[ModelRef, ...]:
    """The models, with options or digest in the names of different ones that would be called the same."""
    names = Counter(model.name for model in {canonical(model.identity): model for model in models}.values())
    return tuple(replace(model, name=_long_name(model)) if names[model.name] > 1 else model for model in models)


def _long_name(model: ModelRef) -> str:
    options = [f"{key}={model.identity[key]}" for key in ("allow_missing", "add_bos_token") if key in model.identity]
    digest = str(model.identity.get("sha256") or model.identity.get("revision") or "")[:6]
    return f"{model.name}({', '.join(filter(None, [digest, *options]))})" if digest or options else model.name


def resolve_model(value: Any, folder: Path) -> ModelRef:
    """Resolve a model: a file name in `configs/models`, `random:NAME`, hub id (`org/name`), folder or GGUF file. A hub
    id and a file of a hub model may be followed by `@commit`. Raises UserError E103, E115 or E117."""
    if not isinstance(value, str):
        raise user_error(
            "E103", f"got {value!r}, expected the name of a model", "model", "name one of `p2p-dist list models`"
        )
    name, _, revision = value.partition("@")
    random = name.removeprefix("random:")
    if random != name or (folder / f"{name}.yaml").is_file():
        return _from_file(name, read_model(random, folder), random=random != name, commit=revision)
    path = Path(value).expanduser()
    if path.suffix == ".gguf" and path.is_file():
        return ModelRef(path.stem, {"source": "gguf", "sha256": file_sha256(path)[:12]}, {"path": str(path.resolve())})
    if path.is_dir():
        identity = {"source": "folder", "sha256": folder_digest(path)}
        return ModelRef(path.name, identity, {"path": str(path.resolve())}, _shape_of(path / "config.json"))
    if _HUB_ID.match(name):
        return _from_hub(name, revision, folder)
    known = model_names(folder)
    fix = f"name one of {', '.join(known)}; random:NAME; a hub id; or an existing folder or .gguf file"
    raise user_error("E117", f"unknown model {value!r}{registry.suggest(value, known)}", "model", fix)


def model_names(folder: Path) -> list[str]:
    """Names of the model files."""
    return sorted(path.stem for path in folder.glob("*.yaml"))


def read_model(name: str, folder: Path) -> ModelFile:
    """One model file. Raises UserError."""
    if name not in model_names(folder):
        raise registry.unknown("models", name, model_names(folder))
    document = yaml_strict.read(folder / f"{name}.yaml")
    try:
        return ModelFile.model_validate(document.data)
    except ValidationError as error:
        first = error.errors()[0]
        fix = "correct it as in the other files of the folder"
        raise user_error("E107", first["msg"], document.where(first["loc"]), fix) from error


def _from_file(name: str, file: ModelFile, random: bool, commit: str) -> ModelRef:
    if commit and (random or file.source != "hub"):
        raise user_error("E115", f"{name} has no commits: its weights are not on the hub", "model", f"write {name}")
    if random or file.source == "random":
        return ModelRef(name, {"source": "random", "shape": file.shape.identity()}, shape=file.shape)
    if file.source == "embedded":
        identity = {"source": "embedded", "sha256": assets.ASSETS[file.ref].sha256[:12]}
        return ModelRef(name, identity, {"asset": file.ref}, file.shape)
    revision = _commit(commit) if commit else file.revision
    return ModelRef(name, {"source": "hub", "ref": file.ref, "revision": revision}, shape=file.shape)


def _from_hub(name: str, revision: str, folder: Path) -> ModelRef:
    """A model of the hub. A model file with the same id gives the pinned commit."""
    files = [file for known in model_names(folder) if (file := read_model(known, folder)).ref == name]
    shape = files[0].shape if files else None
    commit = revision or (files[0].revision if files else None)
    if commit is None:
        raise user_error(
            "E115",
            f"{name} is not pinned to a commit",
            "model",
            f"write {name}@<40-digit commit>, so that the name always means the same weights",
        )
    _commit(commit)
    shape = shape or _shape_of(config_file(name, commit))
    return ModelRef(name, {"source": "hub", "ref": name, "revision": commit}, shape=shape)


def _commit(text: str) -> str:
    """A commit of the hub. Raises UserError E115 for another text."""
    if not _COMMIT.match(text):
        fix = "give the 40 hex digits that the hub's history page shows"
        raise user_error("E115", f"{text!r} is not a commit", "model", fix)
    return text


def _shape_of(config: Path | None) -> ShapeSpec | None:
    """The shape in a `config.json`; None where it is not on this machine, or of an unknown family."""
    if config is None:
        return None
    try:
        return shape_of_config(json.loads(config.read_bytes()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, ArithmeticError, RecursionError):
        return None  # a damaged file: loading the model says what is wrong with it


def shape_of_config(settings: Mapping[str, Any]) -> ShapeSpec | None:
    """The shape that a configuration of transformers describes; None for a family whose blocks are not known.

    Raises KeyError, TypeError and ValueError for one that is damaged.
    """
    architecture = _FAMILIES.get(str(settings.get("model_type")))
    if architecture is None:
        return None
    tower = settings.get("vision_config") if architecture == "qwen2_5_vl" else None
    tied = settings.get("tie_word_embeddings", architecture == "gemma3")
    settings = text_config(settings)
    heads = settings["num_attention_heads"]
    return ShapeSpec(
        architecture=architecture,
        layers=settings["num_hidden_layers"],
        hidden=settings["hidden_size"],
        intermediate=settings["intermediate_size"],
        heads=heads,
        kv_heads=settings.get("num_key_value_heads") or heads,
        head_dim=settings.get("head_dim") or settings["hidden_size"] // heads,
        vocab=settings["vocab_size"],
        tied_embeddings=tied,
        experts=settings.get("num_local_experts") if architecture == "gpt_oss" else None,
        active_experts=settings.get("num_experts_per_tok") if architecture == "gpt_oss" else None,
        vision=None if tower is None else _tower_of_config(tower),
    )


def _tower_of_config(settings: Mapping[str, Any]) -> VisionShape:
    """The shape of the tower in a configuration of transformers, which leaves out what all published models share."""
    return VisionShape(
        layers=settings.get("depth", 32),
        hidden=settings["hidden_size"],
        intermediate=settings.get("intermediate_size", 3420),
        heads=settings.get("num_heads", 16),
    )
