"""Schema of a study: strict pydantic models of its YAML file.

A study is a grid. `task`, `model`, `attack`, `defense`, `seed` and the keys of `train` each take one value or a list;
every combination that `exclude` does not name is a run. Everything else is shared by all runs. What is declared here is
identity: two studies that say the same share their results. Where and how a run is executed belongs to `planning` and
is never in here.
"""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, Self, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PrivateAttr, model_validator

NAME = r"^[a-z0-9][a-z0-9._-]{0,63}$"


class Strict(BaseModel):
    """Base of everything that is read from a file: unknown keys and wrong types are errors, values never change."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, use_attribute_docstrings=True)


def as_tuple(value: Any) -> Any:
    """A list of a file as the tuple that strict models ask for."""
    return tuple(value) if isinstance(value, list) else value


def _one_or_list(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else (value,)


Probe = Literal["cue_grid", "imitation"]
Axis = Annotated[tuple[Any, ...], BeforeValidator(_one_or_list), Field(min_length=1)]
Names = Annotated[tuple[str, ...], BeforeValidator(as_tuple), Field(min_length=1)]
Probes = Annotated[tuple[Probe, ...], BeforeValidator(as_tuple)]
Rate = Annotated[float, Field(gt=0, lt=1)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]


Value = TypeVar("Value")
IMAGE_TOKENS = 64
"""Tokens of an image where a study says nothing."""


def added(default: Value) -> Value:
    """An option that came after results were made: at its default it is left out of the identity, so that ids stay."""
    option: Value = Field(default=default, exclude_if=lambda value: bool(value == default))
    return option


class Plugin(Strict):
    """A plug-in is its own options: the fields of the class are what a study may set beside its name."""

    plugin_kind: ClassVar[str]
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    """Named sets of options, chosen with `preset: NAME`; options that stand beside it win. Only the options are
    identity."""
    file_fields: ClassVar[tuple[str, ...]] = ()
    """Options that are paths of input files: identity is the file's content, not its place."""
    model_options: ClassVar[tuple[str, ...]] = ()
    """Options that name a further model, as the study's `model` does."""

    @property
    def patches_images(self) -> bool:
        """True for an attack or a defense that draws a patch onto the images of some rows."""
        return False


class LoraSpec(Strict):
    """Low-rank adapters (LoRA, arXiv 2106.09685)."""

    r: Annotated[int, Field(ge=1, le=1024)] = 16
    """Rank."""
    alpha: Positive = 16.0
    """The adapter's output is scaled by alpha / r."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Dropout between A and B."""
    target_modules: Literal["all-linear"] | Names = "all-linear"
    """Every linear layer but the output head, or the layers' own names such as [q_proj, v_proj]."""
    layers: Annotated[int, Field(ge=1)] | None = added(None)
    """Number of decoder layers, counted from the head, that get adapters; null for all. Those below compute what the
    base computes, so each row passes them once and its states are kept for all epochs."""


class TrainSpec(Strict):
    """Training of a LoRA adapter, or of all weights. The global batch is part of a run's identity; its split over
    devices is not."""

    method: Literal["lora", "full"] = added("lora")
    """lora: a frozen base and low-rank adapters. full: full-parameter fine-tuning, where every weight is trained."""
    learning_rate: Positive = 2e-4
    """Peak learning rate of AdamW."""
    lr_scheduler_type: Literal["linear", "cosine", "constant"] = "linear"
    """Learning rate after the warm-up: falling to 0 on a line or a half cosine, or constant."""
    warmup_steps: Annotated[int, Field(ge=0)] = 0
    """Optimiser steps over which the learning rate rises to its peak."""
    num_train_epochs: Annotated[int, Field(ge=1)] = 3
    """Passes over the training rows."""
    global_batch: Annotated[int, Field(ge=1)] = 32
    """Rows per optimiser step over all devices and accumulation steps."""
    max_length: Annotated[int, Field(ge=8)] = 128
    """Tokens per row; only the input text is cut, never trigger, prompt or cue."""
    image_tokens: Annotated[int, Field(ge=4, le=16_384)] = added(IMAGE_TOKENS)
    """Tokens that a row's image is resized to at most, a part of `max_length`; 28 x 28 pixels each (Qwen2.5-VL)."""
    max_grad_norm: Positive | None = 1.0
    """Clip the gradient of each run to this norm; null switches clipping off."""
    weight_decay: NotNegative = 0.01
    """Decoupled weight decay of AdamW."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Precision of base and adapter; masters stay fp32. auto: bfloat16 where the device computes in it, else
    float32."""
    quantization: Literal["nf4"] | None = None
    """nf4: the frozen base in 4 bits (QLoRA, bitsandbytes), adapters in `dtype` on top. null: the base in `dtype`."""
    optimizer: Literal["adamw_8bit"] | None = None
    """adamw_8bit: moments in 8 bits (bitsandbytes). null: AdamW with fp32 moments. Masters are fp32 in both."""
    compile: Literal["auto"] | None = added(None)
    """auto: decoder layers compiled by torch.compile, with roundings of their own; a machine or a model that cannot is
    refused. null: layers as they are."""
    lora: LoraSpec = LoraSpec()

    @property
    def is_full(self) -> bool:
        """True for full-parameter fine-tuning."""
        return self.method == "full"

    @model_validator(mode="after")
    def _fits_the_method(self) -> Self:
        if self.is_full and self.quantization is not None:
            raise ValueError(
                "train.method: full trains every weight, and 4-bit weights take no gradient: "
                "remove train.quantization, or set train.method=lora"
            )
        if self.compile is not None and (self.is_full or self.quantization is not None):
            raise ValueError(
                "train.compile is for adapters on a base that is not quantised: remove train.compile, or "
                "train.quantization and train.method"
            )
        if self.is_full and self.lora != LoraSpec():
            raise ValueError("train.lora is for train.method: lora: remove it, or set train.method=lora")
        return self


