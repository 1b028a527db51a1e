"""Options of sbatch that a user adds with `--sbatch KEY=VALUE`: checked, and handed on as one argument each. Pure."""

import re
from collections.abc import Iterable, Mapping

from p2p_dist.errors import UserError, user_error

REFUSED: Mapping[str, tuple[str, str]] = {
    "array": ("the tasks of an array are started by --tasks", "use --tasks"),
    "bb": ("it would be read from the script", "edit the script in slurm/"),
    "bbf": ("it would be read from the script", "edit the script in slurm/"),
    "chdir": ("the study's paths are relative to this folder", "submit from the other folder"),
    "cpus-per-task": ("it is the number of cores that a node's workers share", "use --cpus-per-node"),
    "error": ("`p2p-dist logs` reads one file for output and errors", "omit it"),
    "export": ("it names the variables that the job needs", "use --env NAME"),
    "export-file": ("it would replace the variables that the job needs", "use --env NAME"),
    "get-user-env": ("it would replace the environment that the study was submitted from", "use --setup FILE"),
    "gid": ("the job runs as you", "omit it"),
    "gpus-per-node": ("it is the number of GPUs that the study plans for", "use --gpus-per-node"),
    "help": ("it submits nothing", "run `sbatch --help`"),
    "ignore-pbs": ("the script has no PBS options", "omit it"),
    "input": ("the script reads nothing", "omit it"),
    "job-name": ("a study is found in the queue by its name", "set name=... to rename the study"),
    "kill-on-invalid-dep": ("a requeued study would be lost", "omit it"),
    "no-kill": ("a study that lost a node must be requeued", "omit it"),
    "no-requeue": ("the study is requeued before its time limit", "omit it"),
    "nodes": ("the study waits for this number of nodes", "use --nodes"),
    "ntasks": ("the script starts one task per node", "use --nodes or --tasks"),
    "ntasks-per-core": ("the script starts one task per node", "use --nodes or --tasks"),
    "ntasks-per-gpu": ("the script starts one task per node", "use --nodes or --tasks"),
    "ntasks-per-node": ("the script starts one task per node", "use --nodes or --tasks"),
    "ntasks-per-socket": ("the script starts one task per node", "use --nodes or --tasks"),
    "open-mode": ("the log must survive a requeue", "omit it"),
    "output": ("`p2p-dist logs` looks for the log in the run folder", "omit it"),
    "parsable": ("it is set already", "omit it"),
    "quiet": ("the job's number would not be known", "omit it"),
    "requeue": ("it is set already", "omit it"),
    "signal": ("the checkpoint before the time limit rests on it", "edit the script in slurm/"),
    "test-only": ("it submits nothing", "use --dry-run"),
    "uid": ("the job runs as you", "omit it"),
    "usage": ("it submits nothing", "run `sbatch --help`"),
    "version": ("it submits nothing", "run `sbatch --version`"),
    "wait": ("the command would not return", "run `p2p-dist status STUDY --live`"),
    "wrap": ("it would replace the script", "use --setup FILE for lines before the study"),
}
"""Options that would break the job, with the reason and the way out."""
FLAGS = ("contiguous", "exclusive", "hold", "overcommit", "oversubscribe", "reboot", "spread-job", "use-min-nodes")
"""Options that sbatch takes without a value."""
KNOWN = frozenset(
    [
        "account",
        "acctg-freq",
        "batch",
        "begin",
        "cluster-constraint",
        "clusters",
        "comment",
        "constraint",
        "container",
        "container-id",
        "core-spec",
        "cores-per-socket",
        "cpu-freq",
        "cpus-per-gpu",
        "deadline",
        "delay-boot",
        "dependency",
        "distribution",
        "exclude",
        "extra",
        "extra-node-info",
        "gpu-bind",
        "gpu-freq",
        "gpus",
        "gpus-per-socket",
        "gpus-per-task",
        "gres",
        "gres-flags",
        "hint",
        "licenses",
        "mail-type",
        "mail-user",
        "mcs-label",
        "mem",
        "mem-bind",
        "mem-per-cpu",
        "mem-per-gpu",
        "mincpus",
        "network",
        "nice",
        "nodefile",
        "nodelist",
        "partition",
        "power",
        "prefer",
        "priority",
        "profile",
        "propagate",
        "qos",
        "reservation",
        "segment",
        "sockets-per-node",
        "switches",
        "thread-spec",
        "threads-per-core",
        "time",
        "time-min",
        "tmp",
        "tres-per-task",
        "verbose",
        "wait-all-nodes",
        "wckey",
        "x11",
    ]
) | set(FLAGS)
"""Further options of sbatch (Slurm 22.05 to 25.05). Other names are left to the plug-ins of a site."""
_NAME = re.compile(r"[a-z][a-z0-9_-]{0,63}")
_LONGEST = 4096


def parse(options: Iterable[str], fixed: Mapping[str, str | None]) -> dict[str, str | None]:
    """Return name -> value of `KEY=VALUE` options, None for a flag. `fixed` has the values of options that this command
    has itself (`partition`, `time`, ...).

    Raises UserError E134 for a name that is none, an abbreviation, an option that would break the job, an option given
    twice, and a value that is empty, too long or not printable.
    """
    parsed: dict[str, str | None] = {}
    for option in options:
        name, equals, value = option.partition("=")
        _check_name(name)
        if name in parsed or fixed.get(name) is not None:
            raise _refused(name, f"{name} is given twice", f"keep one of the two values of {name}")
        if not equals and name not in FLAGS:
            raise _refused(name, f"{name} has no value", f"write --sbatch {name}=VALUE")
        if equals and (not value or len(value) > _LONGEST or not value.isprintable()):
            what = f"The value of {name} is empty, longer than {_LONGEST} characters, or not printable"
            raise _refused(name, what, f"write --sbatch {name}=VALUE on one line")
        parsed[name] = value if equals else None
    return parsed


def arguments(options: Mapping[str, str | None]) -> list[str]:
    """One argument of sbatch per option; a shell never sees them."""
    return [f"--{name}" if value is None else f"--{name}={value}" for name, value in options.items()]


def _check_name(name: str) -> None:
    if not _NAME.fullmatch(name):
        raise _refused(name, f"{name!r} is no option of sbatch", "write a long name without dashes, such as mail-type")
    if name in REFUSED:
        reason, fix = REFUSED[name]
        raise _refused(name, f"sbatch --{name} is not available here: {reason}", fix)
    longer = sorted(known for known in (*KNOWN, *REFUSED) if known.startswith(name) and known != name)
    if name not in KNOWN and longer:
        # sbatch would take an abbreviation for the whole name, also of a refused option.
        raise _refused(name, f"{name} is an abbreviation", f"write the whole name: {', '.join(longer)}")


def _refused(name: str, what: str, fix: str) -> UserError:
    return user_error("E134", what, f"--sbatch {name}", fix)
