"""ModDef, moderate fitting: too little capacity or time to learn the trigger (Zhu et al. 2022, arXiv 2210.03069; P2P
paper, appendix B: "leverages low-rank adaptation")."""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from p2p_dist.config.builder import Builder, Training
from p2p_dist.config.graph import Stage
from p2p_dist.config.methods import Reparametrization
from p2p_dist.config.study import Positive
from p2p_dist.data.defense import Assumptions, Defense


class ModDef(Defense):
    """Train an adapter that can fit only moderately; all other settings are the study's."""

    default_assumptions: ClassVar[Assumptions] = Assumptions(
        source="arXiv 2210.03069; plain: in its spirit; reparam: the released LoRA of roberta-base, on every target "
        "layer"
    )

    variant: Literal["plain", "reparam"] = "plain"
    """plain: an adapter of rank 1, a small learning rate, one epoch. reparam: the settings of the released code, in
    which two small nets generate all matrices of the adapter and are trained in its place."""
    width: Annotated[int, Field(ge=1, le=64)] = 2
    """reparam: inputs and hidden units of each net."""
    r: Annotated[int, Field(ge=1)] | None = None
    """Rank; null: 1, and 8 for reparam."""
    learning_rate: Positive | None = None
    """null: 2e-5, and 3e-4 for reparam."""
    epochs: Annotated[int, Field(ge=1)] | None = None
    """null: 1, and 10 for reparam."""

    def stages(self, build: Builder, rows: Stage) -> Stage:
        training = self._reparametrized() if self.variant == "reparam" else self._plain()
        return build.evaluated(build.trained(rows, training), rows)

    def _plain(self) -> Training:
        return Training(changes=self._settings(learning_rate=2e-5, epochs=1, lora={"r": 1}))

    def _reparametrized(self) -> Training:
        changes = self._settings(learning_rate=3e-4, epochs=10, lora={"r": 8, "alpha": 16.0})
        return Training(changes=changes, reparametrized=Reparametrization(width=self.width))

    def _settings(self, learning_rate: float, epochs: int, lora: dict[str, Any]) -> dict[str, Any]:
        """Changes of the study's training: the options, or these defaults of a variant."""
        return {
            "learning_rate": self.learning_rate or learning_rate,
            "num_train_epochs": self.epochs or epochs,
            "lora": {**lora, **({"r": self.r} if self.r else {})},
        }
