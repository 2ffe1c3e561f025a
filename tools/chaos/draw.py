"""Which scenario the number `index` of a seed is: a pure function of the two.

A scenario is a list of lives of one run: each starts the workers in a shape (number of workers, ZeRO stage) and says
what befalls them. The last life meets nothing and must bring the run to its end.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass, replace

TOTAL_STEPS, SAVE_EVERY_STEPS, EVALUATE_EVERY_STEPS, KEEP_LAST = 12, 3, 4, 2
MICRO_BATCH_SEQUENCES = {1: 6, 2: 3, 3: 2, 4: 3}  # by number of workers; a global batch has 12 sequences
GLOBAL_BATCH_SEQUENCES = 12
_SAVES, _EVALUATIONS = TOTAL_STEPS // SAVE_EVERY_STEPS, TOTAL_STEPS // EVALUATE_EVERY_STEPS
_WRITES_OF_A_PART = 3  # header, values, random state
_WEIGHTS = {1: 3, 2: 4, 3: 2, 4: 1}
DAMAGES = ("torn_part", "flipped_part", "lost_part", "torn_manifest", "flipped_manifest", "lost_manifest")


@dataclass(frozen=True, slots=True)
class Strike:
    """A signal to someone: "rank R", "ranks", "driver", or "node of rank R".

    moment: as a part of the time that an undisturbed life takes; None: as soon as the fault of the life has acted.
    """

    signal: str
    target: str
    moment: float | None = None


@dataclass(frozen=True, slots=True)
class Life:
    """One start of the workers; damage: done to the newest checkpoint before it, at a place drawn with `dice`."""

    workers: int
    zero_stage: int
    faults: str = ""
    strike: Strike | None = None
    damage: str | None = None
    dice: float = 0.0

    @property
    def shape(self) -> tuple[int, int]:
        """Number of workers and ZeRO stage."""
        return self.workers, self.zero_stage


@dataclass(frozen=True, slots=True)
class Scenario:
    """launcher: "ranks" (forked workers), "ray" (the command and a Ray of its own), "nodes" (three raylets)."""

    index: int
    kind: str
    lives: tuple[Life, ...]
    launcher: str = "ranks"
    is_watched: bool = False  # the watchdog is set to notice within seconds

    def words(self) -> str:
        """Return what happens, in short."""
        parts = []
        for life in self.lives[:-1] if len(self.lives) > 1 else self.lives:
            text = f"{life.workers}w/z{life.zero_stage}"
            text += f" {life.damage}" if life.damage else ""
            text += f" {life.faults}" if life.faults else ""
            if life.strike is not None:
                text += f" {life.strike.signal} to {life.strike.target}"
                text += "" if life.strike.moment is None else f" at {life.strike.moment:.2f}"
            parts.append(text)
        last = self.lives[-1]
        end = f"{last.workers}w/z{last.zero_stage}" + (f" {last.damage}" if last.damage else "")
        return " -> ".join([*parts, end] if len(self.lives) > 1 else parts)


def draw(seed: int, index: int) -> Scenario:
    """Return a scenario."""
    chance = random.Random(f"{seed}/{index}")
    (kind,) = chance.choices(list(_KINDS), [weight for weight, _ in _KINDS.values()])
    drawn = _KINDS[kind][1](chance)
    return replace(drawn, index=index, kind=kind)


def kinds() -> list[str]:
    """Return the names of all kinds of scenarios."""
    return list(_KINDS)


def _life(chance: random.Random, fewest: int = 1, most: int = 4) -> Life:
    workers = range(fewest, most + 1)
    (drawn,) = chance.choices(workers, [_WEIGHTS[num] for num in workers])  # fewer cost less
    return Life(drawn, chance.randint(0, 3))


def _some_rank(chance: random.Random, life: Life) -> int:
    return chance.randrange(life.workers)


def _point(chance: random.Random, life: Life, points: dict[str, int]) -> str:
    """Return NAME@rankR#N of one of the points; their values say how often a life from the first step passes them."""
    name = chance.choice(sorted(points))
    only_main = name.startswith(("checkpoint.manifest", "checkpoint.commit", "checkpoint.prune"))
    rank = 0 if only_main else _some_rank(chance, life)
    return f"{name}@rank{rank}#{chance.randint(1, points[name])}"


def _points(life: Life) -> dict[str, int]:
    micro_steps = GLOBAL_BATCH_SEQUENCES // life.workers // MICRO_BATCH_SEQUENCES[life.workers]
    in_step = {
        "data.before_batch": TOTAL_STEPS,
        "step.before_backward": TOTAL_STEPS * micro_steps,
        "step.before_update": TOTAL_STEPS,
    }
    return {**in_step, "evaluation.before_score": _EVALUATIONS, **_SAVE_POINTS, "checkpoint.prune.in_delete": 2}


_WRITE_POINTS = {
    "checkpoint.part.before_write": _SAVES,
    "checkpoint.part.in_write": _SAVES * _WRITES_OF_A_PART,
    "checkpoint.part.after_write": _SAVES,
    "checkpoint.part.after_sync": _SAVES,
    "checkpoint.manifest.before_write": _SAVES,
    "checkpoint.commit.before_rename": _SAVES,
}
_SAVE_POINTS = {"checkpoint.copy.before": _SAVES, **_WRITE_POINTS, "checkpoint.commit.after_rename": _SAVES}
_RECOVERY_POINTS = ("checkpoint.load.before_verify", "checkpoint.load.after_verify", "data.before_batch")


