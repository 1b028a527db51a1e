"""Health check of the Ray GCS. When the GCS dies, Ray kills every client about 60 s later, without a message; the check
lets the controller exit cleanly first."""

import socket
import time

from p2p_dist.errors import Exit, user_error

PROBE_SECONDS = 2.0
SILENT_SECONDS = 25.0
"""Longest silence that counts as a restart of the GCS (seconds)."""


class GcsMonitor:
    """The GCS at `address`, HOST:PORT."""

    def __init__(self, address: str):
        self.address = address
        self._probed = time.monotonic()
        self._silent_since: float | None = None

    def check(self) -> None:
        """Probe every PROBE_SECONDS. Raises UserError E417 (exit code 75) after SILENT_SECONDS without an answer."""
        if time.monotonic() - self._probed > PROBE_SECONDS:
            self._probe()

    def require(self) -> None:
        """Block until the GCS answers. Raises UserError E417."""
        while not self._probe():
            time.sleep(0.5)

    def _probe(self) -> bool:
        host, _, port = self.address.rpartition(":")
        self._probed = time.monotonic()
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=2.0).close()
        except OSError as error:
            self._silent_since = self._silent_since or self._probed
            if self._probed - self._silent_since > SILENT_SECONDS:
                what = f"The Ray GCS has not answered for {SILENT_SECONDS:.0f} s: {error}"
                raise user_error(
                    "E417",
                    what,
                    self.address,
                    "start the cluster again and run the same command to resume",
                    Exit.REQUEUE,
                ) from error
            return False
        self._silent_since = None
        return True
