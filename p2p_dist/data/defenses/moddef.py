"""ModDef, moderate fitting: too little capacity or time to learn the trigger (Zhu et al. 2022, arXiv 2210.03069; in the P2P
paper it "leverages low-rank adaptation")."""

from typing import Annotated, ClassVar

from pydantic import Field

from p2p_dist.data.defense import Defense, Needs
from p2p_dist.spec.graph import Builder, Stage
from p2p_dist.spec.study import Positive


class ModDef(Defense):
    """The plain variant: an adapter of rank 1, a small learning rate, one epoch. The rest is the study's."""

    needs: ClassVar[Needs] = Needs(source="arXiv 2210.03069, plain variant; the reparametrised one is not here")

    r: Annotated[int, Field(ge=1)] = 1
    """Rank."""
    learning_rate: Positive = 2e-5
    epochs: Annotated[int, Field(ge=1)] = 1

    def stages(self, build: Builder, rows: Stage) -> Stage:
        changes = {"learning_rate": self.learning_rate, "num_train_epochs": self.epochs, "lora": {"r": self.r}}
        return build.evaluated(build.trained(rows, changes=changes), rows)
