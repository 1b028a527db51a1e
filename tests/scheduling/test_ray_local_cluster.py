"""Leftovers of private Ray instances: only this user's folders of dead processes are removed."""

import os
from pathlib import Path

from p2p_dist.scheduling import ray_local_cluster


def test_only_own_folders_of_dead_processes_are_removed(tmp_path: Path) -> None:
    dead, living = tmp_path / "p2p-ray-999999999-a", tmp_path / f"p2p-ray-{os.getpid()}-b"
    (dead / "r").mkdir(parents=True)
    living.mkdir()
    (tmp_path / "kept").mkdir()
    (tmp_path / "p2p-ray-999999998-x").symlink_to(tmp_path / "nowhere")
    (tmp_path / "p2p-ray-999999997-x").symlink_to(tmp_path / "kept")
    (tmp_path / "p2p-ray-999999996-x").write_text("")
    (tmp_path / "p2p-ray-no-number").mkdir()
    ray_local_cluster.clear_leftovers(tmp_path)
    assert not dead.exists()
    assert living.exists()
    assert len(list(tmp_path.iterdir())) == 6
