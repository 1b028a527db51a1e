"""Entry point of a Ray job with handed-over variables: take them into the environment, then become `p2p-dist`.

python -m p2p_dist.scheduling.ray_driver FILE run STUDY ...
"""

import os
import sys
from pathlib import Path

from p2p_dist.errors import UserError
from p2p_dist.scheduling import handover
from p2p_dist.scheduling.environment import HANDED_OVER


def main(file: str, *arguments: str) -> int:
    """Replace this process. Returns the exit code of an error."""
    try:
        variables = handover.take(Path(file))
    except UserError as error:
        print(error, file=sys.stderr)
        return int(error.exit_code)
    environment = {**os.environ, **variables, HANDED_OVER: ",".join(variables)}
    os.execve(sys.executable, [sys.executable, "-m", "p2p_dist", *arguments], environment)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
