"""Training curves: the loss of every training, by defense, so that a run that went wrong stands out."""

from collections.abc import Sequence
from dataclasses import replace

from p2p_dist.report.plots import short_labels, style
from p2p_dist.report.plots.style import Plot
from p2p_dist.report.study_data import StudyData
from p2p_dist.results.collect import RunState

MOST = 120


def draw(study_data: StudyData) -> list[Plot]:
    """One picture of at most MOST trainings, none when no step was logged."""
    first: dict[str, RunState] = {}
    for run in study_data.collected.runs:
        if id_ := run.ids.get("train"):
            first.setdefault(id_, run)
    curves = [(run, curve) for id_, run in list(first.items())[:MOST] if (curve := _curve(study_data, id_))]
    return [_picture(study_data, curves, len(first))] if curves else []


def _curve(study_data: StudyData, id_: str) -> list[tuple[float, float]]:
    """(share of the training, loss) of every step that has a loss."""
    lines = study_data.metrics(id_)
    return [
        (line["step"] / line["steps"], line["loss"])
        for line in lines
        if line.get("loss") is not None and line.get("steps")
    ]


def _picture(
    study_data: StudyData, curves: Sequence[tuple[RunState, Sequence[tuple[float, float]]]], total: int
) -> Plot:
    models = list(dict.fromkeys(run.cell["model"] for run, _ in curves))[:4]
    figure, axes = style.figure(2.2, columns=len(models), sharey=True, squeeze=False)
    tones = {
        defense: replace(tone, dash="-") for defense, tone in study_data.tones.items()
    }  # noise in dashes is a cloud
    for axis, model in zip(axes[0], models, strict=True):
        for run, curve in (pair for pair in curves if pair[0].cell["model"] == model):
            tone = tones[run.cell["defense"]]
            axis.plot(
                [100 * progress for progress, _ in curve],
                [loss for _, loss in curve],
                color=tone.colour,
                linestyle=tone.dash,
                linewidth=0.9,
                alpha=0.75,
            )
        style.tidy(axis)
        style.headed(axis, model)
        axis.set_xlabel("percent of training")
    drawn = dict.fromkeys(run.cell["defense"] for run, _ in curves if run.cell["model"] in models)
    style.legend(figure, {name: tones[defense] for defense, name in short_labels.briefs(drawn).items()})
    axes[0, 0].set_ylabel("loss of the answer")
    axes[0, 0].set_ylim(bottom=0)
    shown = "" if len(curves) >= total else f" ({len(curves)} of {total} trainings)"
    words = "; ".join(
        f"{', '.join(run.cell.values())}: {curve[0][1]:.3f} to {curve[-1][1]:.3f}" for run, curve in curves[:40]
    )
    return Plot("loss", f"Loss of every training{shown}", words, figure)
