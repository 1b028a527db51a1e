"""The verb `doctor`."""

from p2p_dist.cli.options import AS_JSON
from p2p_dist.cli.output import print_json
from p2p_dist.errors import Exit


def doctor(as_json: AS_JSON = False) -> int:
    """Check versions, devices, caches and Ray of this machine. Exit code 1 when a check fails."""
    from p2p_dist.cli.checks import run_checks

    checks = run_checks()
    if as_json:
        print_json([check.to_json() for check in checks])
    else:
        print("\n".join(check.line() for check in checks))
    return Exit.OK if all(check.ok for check in checks) else Exit.SOME_FAILED
