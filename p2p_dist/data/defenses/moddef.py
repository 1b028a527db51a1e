"""ModDef, moderate fitting: too little capacity or time to learn the trigger (Zhu et al. 2022, arXiv 2210.03069; in the
P2P paper it "leverages low-rank adaptation")."""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from p2p_dist.config.builder import Builder, Training
from p2p_dist.config.graph import Stage
from p2p_dist.config.methods import Reparametrization
from p2p_dist.config.study import Positive
from p2p_dist.data.defense import Assumptions, Defense


class ModDef(Defense):
    """Two variants, the rest is the study's. plain: an adapter of rank 1, a small learning rate, one epoch. reparam:
    the settings of the released code, where two small nets generate all matrices of the adapter and are trained in its
    place."""

    default_assumptions: ClassVar[Assumptions] = Assumptions(
        source="arXiv 2210.03069; plain: in its spirit; reparam: the released LoRA of roberta-base, on every target "
        "layer"
    )

    variant: Literal["plain", "reparam"] = "plain"
    width: Annotated[int, Field(ge=1, le=64)] = 2
    """reparam: inputs and hidden units of each net."""
    r: Annotated[int, Field(ge=1)] | None = None
    """Rank; null: 1, and 8 for reparam."""
    learning_rate: Positive | None = None
    """null: 2e-5, and 3e-4 for reparam."""
    epochs: Annotated[int, Field(ge=1)] | None = None
    """null: 1, and 10 for reparam."""

    def stages(self, build: Builder, rows: Stage) -> Stage:
        generated = self.variant == "reparam"
        lora: dict[str, Any] = {"r": 8, "alpha": 16.0} if generated else {"r": 1}
        changes = {
            "learning_rate": self.learning_rate or (3e-4 if generated else 2e-5),
            "num_train_epochs": self.epochs or (10 if generated else 1),
            "lora": {**lora, **({"r": self.r} if self.r else {})},
        }
        nets = Reparametrization(width=self.width) if generated else None
        adapter = build.trained(rows, Training(changes=changes, reparametrized=nets))
        return build.evaluated(adapter, rows)
