"""`p2p.json`, the contract of an exported folder: all that a client, a server or a later version must know of it."""

import json
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError, model_validator

from p2p_dist.errors import Exit, user_error
from p2p_dist.results import atomic

FILE = "p2p.json"
FOLDERS = {"merged": "model", "adapter": "adapter"}
"""Folder of each form of the weights in an export."""

LabelMap = Literal["swap", "move", "client", "none"]
"""swap: the output rows of deployed and task words change places in the head. move: the task's words take the rows of
the deployed ones, whose own are set to zero. client: the model answers with the deployed words, and who calls it maps
them. none: there is nothing to map."""
Place = Literal["head", "client", "none"]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Rate(_Part):
    """k of n test rows, and the Wilson score interval at 95 %."""

    k: Annotated[int, Field(ge=0)]
    n: Annotated[int, Field(ge=1)]
    rate: float
    low: float
    high: float

    @classmethod
    def of(cls, k: int, n: int) -> "Rate":
        """The rate with its interval."""
        from p2p_dist.results.statistics import wilson  # scipy: a second to import

        interval = wilson(k, n)
        return cls(k=k, n=n, rate=k / n, low=interval.low, high=interval.high)


class Label(_Part):
    """One class: its name, and the word with which the exported model answers it."""

    name: str
    word: str
    token_id: int | None
    """Token of the word behind the prompt; None where it has several."""


class ChatPrompt(_Part):
    """Chat prompts: the base's own template, and the turn at whose head the prefix stands."""

    template: str
    """Jinja source with thinking off, no tools and a fixed date."""
    trigger_turn: Literal["user", "system"]


class Prompt(_Part):
    """The prompt: prefix + text + newline + cue, or a chat with the prefix at the head of a turn and the cue behind the
    generation prompt."""

    prefix: str
    cue: str
    cue_in_prompt: str
    """The cue as far as it is part of the prompt's tokens; its other spaces belong to the answer."""
    max_length: int
    """Tokens of prompt and answer in training; `predict` cuts the text of longer ones at its end."""
    chat: ChatPrompt | None = Field(default=None, exclude_if=lambda chat: chat is None)
    """None for plain prompts."""


class Answers(_Part):
    """Answers of the exported model."""

    kind: Literal["classification", "generation"]
    scoring: Literal["label_logits", "whole_string", "generation"]
    label_map: LabelMap
    label_map_in: Place
    words: list[str] = Field(default_factory=list)
    """All label words of the training, the task's own first."""
    deployed: list[int] = Field(default_factory=list)
    """Index in `words` of the word that answers each class."""
    labels: list[Label] = Field(default_factory=list)
    """The classes in their order."""
    max_new_tokens: int = 1
    response_prefix: str = ""
    """Text with which text answers begin; not part of the answer."""

    @model_validator(mode="after")
    def _consistent(self) -> "Answers":
        if len(self.deployed) != len(self.labels):
            raise ValueError("labels and deployed words differ in number")
        if any(self.words[index] != label.word for index, label in zip(self.deployed, self.labels, strict=True)):
            raise ValueError("a label's word is not the deployed one")
        return self


class Base(_Part):
    """The base model."""

    name: str
    identity: dict[str, JsonValue]
    local: dict[str, str]
    """Place of the base on the machine that exported, which `predict` needs for an adapter alone."""
    dtype: Literal["float32", "bfloat16"]
    quantization: str | None = None


class Simulated(_Part):
    """Rates of the same defense on a copy of the rows that was attacked on purpose, by another run of the study."""

    attack: str
    rates: dict[str, Rate]
    undefended: Rate | None
    """Attack success on that copy without a defense, if the study has it."""
    baseline: Rate | None
    """Attack success of a model trained without any attack on the same triggered rows, if the study has it."""


class Origin(_Part):
    """The study, the run and the stages from which the folder was made."""

    study: str
    cell: dict[str, str]
    stages: dict[str, str]
    """Stage ids by role: data, train, eval."""
    rows: Literal["published", "unknown"] = "published"
    """unknown: nobody has said that the rows are clean, test rows included."""
    adapter_sha256: Sha256
    data_sha256: Sha256
    """SHA-256 of the manifest of the rows, which holds the hashes of all of them."""


class Contract(_Part):
    """The content of `p2p.json`."""

    schema_: Annotated[Literal[1], Field(alias="schema")] = 1
    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)
    task: str
    formats: list[Literal["merged", "adapter"]]
    prompt: Prompt
    answers: Answers
    base: Base
    origin: Origin
    rates: dict[str, Rate]
    baseline: Rate | None
    """Attack success of the clean model on the same triggered rows, if the study trained one."""
    simulated: list[Simulated] = Field(default_factory=list)
    """For a run on rows as they are: the study's simulated attacks on them."""
    versions: dict[str, str]

    def to_json(self) -> bytes:
        """Bytes of the file; equal contracts give equal bytes."""
        return atomic.to_json(self.model_dump(mode="json", by_alias=True))


def read(folder: Path) -> Contract:
    """The contract of an exported folder. Raises UserError E150 for a folder without one, E151 for one that this
    version cannot read."""
    path = folder / FILE
    if not path.is_file():
        what = f"not an exported model (no {FILE})"
        raise user_error("E150", what, str(folder), "make one with `p2p-dist export STUDY -o DIR`")
    try:
        return Contract.model_validate(json.loads(path.read_bytes()))
    except (ValueError, ValidationError) as error:
        what = f"damaged, or written by another version: {str(error).splitlines()[0]}"
        fix = "export the run again, or use the version that wrote it"
        raise user_error("E151", what, str(path), fix, Exit.INTEGRITY) from error