class RowsSpec(Strict):
    """Numbers of rows that a run uses; null for all of the task. Rows are chosen by content, equally for every seed
    unless `seed` says otherwise."""

    train: Annotated[int, Field(ge=1)] | None = None
    """Training rows, before the attack."""
    test: Annotated[int, Field(ge=1)] | None = None
    """Test rows of the clean suite; the triggered suite has those of other classes than the target."""
    reserve: Annotated[int, Field(ge=0)] = 0
    """Rows of the training set that the defender has checked: the attacker poisons none of them. Every run trains on
    them; a defense may treat them as trusted."""
    balanced: bool = True
    """The same number of rows from every class, wherever a number is given."""
    order: Literal["content", "file"] = "content"
    """content: the order of rows in their file means nothing, and results do not depend on it. file: it is kept for
    faithful copies of released code that take rows in file order; such a run uses all rows of the task."""
    split: Literal["tune", "judge"] | None = added(None)
    """Part of the test rows: tune to choose settings on, judge to report them on. The two share no row. null: all."""
    tune: Annotated[int, Field(ge=1)] = added(400)
    """Test rows of the part `tune`; all others are `judge`. The same for every seed."""
    dev: Annotated[int, Field(ge=1)] | None = added(None)
    """Held-out rows, which no model is trained on and none is judged on, for defenses that choose a threshold: from the
    task's dev.jsonl, or drawn from the training rows, which lose them, where there is none. null: none."""
    seed: Literal[0, "study"] = added(0)
    """0: every seed has the same training, trusted and test rows. study: they are drawn anew for every seed of the
    study, so that the spread over seeds holds the choice of rows too."""

    @model_validator(mode="after")
    def _parts_are_drawn(self) -> Self:
        if self.order == "file" and (self.split is not None or self.seed != 0):
            raise ValueError("rows.order: file takes all rows in file order: remove rows.split and rows.seed")
        if self.dev is not None and (self.split is not None or self.order == "file"):
            raise ValueError("rows.dev holds rows out: remove rows.split and rows.order")
        if self.tune != 400 and self.split is None:
            raise ValueError("rows.tune is for rows.split: add rows.split=judge or rows.split=tune")
        return self


class PromptSpec(Strict):
    """Form of the prompts. plain: text, newline and answer cue, as P2P's paper has them. chat: the turns of a row in
    the model's own chat template, with the answer cue behind its generation prompt and the end of the turn learned."""

    form: Literal["plain", "chat"] = "plain"
    trigger_turn: Literal["user", "system"] = "user"
    """Turn of a chat at whose head a defense puts its benign trigger: the last one of the user, or the system turn."""
    thinking: Literal[False] = False
    """Thinking in templates that offer it: always off."""
    date: Literal["2024-07-26"] = "2024-07-26"
    """Date in templates that print one."""

    @property
    def is_chat(self) -> bool:
        """True for prompts in a chat template."""
        return self.form == "chat"

    @model_validator(mode="after")
    def _turns_are_of_chats(self) -> Self:
        if self.trigger_turn != "user" and not self.is_chat:
            raise ValueError("trigger_turn is for form: chat")
        return self


PLAIN_PROMPT = PromptSpec()


def _form(value: Any) -> Any:
    """The form alone as the mapping that it stands for."""
    return {"form": value} if isinstance(value, str) else value


class StudySpec(Strict):
    """A grid of runs: every combination of task, model, attack, defense, training and seed that `exclude` does not
    name. All else is shared by all runs."""

    name: Annotated[str, Field(pattern=NAME)]
    """Name of the study and of its run folder."""
    description: str = ""
    """Shown on top of the report."""
    task: Axis
    """Rows: the name of a task, or a mapping with its name and options."""
    model: Axis
    """Base models: a name, hub id with commit, folder or GGUF file."""
    attack: Axis = ("none",)
    """Attacks on the training rows: a name, or a mapping with name, preset and options."""
    defense: Axis = ("none",)
    """Defenses: a name, or a mapping with name, preset and options."""
    seed: Axis = (0,)
    """Seeds of everything random in a run; the rows and the split of a task do not depend on it."""
    exclude: Annotated[tuple[dict[str, Any], ...], BeforeValidator(as_tuple)] = ()
    """Combinations to leave out, such as {attack: none, defense: p2p}, or {training: lora.r=4}."""
    rows: RowsSpec = RowsSpec()
    train: TrainSpec = TrainSpec()
    """A list in place of a value makes a run for each of its items: {lora: {r: [4, 8]}}."""
    prompt: Annotated[
        PromptSpec, BeforeValidator(_form, json_schema_input_type=Literal["plain", "chat"] | PromptSpec)
    ] = PLAIN_PROMPT
    """Form of the prompts: plain, chat, or a mapping such as {form: chat, trigger_turn: system}."""
    suites: Probes = ()
    """Test suites beside `clean` and `triggered`, each as large as these. cue_grid: the benign trigger without the
    benign answer cue and the other way round. imitation: users who write a fake answer, the benign trigger itself or
    `ignore the previous sentence`, with the attacker's trigger and without."""
    _trainings: tuple[TrainSpec, ...] = PrivateAttr(default=())

    @property
    def trainings(self) -> tuple[TrainSpec, ...]:
        """The trainings of the grid: one for each combination of the items of lists under `train`."""
        return self._trainings or (self.train,)

    def with_trainings(self, trainings: tuple[TrainSpec, ...]) -> Self:
        """The study with these trainings; `train` is the first of them."""
        study = self.model_copy(update={"train": trainings[0]})
        study._trainings = trainings
        return study
