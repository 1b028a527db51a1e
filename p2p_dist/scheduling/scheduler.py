"""The scheduler loop: start ready jobs, notice ended and stalled ones, act on the policy's decisions.

Every decision is made in `planning`; this file only acts. Finished work is read from the run folder, so a scheduler
that is killed and restarted resumes.
"""

import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import replace

from p2p_dist.errors import Exit, user_error
from p2p_dist.planning import policy
from p2p_dist.planning.jobs import Job, parts_that_fail_alone, without_lost
from p2p_dist.planning.placement import Placement
from p2p_dist.planning.plan import Plan
from p2p_dist.planning.policy import Ending, after_exit, startable
from p2p_dist.results import atomic, confined
from p2p_dist.results.logs import tail
from p2p_dist.results.rundir import RunDir
from p2p_dist.scheduling.backend import Backend
from p2p_dist.scheduling.claims import Claims
from p2p_dist.scheduling.devices_out_of_use import DevicesOutOfUse
from p2p_dist.scheduling.process_groups import GroupSettings, build_process_group
from p2p_dist.scheduling.stall_detection import StallDetector
from p2p_dist.scheduling.state import Failure, State, Tries

POLL_SECONDS = 0.2
"""Interval between two checks of files, signals and the lease."""
DUMP_SECONDS = 3.0
"""Time for a stalled worker to write its stacks."""
SHARED_SECONDS = 1.0
"""Interval between two checks of what other controllers have finished."""
GRACE_SECONDS = 240.0
"""Time for workers to write a checkpoint on a stop request; Slurm gives 300 s (slurm/study.sbatch)."""


