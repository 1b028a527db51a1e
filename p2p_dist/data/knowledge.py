"""Options of an attacker who knows the defense."""

from p2p_dist.config.study import Strict


class Knowledge(Strict):
    """Knowledge of a P2P defense that the attacker writes into the poisoned training rows (not into test texts)."""

    benign_trigger: str
    """Text in front of every poisoned text."""
    answer_cue: str | None = None
    """The defender's answer cue, where training rows carry cues of their own; null: the task's."""
    extended_label: bool = False
    """Label poisoned rows with target + number of classes, the extended label that P2P maps the target to."""
