"""Slots of a launch: a cluster file has to be like the machine at hand."""

import pytest

from p2p_dist.errors import UserError
from p2p_dist.planning.cluster import ClusterSpec
from p2p_dist.scheduling import execute
from p2p_dist.scheduling.execute import Launch

WHOLE = ClusterSpec(name="two", cpus_per_node=2, gpus_per_node=2)
SLICED = WHOLE.model_copy(update={"mig_slices": True})


def test_cluster_of_whole_gpus_is_refused_on_mig_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process sees one slice alone, whatever the file says of its GPUs."""
    monkeypatch.setattr(execute, "this_machine", lambda: SLICED)
    with pytest.raises(UserError, match=r"E416.*a process sees one alone.*Try: set mig_slices: true"):
        execute._slots(Launch("local", WHOLE))
    assert execute._slots(Launch("local", SLICED)) == 2
    monkeypatch.setattr(execute, "this_machine", lambda: WHOLE)
    assert execute._slots(Launch("local", WHOLE)) == 2
