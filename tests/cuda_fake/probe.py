"""The process that has the fake GPU: measures the cases that it is given as JSON and prints a line for each."""

import json
import sys

from tests.cuda_fake import shim


def main() -> None:
    """Read cases from standard input, one a line; a case that fails is printed with its error."""
    shim.load()
    import traceback

    from tests.cuda_fake.cases import Case, measure

    for line in sys.stdin:
        case = Case(**json.loads(line))
        try:
            print(json.dumps(measure(case)), flush=True)
        except Exception:  # noqa: BLE001 - the test that asked for it shows the traceback
            print(json.dumps({"error": traceback.format_exc()}), flush=True)


if __name__ == "__main__":
    main()
