"""A local Trackio project: `TRACKIO_DIR=FOLDER trackio show`."""

import os
from collections.abc import Mapping
from typing import ClassVar

from p2p_dist.results.mirror import Curve, Mirror


class Trackio(Mirror):
    """A run per run in a project named after the study."""

    package = "trackio"
    module = "trackio"
    environment: ClassVar[Mapping[str, str | None]] = dict.fromkeys(
        ("TRACKIO_SPACE_ID", "TRACKIO_SERVER_URL", "TRACKIO_BUCKET_ID", "TRACKIO_DATASET_ID", "TRACKIO_WEBHOOK_URL")
    )

    def write(self, curve: Curve) -> None:
        os.environ["TRACKIO_DIR"] = str(self.place.resolve())  # read when the package is imported
        import trackio

        run = trackio.init(
            project=self.study, name=curve.name, config=dict(curve.config), embed=False, auto_log_gpu=False
        )
        for step, values in curve.steps:
            run.log(values, step=step)
        if curve.rates:
            run.log(
                {f"rates/{key}": value for key, value in curve.rates.items()},
                step=curve.steps[-1][0] + 1 if curve.steps else 0,
            )
        trackio.finish()
