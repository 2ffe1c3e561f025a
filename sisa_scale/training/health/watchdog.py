"""The watchdog of a worker: a thread that notices when this worker or the next one has come to a standstill.

Nothing of it is in the path of a step, and it uses no collective: workers tell of themselves by heartbeat files
(`runs.diagnostics`). A worker raises the alarm when its own phase lasts longer than its bound, or when the
worker of the next rank has been silent for `watchdog.floor_seconds`. The alarm is a file; every watchdog
that sees it writes the Python stacks of its process beside it (and on a GPU what NCCL's flight recorder holds). The one
that raised it waits for these, names the suspects, and records the hang. Then all end with exit code HUNG, and silent
workers are killed by those of their host.

Time in which the watchdog itself could not run is not counted: after a pause of the whole machine nobody is late.
"""

import faulthandler
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Any, Self

from sisa_scale.compat.torch import nccl_trace
from sisa_scale.runs.diagnostics import Diagnostics, Heartbeat
from sisa_scale.runs.exit_codes import HUNG
from sisa_scale.runs.problems import RunDirectoryError
from sisa_scale.runs.processes import Identity
from sisa_scale.runs.provenance import now
from sisa_scale.training.health.hang_rules import bound_seconds, find_suspects
from sisa_scale.training.run import Run

_TICK_SECONDS = 1.0
_MOST_TICKS = 3  # a watchdog that slept longer was itself held up
_ANSWER_SECONDS = 5.0


