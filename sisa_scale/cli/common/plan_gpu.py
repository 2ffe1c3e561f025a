"""What `sisa-scale plan` says of GPUs: memory by term, whether it fits, time, cost, suggestions."""

from dataclasses import dataclass
from typing import Any

import click

from sisa_scale.cli.common.console import render
from sisa_scale.config.execution import FLOAT8_GPUS
from sisa_scale.config.run import RunConfig
from sisa_scale.errors import ConfigError
from sisa_scale.planning.communication import Network
from sisa_scale.planning.devices import Gpu, gpu_named

_SHOWN = 5
_SECONDS_PER_DAY = 86400


@dataclass(frozen=True, slots=True)
class GpuPlan:
    """A plan as JSON has it, and how it is printed."""

    memory: dict[str, Any]
    time: dict[str, Any] | None
    suggestions: list[dict[str, Any]] | None
    smallest_change: list[str] | None

    def show(self) -> None:
        """Print it as tables."""
        memory, peak = self.memory, self.memory["peak_bytes"]
        title = f"memory of a GPU at its peak ({memory['phase']}; attention kernel {memory['attention_kernel']})"
        rows = [_row(term, size, peak) for term, size in memory["terms"].items()]
        rows += [_row("allocated by torch", peak, peak)]
        rows += [_row(f"{term} (assumed)", size, peak) for term, size in memory["outside_terms"].items()]
        render([*rows, _row("needed", memory["needed_bytes"], peak)], as_json=False, title=title)
        if memory["host_bytes"]:
            click.echo(f"on the host: {memory['host_bytes'] / 1e9:.1f} GB for each worker")
        rows = [_row(use, size, peak) for use, size in memory["activations"].items()]
        render(rows, as_json=False, title="kept by the blocks for the backward pass of a micro-batch")
        if self.time is None:
            click.echo("Name a GPU with --gpu to see whether it fits, the time and the cost.")
            return
        verdict = "fits" if memory["fits"] else "does not fit"
        size = memory["device_bytes"] / 1e9
        click.echo(f"{verdict}: {memory['needed_bytes'] / 1e9:.1f} GB of {size:.0f} GB ({self.time['gpu']})")
        shown = {name: value for name, value in self.time.items() if name != "assumptions" and value is not None}
        shown["sending_share"] = f"{self.time['sending_share']:.1%}"
        shown["uncertainty"] = f"{self.time['uncertainty']:.0%}"
        render([shown], as_json=False, title="time, without start, evaluations and checkpoints")
        for assumption in self.time["assumptions"]:
            click.echo(f"assumed: {assumption}")
        if self.suggestions:
            rows = [{**row, "changes": " ".join(row["changes"]) or "none"} for row in self.suggestions]
            render(rows, as_json=False, title="fastest settings that fit")
        if not memory["fits"]:
            change = " ".join(self.smallest_change) if self.smallest_change else "none was found"
            click.echo(f"smallest change that fits: {change}")


def plan_gpu(config: RunConfig, gpu: Gpu | None, network: Network, price: float | None) -> GpuPlan:
    """Return the plan of a run on `resources.workers` GPUs; None for a GPU leaves time and suggestions out."""
    from sisa_scale.planning.memory.estimate import activations_by_use, plan_memory
    from sisa_scale.planning.speed import plan_time
    from sisa_scale.planning.suggest import options, smallest_change

    if config.execution.float8_products and gpu is not None and not gpu.has_float8:
        raise ConfigError.at(
            "execution.float8_products",
            found=f"true on {gpu.name}",
            allowed=FLOAT8_GPUS,
            remedy="Write false, or take such a GPU.",
        )
    plan = plan_memory(config, gpu)
    memory = {
        "phase": plan.phase,
        "attention_kernel": plan.kernel,
        "terms": plan.terms,
        "peak_bytes": plan.peak_bytes,
        "outside_terms": plan.outside,
        "needed_bytes": plan.needed_bytes,
        "host_bytes": plan.host_bytes,
        "activations": activations_by_use(config, gpu),
        "device_bytes": gpu.memory_bytes if gpu else None,
        "fits": plan.needed_bytes <= gpu.memory_bytes if gpu else None,
    }
    if gpu is None:
        return GpuPlan(memory, None, None, None)
    run = plan_time(config, gpu, network)
    time = {
        "gpu": gpu.name,
        "gpus": run.num_gpus,
        "mfu": run.mfu,
        "tokens_per_second": run.tokens_per_second,
        "sending_share": run.sending_share,
        "days": run.seconds / _SECONDS_PER_DAY,
        "gpu_hours": run.gpu_hours,
        "cost": run.cost(price) if price is not None else None,
        "uncertainty": run.uncertainty,
        "assumptions": list(run.assumptions),
    }
    suggestions = [
        {
            "micro_batch_sequences": option.config.execution.micro_batch_sequences,
            "zero_stage": option.config.execution.zero_stage,
            "activation_checkpointing": option.config.execution.activation_checkpointing,
            "needed_gb": round(option.memory.needed_bytes / 1e9, 1),
            "tokens_per_second": round(option.tokens_per_second),
            "changes": list(option.changes),
        }
        for option in options(config, gpu, network)[:_SHOWN]
    ]
    change = None if memory["fits"] else smallest_change(config, gpu, network)
    return GpuPlan(memory, time, suggestions, list(change.changes) if change else None)


def chosen_gpu(name: str | None, price: float | None) -> Gpu | None:
    """Return the GPU that the options name; raises ConfigError for an unknown one, and for a price without one."""
    if name is not None:
        return gpu_named(name)
    if price is not None:
        raise ConfigError.at(
            "--price", found=f"{price:g} without --gpu", allowed="the price is that of a GPU", remedy="Add --gpu NAME."
        )
    return None


def _row(term: str, size: int, peak: int) -> dict[str, Any]:
    return {"term": term, "GB": round(size / 1e9, 2), "share": f"{size / peak:.1%}"}
