"""Faulty GPUs under Ray, which hands out every GPU that nobody holds: an actor holds each, and the others are given
back."""

import contextlib
import time
from collections.abc import Callable, Sequence
from typing import Any

from p2p_dist.scheduling.ray_node import on_node
from p2p_dist.scheduling.ray_placed import Placed

HOLD_SECONDS = 30.0
"""Longest time to get hold of the faulty GPUs of a node."""


def hold(ray: Any, node_actor: Any, placed: Placed, free: Callable[[Placed], None]) -> dict[str, Any]:
    """Take the faulty GPUs of an ended group out of use, and free all else that it had. Returns the holder of each GPU
    by its name; a GPU that somebody else got first has none."""
    devices = {actor: names for actor in placed.actors if (names := _ask(ray, actor.devices))}
    faulty = {actor: names for actor in devices if (names := _ask(ray, actor.faulty_devices))}
    if faulty and faulty == devices and placed.placement_group is None:
        return {name: actor for actor, names in faulty.items() for name in names}
    nodes = [(_ask(ray, actor.node), names) for actor, names in faulty.items()]
    free(placed)
    return {
        name: holder for node, names in nodes if node for name, holder in _take(ray, node_actor, node, names).items()
    }


def _ask(ray: Any, question: Any) -> Any:
    """An actor's answer; None if it or its node is dead."""
    with contextlib.suppress(ray.exceptions.RayError):
        return ray.get(question.remote())
    return None


def _take(ray: Any, node_actor: Any, node: str, wanted: Sequence[str]) -> dict[str, Any]:
    """Take GPUs of a node, which Ray chooses, until those that are wanted are among them, and give back the others."""
    taken: dict[str, Any] = {}
    deadline = time.monotonic() + HOLD_SECONDS
    while not taken.keys() >= set(wanted):
        actor = node_actor.options(num_cpus=0, num_gpus=1, scheduling_strategy=on_node(node)).remote()
        try:
            (name,) = ray.get(actor.devices.remote(), timeout=max(0.0, deadline - time.monotonic()))
        except ray.exceptions.RayError:  # no GPU in time, or the node is gone
            ray.kill(actor)
            break
        taken[name] = actor
    for name in taken.keys() - set(wanted):
        ray.kill(taken.pop(name))
    return taken
