"""Event files for TensorBoard, a folder per run: `tensorboard --logdir FOLDER`."""

from p2p_dist.results.mirror import Curve, Mirror


class TensorBoard(Mirror):
    """Scalars by step; rates as `rates/NAME` at the last step."""

    package = "tensorboard"
    module = "tensorboard"

    def write(self, curve: Curve) -> None:
        from tensorboard.summary import Writer

        writer = Writer(str(self.place / curve.name))
        for step, values in curve.steps:
            for key, value in values.items():
                writer.add_scalar(key, value, step)
        last = curve.steps[-1][0] if curve.steps else 0
        for key, value in curve.rates.items():
            writer.add_scalar(f"rates/{key}", value, last)
        writer.close()
