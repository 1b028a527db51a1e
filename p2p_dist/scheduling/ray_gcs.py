"""The control store of a Ray cluster (GCS): whether it still answers. Without it nothing can be placed, and a minute
after its end Ray ends every process that knew it, this one included, without a word of ours; so we look ourselves and
leave before."""

import socket
import time

from p2p_dist.errors import Exit, user_error

LOOK_SECONDS = 2.0
SILENT_SECONDS = 25.0
"""How long it may be away: stores that are made to come back do so in less."""


class Store:
    """The store at `address`, HOST:PORT."""

    def __init__(self, address: str):
        self.address = address
        self._looked = time.monotonic()
        self._silent_since: float | None = None

    def check(self) -> None:
        """Look, now and then. Raises UserError E417 (exit code 75) when it has been silent for too long."""
        if time.monotonic() - self._looked > LOOK_SECONDS:
            self._look()

    def require(self) -> None:
        """Come back when it answers. Raises UserError E417."""
        while not self._look():
            time.sleep(0.5)

    def _look(self) -> bool:
        host, _, port = self.address.rpartition(":")
        self._looked = time.monotonic()
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=2.0).close()
        except OSError as error:
            self._silent_since = self._silent_since or self._looked
            if self._looked - self._silent_since > SILENT_SECONDS:
                what = f"Ray's control store has not answered for {SILENT_SECONDS:.0f} s: {error}"
                raise user_error(
                    "E417", what, self.address, "start the cluster again, then the same command goes on", Exit.REQUEUE
                ) from error
            return False
        self._silent_since = None
        return True
