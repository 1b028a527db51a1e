"""A GCS that does not answer: waited for, then named."""

import socket

import pytest

from p2p_dist.errors import Exit, UserError
from p2p_dist.scheduling import ray_gcs
from p2p_dist.scheduling.ray_gcs import GcsMonitor


def test_a_store_that_stays_silent_ends_the_study(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_gcs, "SILENT_SECONDS", 0.7)
    with socket.create_server(("127.0.0.1", 0)) as server:
        monitor = GcsMonitor(f"127.0.0.1:{server.getsockname()[1]}")
        monitor.require()
    with pytest.raises(UserError, match="E417") as caught:
        monitor.require()
    assert caught.value.exit_code == Exit.REQUEUE


def test_a_store_that_comes_back_in_time_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_gcs, "PROBE_SECONDS", 0.0)
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = server.getsockname()
        monitor = GcsMonitor(f"127.0.0.1:{address[1]}")
        monitor.check()
    monitor.check()
    with socket.create_server(address):
        monitor.require()