class Scheduler:
    """Runs the jobs of a plan on a backend, on at most `slots` devices at a time."""

    def __init__(
        self,
        folder: RunDir,
        backend: Backend,
        plan: Plan,
        slots: int,
        settings: GroupSettings,
        claims: Claims,
        stall_seconds: float,
    ):
        self.folder, self.backend, self.plan, self.claims = folder, backend, plan, claims
        self.most, self.settings = slots, settings
        self.stalls = StallDetector(folder, stall_seconds)
        self.next_check = 0.0
        self.out_of_use = DevicesOutOfUse(backend, folder.quarantine)

    @property
    def slots(self) -> int:
        """Number of devices that are in use or idle."""
        return self.most - self.out_of_use.count

    def run(self, on_progress: Callable[[State], None], stop_requested: Callable[[], bool]) -> State:
        """Run all jobs that can run. Every worker is stopped before an error or an interrupt propagates.

        Raises UserError E411 when the lease is lost, E412 (exit code 75) on a stop request.
        """
        state = State(list(self.plan.jobs))
        finished: set[str] = set()
        try:
            while state.waiting or state.running:
                self.claims.check()
                self._note_others(state, finished)
                if stop_requested():
                    self._checkpoint_and_stop(state, finished)
                self._start_ready(state, finished)
                self._stop_stalled(state)
                on_progress(state)
                self._await_end(state, finished)
        finally:
            for name in state.running:
                self.backend.send_signal(name, signal.SIGTERM)
            for name in state.running:
                self.backend.stop(name)
        on_progress(state)
        return state

    def _start_ready(self, state: State, finished: set[str]) -> None:
        self._set_aside_lost(state)
        if any(map(self._is_too_wide, state.waiting)):
            self.out_of_use.give_back()
        for job in [job for job in state.waiting if self._is_too_wide(job)]:
            state.waiting.remove(job)
            reason = f"needs more devices than are left: {self.out_of_use.count} are out of use (quarantine.json)"
            state.failed.append(Failure(job, reason, state.tries.get(job.lead, Tries()).log, []))
        if self._makes_room(state):
            return
        for job in startable(list(state.waiting), finished, lambda job: self._width(job) <= self._free(state)):
            fence = self.claims.take(job)
            if fence is None:
                continue
            state.waiting.remove(job)
            if self.claims.shared and all(
                self.folder.find(id_).is_done() for id_ in job.stages
            ):  # another controller was faster
                self.claims.give(job)
                finished.update(job.stages)
                state.done.append(job)
            else:
                state.running[self._start(job, state, fence)] = job

    def _makes_room(self, state: State) -> bool:
        """True while a group waits for places that others of the study have: what is started now might take them."""
        started = [self.backend.has_started(name) for name in state.running]
        return any(started) and not all(started)

    def _set_aside_lost(self, state: State) -> None:
        """Take from the waiting jobs what needs a stage that will never be done; the rest of a job stays."""
        lost = {id_ for job in (*(failure.job for failure in state.failed), *state.blocked) for id_ in job.stages}
        for index, job in reversed(list(enumerate(state.waiting))):
            sound, cut = without_lost(job, lost)
            if cut is not None:
                state.waiting[index : index + 1] = [] if sound is None else [sound]
                state.blocked.append(cut)

    def _note_others(self, state: State, finished: set[str]) -> None:
        """Note waiting jobs, and what they need, that other controllers have finished meanwhile."""
        if not self.claims.shared or time.monotonic() < self.next_check:
            return
        self.next_check = time.monotonic() + SHARED_SECONDS
        for job in list(state.waiting):
            finished.update(
                id_ for id_ in (*job.stages, *job.needs) if id_ not in finished and self.folder.find(id_).is_done()
            )
            if finished.issuperset(job.stages):
                state.waiting.remove(job)
                state.done.append(job)

    def _free(self, state: State) -> int:
        return self.slots - sum(self._width(job) for job in state.running.values())

    def _width(self, job: Job) -> int:
        return min(self.plan.width(job), self.slots)

    def _is_too_wide(self, job: Job) -> bool:
        """True for a job that no longer fits because devices are in quarantine."""
        return self.out_of_use.count > 0 and self.plan.width(job) > self.slots

    def _placement(self, job: Job) -> Placement:
        placement = self.plan.placement(job)
        assert isinstance(placement, Placement), "impossible jobs were refused before"
        return placement

    def _start(self, job: Job, state: State, fence: Mapping[str, str]) -> str:
        attempt = self.folder.find(job.lead).new_attempt()
        tries = state.tries.setdefault(job.lead, Tries())
        placement = self._placement(job)
        if tries.micro_batch is not None:
            placement = replace(
                placement,
                micro_batch=tries.micro_batch,
                accumulation=placement.accumulation * placement.micro_batch // tries.micro_batch,
            )
        if tries.gradient_checkpointing:
            placement = replace(placement, gradient_checkpointing=True)
        group = build_process_group(
            self.folder,
            job,
            placement,
            self.settings,
            (attempt / "log").resolve(),
            fence,
            self.plan.settings.get(job.lead, ""),
        )
        record = {
            "backend": type(self.backend).__name__,
            "cpus": group.cpus,
            "gpus": group.gpus,
            "command": list(group.command),
            "stages": list(job.stages),
        }
        atomic.write_json(
            attempt / "placement.json", {"started": round(time.time(), 3), **record, **placement.to_json()}
        )
        tries.number += 1
        tries.log, tries.stalled = group.log, None
        tries.reached = self.stalls.reached(job)
        name = self.backend.start(group)
        self.stalls.begin(name)
        return name

    def _stop_stalled(self, state: State) -> None:
        """End stalled workers: SIGABRT makes a worker write the stacks of its threads into its log; SIGKILL follows."""
        for name, job in state.running.items():
            tries = state.tries[job.lead]
            if not self.backend.has_started(name):
                self.stalls.begin(name)
            elif tries.stalled is None and self.stalls.is_stalled(name, job, tries.log):
                tries.stalled = time.monotonic()
                self.backend.send_signal(name, signal.SIGABRT)
            elif tries.stalled is not None and time.monotonic() - tries.stalled > DUMP_SECONDS:
                self.backend.send_signal(name, signal.SIGKILL)

    def _await_end(self, state: State, finished: set[str]) -> None:
        """Wait until a job has ended, at most POLL_SECONDS."""
        deadline = time.monotonic() + POLL_SECONDS
        while not self._reap(state, finished) and (left := deadline - time.monotonic()) > 0:
            self.backend.wait(state.running, left)

    def _reap(self, state: State, finished: set[str]) -> bool:
        """Settle jobs that have ended. Returns True if there was one."""
        ended = False
        for name, job in list(state.running.items()):
            code = self.backend.poll(name)
            if code is not None:
                del state.running[name]
                self._settle(name, job, code, state, finished)
                ended = True
        return ended

    def _settle(self, name: str, job: Job, code: int, state: State, finished: set[str]) -> None:
        """Record the end of an attempt and act on the policy's decision."""
        self.claims.give(job)
        tries = state.tries[job.lead]
        tails = [tail(log) for log in sorted(tries.log.parent.glob(f"{tries.log.name}*"))]
        placement = self._placement(job)
        recomputes = placement.gradient_checkpointing or tries.gradient_checkpointing
        trains = any((stage := self.folder.find(id_)).kind == "train" and not stage.is_done() for id_ in job.stages)
        all_done = all(self.folder.find(id_).is_done() for id_ in job.stages)
        uncertain, before = policy.names_uncertain_fault(tails), self.out_of_use.count
        alike = self.out_of_use.add(name, job.lead, tries.log, uncertain) if code == Exit.DEVICE else 0
        if self.stalls.reached(job) != tries.reached:
            tries.fruitless = 0
        elif uncertain or self.out_of_use.count == before:  # a device at fault is no fault of the job
            tries.fruitless += 1
        decision = after_exit(
            Ending(
                code,
                tries.fruitless,
                all_done,
                tries.micro_batch or placement.micro_batch,
                tries.stalled is not None,
                any(map(policy.names_memory, tails)),
                trains and not recomputes,
                policy.names_lost_peer(tails),
                trains,
                alike,
            )
        )
        if decision.give_back:
            self.out_of_use.give_back(job.lead)
        ending = {"code": code, "ended": round(time.time(), 3), "action": decision.action, "reason": decision.reason}
        atomic.write_json(tries.log.parent / "exit.json", ending)
        if decision.action == "done":
            finished.update(job.stages)
            state.done.append(job)
        elif decision.action == "retry":
            tries.micro_batch = decision.micro_batch or tries.micro_batch
            tries.gradient_checkpointing |= decision.gradient_checkpointing
            state.waiting.insert(0, job)
        else:
            finished.update(id_ for id_ in job.stages if self.folder.find(id_).is_done())
            self._fail(job, finished, decision.reason, state)

    def _fail(self, job: Job, finished: set[str], reason: str, state: State) -> None:
        """Try a failed job of several parts again part by part: the sound ones are done, and each of the others fails
        under its own id. Trainings that diverged are not repeated, because they would diverge again."""
        tries = state.tries[job.lead]
        rest = [id_ for id_ in job.stages if id_ not in finished]
        if not rest:
            state.done.append(job)
        for part in reversed(parts_that_fail_alone(job.part(rest))):
            if part.stages == job.stages or self._diverged(part.lead):
                state.failed.append(Failure(part, reason, tries.log, tail(tries.log)))
            else:
                state.tries.pop(part.lead, None)
                state.waiting.insert(0, part)

    def _diverged(self, id_: str) -> bool:
        """True for a training that has run to its end and left no adapter."""
        stage = self.folder.find(id_)
        return stage.kind == "train" and confined.kind_of(stage.cost) == "file" and not stage.is_done()

    def _checkpoint_and_stop(self, state: State, finished: set[str]) -> None:
        """Let every worker write a checkpoint and end. Raises UserError E412."""
        for name in state.running:
            self.backend.send_signal(name, signal.SIGTERM)
        deadline = time.monotonic() + GRACE_SECONDS
        while state.running and time.monotonic() < deadline:
            self._reap(state, finished)
            time.sleep(POLL_SECONDS)
        raise user_error(
            "E412",
            "Stopped on request; all running jobs were checkpointed",
            str(self.folder.path),
            "run the same command to resume",
            Exit.REQUEUE,
        )
