"""The verb `doctor`."""

import json

from p2p_dist.cli.options import AS_JSON
from p2p_dist.errors import Exit


def doctor(as_json: AS_JSON = False) -> int:
    """Check this machine: versions, devices, caches, Ray, temporary folders. Exit code 1 when something would not
    work."""
    from p2p_dist.cli.checks import run_checks

    found = run_checks()
    if as_json:
        print(json.dumps([check.to_json() for check in found], indent=1))
    else:
        print("\n".join(check.line() for check in found))
    return Exit.OK if all(check.ok for check in found) else Exit.SOME_FAILED
