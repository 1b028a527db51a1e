"""Nothing that was acknowledged is lost and nothing half is read, whatever is killed when, with file locks or
without."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
WRITERS = 32

# Every way to lock a file says yes and does nothing, as on file systems that are mounted so.
NO_LOCKS = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdarg.h>
#include <sys/file.h>
static int is_lock(int command) {
  return command == F_SETLK || command == F_SETLKW || command == F_OFD_SETLK || command == F_OFD_SETLKW;
}
static int pass_on(const char *name, int handle, int command, void *argument) {
  if (is_lock(command)) return 0;
  int (*real)(int, int, ...) = dlsym(RTLD_NEXT, name);
  return real(handle, command, argument);
}
int fcntl(int handle, int command, ...) {
  va_list list; va_start(list, command); void *argument = va_arg(list, void *); va_end(list);
  return pass_on("fcntl", handle, command, argument);
}
int fcntl64(int handle, int command, ...) {
  va_list list; va_start(list, command); void *argument = va_arg(list, void *); va_end(list);
  return pass_on("fcntl64", handle, command, argument);
}
int flock(int handle, int operation) { return 0; }
"""


def storm(folder: Path, kills: int, **environment: str) -> dict[str, int]:
    command = [sys.executable, "-m", "tests.results.crash_writers", str(folder / "eval"), str(WRITERS), str(kills)]
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, **environment}, capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


def without_locks(folder: Path) -> str:
    if shutil.which("cc") is None:
        pytest.skip("no C compiler here to take the locks away with")
    (folder / "no_locks.c").write_text(NO_LOCKS)
    library = folder / "no_locks.so"
    subprocess.run(["cc", "-shared", "-fPIC", "-o", str(library), str(folder / "no_locks.c"), "-ldl"], check=True)
    return str(library)


def check(found: dict[str, int]) -> None:
    assert (found["lost"], found["half_read"]) == (0, 0), found
    assert found["acknowledged"] > 50, "the storm left the writers time to write"


@pytest.mark.process
def test_writers_that_are_killed(tmp_path: Path) -> None:
    check(storm(tmp_path, 150))


@pytest.mark.process
def test_writers_that_are_killed_without_locks(tmp_path: Path) -> None:
    check(storm(tmp_path, 100, LD_PRELOAD=without_locks(tmp_path)))


@pytest.mark.slow("minutes; a hundred kills are the fast witness")
def test_a_thousand_kills(tmp_path: Path) -> None:
    check(storm(tmp_path / "locks", 1000))
    check(storm(tmp_path / "none", 1000, LD_PRELOAD=without_locks(tmp_path)))
