"""Whether a training fits into its devices, what would fit if it does not, and which estimate was off when memory ran out."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from cft_lab.config import Config, OptimizationConfig, ShapeConfig
from cft_lab.training.devices import GIB, Device, find_device, misplacement, passes_precision
from cft_lab.training.estimate import Memory, Setting, estimate_memory
from cft_lab.training.lengths import Lengths, assumed_lengths
from cft_lab.training.ranks import conflict_in_ranks
from cft_lab.training.shapes import shape_of

_PER_NODE = 8  # GPUs of a node, when more are counted than one node has
_MOST_RANKS = 128
_FEWEST_TOKENS = 512

#: settings that save memory, from those that cost least: nothing, then time, then exactness of the optimizer. `_runnable`
#: changes those that do not work in several processes
LEVERS: tuple[dict[str, Any], ...] = (
    {},
    {"activation_checkpointing": "selective"},
    {"activation_checkpointing": "full"},
    {"activation_checkpointing": "full", "optimizer": "adamw-8bit"},
    {"activation_checkpointing": "full", "optimizer": "adamw-8bit", "weights": "bf16", "precision": "bf16"},
)


@dataclass(frozen=True)
class Fit:
    """Settings under which a training fits, as the command line takes them, and the memory that it then needs."""

    overrides: str
    memory: Memory


def setting_of(config: Config, shape: ShapeConfig, device: Device, lengths: Lengths) -> Setting:
    """What the memory of a cell's training follows from."""
    train = config.train
    step_tokens = min(train.global_batch_size, lengths.sequences) * lengths.mean
    precision = passes_precision(train, device.kind)
    return Setting(shape, train, device.kind, precision, device.ranks, step_tokens, lengths.longest, lengths.target_share)


def what_fits(setting: Setting, limit: float) -> list[Fit]:
    """Settings that need at most `limit` bytes on a device, the given ones among them if they do.

    For each lever the most tokens of a micro-batch that fit, found by halving; and for none and for full checkpointing the
    fewest devices, found by doubling.
    """
    found = [fit for lever in LEVERS if (fit := _most_tokens(setting, lever, limit))]
    for lever in (LEVERS[0], LEVERS[2]):
        ranks = setting.ranks
        while (ranks := ranks * 2) <= _MOST_RANKS:
            fit = _most_tokens(dataclasses.replace(setting, ranks=ranks), lever, limit)
            if fit:
                found.append(Fit(f"{_processes(ranks)} {fit.overrides}".strip(), fit.memory))
                break
    return found


def _processes(ranks: int) -> str:
    if ranks <= _PER_NODE:
        return f"train.processes={ranks}"
    return f"train.processes={_PER_NODE} train.nodes={ranks // _PER_NODE}"


