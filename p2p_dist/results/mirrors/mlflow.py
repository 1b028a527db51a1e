"""A local MLflow store: `mlflow ui --backend-store-uri sqlite:///FOLDER/mlflow.db`."""

from collections.abc import Mapping
from typing import ClassVar

from p2p_dist.results.mirror import Curve, Mirror


class MlFlow(Mirror):
    """A run per run in an experiment named after the study."""

    package = "mlflow-skinny sqlalchemy alembic"  # mlflow itself wants older libraries than this project
    module = "mlflow"
    environment: ClassVar[Mapping[str, str | None]] = {"MLFLOW_DISABLE_TELEMETRY": "true"}

    def write(self, curve: Curve) -> None:
        from mlflow.tracking import MlflowClient

        client = MlflowClient(tracking_uri=f"sqlite:///{self.place.resolve()}/mlflow.db")
        existing = client.get_experiment_by_name(self.study)
        experiment = (
            existing.experiment_id
            if existing
            else client.create_experiment(self.study, artifact_location=(self.place / "artifacts").resolve().as_uri())
        )
        run = client.create_run(experiment, run_name=curve.name, tags=dict(curve.config))
        for step, values in curve.steps:
            for key, value in values.items():
                client.log_metric(run.info.run_id, key, value, step=step)
        for key, value in curve.rates.items():
            client.log_metric(run.info.run_id, f"rates/{key}", value)
        client.set_terminated(run.info.run_id)