def _scenario(*lives: Life, launcher: str = "ranks", is_watched: bool = False) -> Scenario:
    return Scenario(0, "", lives, launcher, is_watched)


def _killed(chance: random.Random, life: Life, first: int, last: int) -> Life:
    """Kill a rank when it asks for the batch of a step from `first` to `last`, counted from the start of the life."""
    place = f"data.before_batch@rank{_some_rank(chance, life)}#{chance.randint(first, last)}"
    return replace(life, faults=f"{place}=kill")


def _kill_at_point(chance: random.Random) -> Scenario:
    life = _life(chance)
    return _scenario(replace(life, faults=f"{_point(chance, life, _points(life))}=kill"), life)


def _kill_at_moment(chance: random.Random) -> Scenario:
    life = _life(chance)
    return _scenario(replace(life, strike=Strike("SIGKILL", f"rank {_some_rank(chance, life)}", chance.random())), life)


def _kill_all(chance: random.Random) -> Scenario:
    life = _life(chance)
    return _scenario(replace(life, strike=Strike("SIGKILL", "ranks", chance.random())), life)


def _kill_in_recovery(chance: random.Random) -> Scenario:
    life = _life(chance)
    if chance.random() < 0.7:
        place = f"{chance.choice(_RECOVERY_POINTS)}@rank{_some_rank(chance, life)}#1"
        second = replace(life, faults=f"{place}=kill")
    else:
        second = replace(life, strike=Strike("SIGKILL", f"rank {_some_rank(chance, life)}", 0.5 * chance.random()))
    return _scenario(_killed(chance, life, 7, TOTAL_STEPS), second, life)


def _reshape(chance: random.Random) -> Scenario:
    first, *others = (_life(chance) for _ in range(chance.choice((2, 3))))
    lives = [_killed(chance, first, 4, TOTAL_STEPS), *(_killed(chance, life, 1, 3) for life in others[:-1])]
    return _scenario(*lives, others[-1])


def _damage(chance: random.Random) -> Scenario:
    life = _life(chance)
    # From step 10 on two checkpoints are complete, whatever is being written.
    first = _killed(chance, life, 10, TOTAL_STEPS)
    return _scenario(first, replace(life, damage=chance.choice(DAMAGES), dice=chance.random()))


def _refusal(action: str) -> Callable[[random.Random], Scenario]:
    def drawn(chance: random.Random) -> Scenario:
        life = _life(chance)
        points = _WRITE_POINTS if action == "raise_enospc" else _points(life)
        return _scenario(replace(life, faults=f"{_point(chance, life, points)}={action}"), life)

    return drawn


def _preemption(chance: random.Random) -> Scenario:
    life = _life(chance)
    return _scenario(replace(life, strike=Strike("SIGTERM", "ranks", chance.random())), life)


def _hang(chance: random.Random) -> Scenario:
    life = _life(chance, fewest=2)  # nobody watches a run of one stopped worker
    return _scenario(replace(life, faults=f"{_point(chance, life, _points(life))}=stop"), life, is_watched=True)


def _ray_kill_rank(chance: random.Random) -> Scenario:
    life = _life(chance, fewest=2, most=2)
    return _scenario(replace(life, faults=f"{_point(chance, life, _points(life))}=kill"), launcher="ray")


def _ray_hang(chance: random.Random) -> Scenario:
    life = _life(chance, fewest=2, most=2)
    fault = f"{_point(chance, life, _points(life))}=stop"
    return _scenario(replace(life, faults=fault), launcher="ray", is_watched=True)


def _ray_kill_driver(chance: random.Random) -> Scenario:
    life = _life(chance, fewest=2, most=2)
    held = replace(life, faults=f"{_point(chance, life, _points(life))}=sleep:600", strike=Strike("SIGKILL", "driver"))
    return _scenario(held, life, launcher="ray")


def _ray_kill_node(chance: random.Random) -> Scenario:
    life = _life(chance, fewest=2, most=2)
    place, rank = _point(chance, life, _points(life)), _some_rank(chance, life)
    held = replace(life, faults=f"{place}=sleep:600", strike=Strike("SIGKILL", f"node of rank {rank}"))
    return _scenario(held, launcher="nodes")


# Name -> (weight, how it is drawn). Those with Ray take half a minute each, the others a few seconds.
_KINDS: dict[str, tuple[int, Callable[[random.Random], Scenario]]] = {
    "kill_rank_at_point": (52, _kill_at_point),
    "kill_rank_at_moment": (24, _kill_at_moment),
    "kill_all_ranks": (20, _kill_all),
    "kill_in_recovery": (20, _kill_in_recovery),
    "reshape": (30, _reshape),
    "damaged_checkpoint": (20, _damage),
    "disk_full": (11, _refusal("raise_enospc")),
    "io_error": (11, _refusal("raise_eio")),
    "preemption": (8, _preemption),
    "hang": (6, _hang),
    "ray_kill_rank": (1, _ray_kill_rank),
    "ray_hang": (1, _ray_hang),
    "ray_kill_driver": (1, _ray_kill_driver),
    "ray_kill_node": (1, _ray_kill_node),
}