def _most_tokens(setting: Setting, lever: dict[str, Any], limit: float) -> Fit | None:
    """The lever with the largest micro-batches that fit; None if not even one sequence does, or the lever is already pulled."""
    lever = _runnable(setting, lever)
    changed: dict[str, Any] = {name: value for name, value in lever.items() if getattr(setting.config, name) != value}
    if lever and not changed:
        return None
    tokens = setting.config.micro_batch_tokens
    fewest = max(min(tokens, setting.longest), _FEWEST_TOKENS)
    while True:
        named = changed | ({} if tokens == setting.config.micro_batch_tokens else {"micro_batch_tokens": tokens})
        memory = estimate_memory(dataclasses.replace(setting, config=dataclasses.replace(setting.config, **named)))
        if memory.total <= limit:
            return Fit(" ".join(f"train.{name}={value}" for name, value in named.items()), memory)
        if tokens <= fewest:
            return None
        tokens = max(tokens // 2, fewest)


def _runnable(setting: Setting, lever: dict[str, Any]) -> dict[str, Any]:
    """The lever with another optimizer, where it and the settings that it leaves cannot run in so many processes."""
    with_it = dataclasses.replace(setting.config, **lever)
    return lever if conflict_in_ranks(with_it, setting.ranks) is None else lever | {"optimizer": "adamw-bf16"}


def misfit(name: str, setting: Setting, memory: Memory, device: Device) -> list[str]:
    """Why a training does not fit into its devices and what would, in lines; none if it fits, or if their memory is not known."""
    if device.memory is None or memory.total <= device.memory:
        return []
    part = memory.largest
    lines = [
        f"training {name} needs {gib(memory.total)} on each of {plural(device.ranks, device.noun)}, and there are "
        f"{gib(device.memory)} ({device.memory_basis}); the largest part is {part.name}: {gib(part.num_bytes)} = {part.basis}"
    ]
    fits = what_fits(setting, device.memory)
    same = [fit for fit in fits if "train.processes" not in fit.overrides]
    if not same:
        lines.append(f"no setting makes it fit on {plural(device.ranks, device.noun)} of {gib(device.memory)}")
    if fits:
        lines.append("what would fit: " + "; ".join(f"{fit.overrides} ({gib(fit.memory.total)} each)" for fit in fits))
    return lines


def refusal(config: Config) -> str | None:
    """Why the cell's training cannot run on the devices it is planned for, and what would fit; None if it can, or nobody knows.

    Lengths of sequences are assumed, so it is safe to ask before anything is made.
    """
    if config.method.name == "base":
        return None
    shape, device = shape_of(config.model), find_device(config)
    found = [*misplacement(config), *unrunnable(config, device)]
    if shape is not None:
        setting = setting_of(config, shape, device, assumed_lengths(config))
        found += misfit(f"model={config.model.name}", setting, estimate_memory(setting), device)
    return "; ".join(found) or None


def unrunnable(config: Config, device: Device) -> list[str]:
    """Which settings do not work in as many processes as there are devices; an empty list if all do."""
    conflict = conflict_in_ranks(config.train, device.ranks)
    return [f"train, in {plural(device.ranks, 'process')}: {conflict}"] if conflict else []


def estimate_in_words(
    shape: ShapeConfig,
    config: OptimizationConfig,
    *,
    device: str,
    precision: str,
    ranks: int,
    limit: float,
    lengths: Sequence[int],
    targets: int,
) -> str:
    """What a micro-batch should have taken, by parts, and which settings should take less: for the message when memory ran out.

    `device` is cuda or cpu, `precision` fp32 or bf16, `limit` the memory of the device in bytes; `lengths` and `targets` are those
    of the sequences in the micro-batch.
    """
    tokens = sum(lengths)
    whole = dataclasses.replace(config, micro_batch_tokens=tokens)
    # beside the gradients of another one like it
    setting = Setting(shape, whole, device, precision, ranks, 2 * tokens * ranks, max(lengths), targets / tokens)
    memory = estimate_memory(setting)
    off = "so an estimate was off, or another process holds memory" if memory.total <= limit else "so it could not fit"
    told = "; ".join(f"{part.name} {gib(part.num_bytes)}" for part in memory.parts)
    fits = what_fits(setting, _SAFER * min(limit, memory.total))
    levers = "; ".join(f"{fit.overrides} ({gib(fit.memory.total)})" for fit in fits if fit.overrides)
    return (
        f"the estimate for {tokens:,} tokens was {gib(memory.total)} of {gib(limit)}, {off}: {told}. "
        f"Estimated to fit: {levers or 'nothing on these devices; take larger ones, or more of them'}"
    )


_SAFER = 0.95  # of the memory that ran out, what another setting may need


def gib(num_bytes: float) -> str:
    """Bytes as text."""
    return f"{num_bytes / GIB:,.1f} GiB" if num_bytes >= 0.1 * GIB else f"{num_bytes / 2**20:,.1f} MiB"


def plural(count: int, noun: str) -> str:
    """A counted noun."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}{'es' if noun.endswith(('s', 'ch')) else 's'}"