class Watchdog:
    """Watches over a run on one worker while entered; all workers must enter together."""

    def __init__(self, run: Run) -> None:
        self.run, self.settings = run, run.config.watchdog
        self.rank, self.world_size = run.workers.rank, run.workers.world_size
        floor = self.settings.floor_seconds or 0.0
        self.tick_seconds = min(_TICK_SECONDS, floor / 10)
        self.answer_seconds = min(_ANSWER_SECONDS, floor)
        self._is_over = threading.Event()
        self._awake_seconds, self._serial, self._since = 0.0, -1, 0.0
        self._next_beat: Heartbeat | None = None
        self._next_alive_seconds = 0.0

    def __enter__(self) -> Self:
        if self.settings.floor_seconds is None:
            return self
        workers = self.run.workers
        self.diagnostics: Diagnostics = workers.broadcast(self._new_diagnostics() if workers.is_main else None)
        self.identities: list[Identity] = workers.gather(Identity.of_this())
        # Written by the kernel's signal alone, for a worker whose interpreter is held by a call that does not return.
        self._stacks = self.diagnostics.stacks_path(self.rank).open("a")
        faulthandler.register(signal.SIGUSR2, file=self._stacks, all_threads=True)
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_exception: type[BaseException] | BaseException | TracebackType | None) -> None:
        if self.settings.floor_seconds is None:
            return
        self._is_over.set()
        self._thread.join()
        faulthandler.unregister(signal.SIGUSR2)
        self._stacks.close()
        with suppress(OSError, RunDirectoryError):
            self._beat("ended", 0.0)
            self.diagnostics.stacks_path(self.rank).unlink()

    def _new_diagnostics(self) -> Diagnostics:
        diagnostics = Diagnostics(self.run.directory.path, self.run.directory.current_attempt())
        diagnostics.create()
        return diagnostics

    def _watch(self) -> None:
        before = time.monotonic()
        while not self._is_over.wait(self.tick_seconds):
            after = time.monotonic()
            self._awake_seconds += min(after - before, _MOST_TICKS * self.tick_seconds)
            before = after
            try:
                self._look()
            except (
                OSError,
                RunDirectoryError,
            ) as error:
                # A file system that fails for a moment; the other workers look, too.
                sys.stderr.write(f"watchdog of rank {self.rank}: {error}\n")

    def _look(self) -> None:
        doing = self.run.heart.doing
        if doing.serial != self._serial:
            self._serial, self._since = doing.serial, self._awake_seconds
        seconds = self._awake_seconds - self._since
        self._beat(doing.phase, seconds)
        if self.diagnostics.has_alarm():
            self._answer(None)
        bound = bound_seconds(self.settings, doing.phase, tuple(self.run.heart.seconds[doing.phase]))
        if seconds > bound:
            self._raise_alarm(self.rank, doing.phase, seconds, bound)
        self._look_at_next()

    def _look_at_next(self) -> None:
        following = (self.rank + 1) % self.world_size
        beat = self.diagnostics.heartbeat(following)
        if following == self.rank or beat is None or beat.phase == "ended":
            return
        if beat != self._next_beat:
            self._next_beat, self._next_alive_seconds = beat, self._awake_seconds
        silence = self._awake_seconds - self._next_alive_seconds
        if self.settings.floor_seconds is not None and silence > self.settings.floor_seconds:
            self._raise_alarm(following, "silent", silence, self.settings.floor_seconds)

    def _beat(self, phase: str, seconds: float) -> None:
        me, (where, in_collective) = self.identities[self.rank], self.run.heart.where()
        step = self.run.heart.doing.step
        beat = Heartbeat(self.rank, me.host, me.pid, phase, step, round(seconds, 3), where, in_collective, now())
        self.diagnostics.beat(beat)

    def _raise_alarm(self, rank: int, phase: str, seconds: float, bound: float) -> None:
        alarm = {"noticed_by": self.rank, "rank": rank, "phase": phase, "seconds": round(seconds, 1)}
        alarm |= {"bound_seconds": round(bound, 1), "time": now()}
        self._answer(alarm if self.diagnostics.raise_alarm(alarm) else None)

    def _answer(self, alarm: dict[str, Any] | None) -> None:
        """Write the stacks, wait for the verdict or, with the alarm that is ours, give it; then end the process."""
        self._dump()
        if alarm is not None:
            self._wait_until(lambda: not self._silent())
            self._judge(alarm)
        self._wait_until(self.diagnostics.has_verdict, patience=3)
        for rank in self._silent():
            self._kill(rank)
        sys.stderr.write(f"rank {self.rank}: ended by the watchdog, see {self.diagnostics.alarm_path}\n")
        sys.stderr.flush()
        os._exit(HUNG)

    def _dump(self) -> None:
        doing = self.run.heart.doing
        self._stacks.write(f"rank {self.rank}, phase {doing.phase}, step {doing.step}, {now()}\n")
        self._stacks.flush()
        faulthandler.dump_traceback(self._stacks, all_threads=True)
        if self.run.workers.device.type == "cuda":
            self._dump_nccl()
        self._stacks.flush()
        self.diagnostics.answer(self.rank)

    def _dump_nccl(self) -> None:
        try:
            self.diagnostics.nccl_path(self.rank).write_bytes(nccl_trace())
        except (ImportError, RuntimeError, OSError) as error:  # a private function of torch, and best effort
            self._stacks.write(f"no NCCL flight recorder: {error}\n")

    def _silent(self) -> list[int]:
        return self.diagnostics.silent(self.world_size)

    def _judge(self, alarm: dict[str, Any]) -> None:
        beats = {rank: self.diagnostics.heartbeat(rank) for rank in range(self.world_size)}
        silent = self._silent()
        known = {rank: beat for rank, beat in beats.items() if beat is not None and beat.phase != "ended"}
        suspects, reason = find_suspects(known, silent)
        states = {str(rank): self.identities[rank].state() for rank in silent}
        blamed = f"ranks {suspects} {reason}" if suspects else reason
        message = f"rank {alarm['rank']} was {alarm['phase']} for {alarm['seconds']} s, bound "
        message += f"{alarm['bound_seconds']} s; {blamed}"
        verdict = {**alarm, "message": message, "suspect_rank": suspects[0] if suspects else None, "suspects": suspects}
        verdict |= {"silent": silent, "process_states": states}
        verdict["doing"] = {
            str(rank): f"step {b.step} {b.phase} {b.phase_seconds:.1f} s {b.where}" for rank, b in known.items()
        }
        self.run.directory.event("hang", **verdict)
        self.diagnostics.write_verdict(verdict)

    def _kill(self, rank: int) -> None:
        """Kill a silent worker of this host, after it had the chance to write its stacks."""
        if self.identities[rank].send(signal.SIGUSR2):
            time.sleep(min(1.0, self.answer_seconds))
            self.identities[rank].send(signal.SIGKILL)

    def _wait_until(self, is_true: Callable[[], bool], patience: int = 1) -> None:
        until = time.monotonic() + patience * self.answer_seconds
        while not is_true() and time.monotonic() < until:
            time.sleep(self.tick_seconds / 4)
