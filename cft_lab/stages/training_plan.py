"""What `train.preflight=true` prints: the plan of a training, before a GPU, weights, a network or data are needed.

Figures are measured where the examples, the tokenizer or an earlier training of the same model are in the store; all others are
estimates, each labelled with what it rests on. The formulae are in training/estimate.py, shapes.py and costs.py.
"""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cft_lab.config import Config, ConfigError, DataError
from cft_lab.json_files import read_records
from cft_lab.prompts import FORMATS
from cft_lab.records import Example
from cft_lab.runtime import hub_cache, not_a_repository, render_prompt, render_target, token_ids
from cft_lab.stages.common import EXAMPLES, MODEL, cell_label
from cft_lab.store import Stage, Store
from cft_lab.tracking import read_metrics
from cft_lab.training.batches import pack
from cft_lab.training.costs import GB, SHAPE_REMEDY, Disk, Steps, Time, count_steps, estimate_disk, estimate_time
from cft_lab.training.devices import Device, find_device, misplacement
from cft_lab.training.encode import Encoded, encode_examples
from cft_lab.training.estimate import Memory, Setting, estimate_memory
from cft_lab.training.fitting import gib, misfit, plural, setting_of, unrunnable
from cft_lab.training.lengths import Lengths, assumed_lengths, measured_lengths
from cft_lab.training.shapes import count_parameters, count_text, shape_basis, shape_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_SAMPLE = 2000  # examples whose tokens are counted
_SHOWN, _SHOWN_BRIEFLY = 400, 160  # characters of a prompt or target that are shown in a plan, and before a training
_SAID = ("tokens", "steps", "memory", "disk")  # of a plan, before a training starts
_MOMENTS = {"loss": "at the loss", "backward": "in the backward pass", "end": "at the end of the backward pass"}

Row = tuple[str, str, str]  # what, figure, basis


@dataclass(frozen=True)
class TrainingPlan:
    """Everything that is known of a training before it starts. `problems` are reasons why it cannot run as it is."""

    label: str
    rows: tuple[Row, ...]
    notes: tuple[str, ...]
    problems: tuple[str, ...]


def plan_training(config: Config, trained: Stage | None, store: Store) -> TrainingPlan:
    """The plan of a cell's training; `trained` is its candidates stage, whose upstream stages are looked up in the store.

    Raises ConfigError if the cell trains nothing, or if nobody knows what the model looks like.
    """
    speed = _measured_speed(trained, store, find_device(config))
    return plan_from(config, _tokenizer(config, trained, store), _examples(trained, store), store.root, speed)


def plan_from(
    config: Config,
    tokenizer: PreTrainedTokenizerBase | None,
    examples: Sequence[Example],
    folder: Path,
    speed: tuple[float, str] | None = None,
    *,
    runs_here: bool = False,
) -> TrainingPlan:
    """The same from what is known: the tokenizer and examples, if they are there, `folder` on the disk that is written to.

    `runs_here`: it is no plan for another machine.
    """
    assumed = assumed_lengths(config)
    shape = shape_of(config.model)
    if shape is None:
        raise ConfigError(f"model={config.model.name} cannot be planned for, because its shape is not known: {SHAPE_REMEDY}")
    device = find_device(config)
    known = tokenizer is not None and config.model.end_of_turn in tokenizer.get_vocab()
    examples = examples if known else []
    lengths = _measured(config, tokenizer, examples) if tokenizer and examples else assumed
    steps = count_steps(config, lengths)
    setting = setting_of(config, shape, device, lengths)
    memory = estimate_memory(setting)
    disk = estimate_disk(config, shape, steps, setting.precision, folder)
    time = estimate_time(config.train, shape, lengths, device, speed)
    checks = list(_tokenizer_checks(config, tokenizer, examples)) if tokenizer else []
    problems = [
        *(misplacement(config) if device.here or config.cluster.kind == "slurm" else ()),
        *unrunnable(config, device),
        *misfit(f"model={config.model.name}", setting, memory, device),
        *(line for fine, line in checks if not fine),
    ]
    runs_here = runs_here or device.here
    if disk.shortage and runs_here:
        problems.append(disk.shortage)
    notes = [line for fine, line in checks if fine] or [f"not checked: the tokenizer of {_source(config)} is not here"]
    if disk.shortage and not runs_here:
        notes.append(f"on this machine, {disk.shortage}")
    shown = list(_decoded_row(config, tokenizer, examples)) if tokenizer and examples else ["no row is shown: not made yet"]
    rows = (
        *_model_rows(setting, device, config),
        *_token_rows(lengths),
        *_step_rows(config, setting, steps),
        *_memory_rows(memory, device),
        *_cost_rows(time, disk, device),
    )
    return TrainingPlan(cell_label(config), rows, (*notes, *shown), tuple(problems))


def _source(config: Config) -> str:
    return config.model.hub_id or config.model.name


def _model_rows(setting: Setting, device: Device, config: Config) -> Iterator[Row]:
    shape, train = setting.shape, setting.config
    number = count_parameters(shape).total
    told = f"{count_text(number)} parameters: {shape.layers} blocks of width {shape.hidden_size:,}, vocabulary {shape.vocab_size:,}"
    where = shape_basis(config.model)
    yield "model", told, where
    kept = f"weights in {train.weights}, {train.optimizer}, checkpointing {train.activation_checkpointing}"
    yield "settings", f"passes in {setting.precision}, {kept}", "train.*"
    memory = f" of {gib(device.memory)}" if device.memory is not None else ""
    name = f" ({device.name})" if device.name not in ("CPU", "GPU") else ""
    yield "device", f"{plural(device.ranks, device.noun)}{memory}{name}", device.memory_basis


def _token_rows(lengths: Lengths) -> Iterator[Row]:
    dropped = f"{lengths.too_long:,} too long, {lengths.without_target:,} without target"
    rows = f"{lengths.examples:,} examples, {lengths.sequences:,} sequences ({dropped})"
    yield "tokens", f"{rows}; {lengths.tokens / 1e6:,.2f} M tokens an epoch, {lengths.target_share:.0%} supervised", lengths.basis
    told = ", ".join(f"{percent} %: {length:,}" for percent, length in lengths.percentiles)
    yield "lengths", f"mean {lengths.mean:,.0f}; percentiles {told}", "as above"


def _step_rows(config: Config, setting: Setting, steps: Steps) -> Iterator[Row]:
    train = config.train
    yield "steps", steps.words, f"{plural(train.epochs, 'epoch')}, a candidate every {train.save_every_steps}"
    fit = f"{plural(setting.micro_batches, 'micro-batch')} of up to {setting.micro_batch_tokens:,} tokens"
    yield "batch", f"{train.global_batch_size:,} sequences a step; {fit} on each", "train.micro_batch_tokens"


def _memory_rows(memory: Memory, device: Device) -> Iterator[Row]:
    against = ""
    if device.memory is not None:
        against = f" of {gib(device.memory)} on each {device.noun}: {'fits' if memory.total <= device.memory else 'DOES NOT FIT'}"
    basis = "estimated" if device.memory is not None else f"estimated; nothing to compare with: {device.memory_basis}"
    yield "memory", f"{gib(memory.total)}{against}, peak {_MOMENTS[memory.moment]}", basis
    for part in memory.parts:
        yield "", f"{gib(part.num_bytes):>12}  {part.name}", part.basis


def _cost_rows(time: Time, disk: Disk, device: Device) -> Iterator[Row]:
    if time.hours is None or time.device_hours is None:
        yield "time", f"{time.flops:.2e} FLOP; hours not estimated", time.basis
    else:
        long = f"{time.hours:,.1f} hours" if time.hours >= 1 else f"{60 * time.hours:,.1f} minutes"
        of_gpus = f", {time.device_hours:,.1f} GPU-hours" if device.kind == "cuda" else ""
        yield "time", f"{time.flops:.2e} FLOP: {long}{of_gpus}; saving and selection come on top", time.basis
    held = f"{plural(disk.held, 'candidate')} of {disk.candidate / GB:,.3g} GB, resume states {disk.resume / GB:,.3g} GB"
    yield "disk", f"{disk.needed / GB:,.3g} GB at once: {held}; {disk.free / GB:,.3g} GB free", f"free at {disk.folder}"


def _examples(trained: Stage | None, store: Store) -> list[Example]:
    """The examples of this very cell, if they are made."""
    stage = trained.upstream["examples"] if trained else None
    if stage is None or not store.is_done(stage):
        return []
    return read_records(store.folder(stage) / EXAMPLES, Example)


def _tokenizer(config: Config, trained: Stage | None, store: Store) -> PreTrainedTokenizerBase | None:
    """The base model's tokenizer, if it lies on this disk: a lab model's, a folder's or one in the hub's cache."""
    stage = trained.upstream["base"] if trained else None
    folder = store.folder(stage) / MODEL if stage and store.is_done(stage) else _hub_folder(config)
    if folder is None or not (folder / "tokenizer_config.json").exists():
        return None
    from transformers import AutoTokenizer

    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    return tokenizer


def _hub_folder(config: Config) -> Path | None:
    """Where the tokenizer of a hub model would lie, be its weights there or not."""
    hub_id = config.model.hub_id
    if hub_id is None:
        return None
    if Path(hub_id).is_dir():
        return Path(hub_id)
    if not_a_repository(hub_id):
        return None  # the estimates need no weights; preflight refuses the run
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(hub_id, "tokenizer_config.json", cache_dir=hub_cache(), revision=config.model.revision)
    return Path(found).parent if isinstance(found, str) else None


def _measured(config: Config, tokenizer: PreTrainedTokenizerBase, examples: Sequence[Example]) -> Lengths:
    """Lengths of the real examples, or of as many as are quickly counted, evenly spread."""
    sample = examples[:: max(1, -(-len(examples) // _SAMPLE))]
    style, train = FORMATS[config.model.prompt_format].style, config.train
    encoded = encode_examples(sample, tokenizer, style, config.model.end_of_turn, train.max_length)
    if not encoded.sequences:
        longer = f"have more than train.max_length={train.max_length} tokens"
        raise ConfigError(f"all {len(sample):,} examples that were counted {longer}: raise it")
    counted = [len(sequence.ids) for sequence in encoded.sequences]
    basis = "measured on the examples in the store"
    found = measured_lengths(counted, encoded.num_targets, encoded.too_long, encoded.no_target, basis)
    if len(sample) == len(examples):
        return found
    share = len(examples) / len(sample)
    return dataclasses.replace(
        found,
        examples=len(examples),
        sequences=round(found.sequences * share),
        too_long=round(found.too_long * share),
        without_target=round(found.without_target * share),
        basis=f"measured on {len(sample):,} of the {len(examples):,} examples in the store",
    )


def _tokenizer_checks(
    config: Config, tokenizer: PreTrainedTokenizerBase, examples: Sequence[Example]
) -> Iterator[tuple[bool, str]]:
    """(whether all is well, what was found) of what goes wrong silently between a tokenizer, its special tokens and a training."""
    turn, style = config.model.end_of_turn, FORMATS[config.model.prompt_format].style
    stop = tokenizer.get_vocab().get(turn)
    found = f"token {stop}" if stop is not None else "not a token of this tokenizer"
    yield stop is not None, f"model.end_of_turn={turn!r} is {found}"
    if tokenizer.pad_token_id == stop:
        yield True, f"PAD is the end of the turn ({turn}): it stays supervised, because nothing is padded in training"
    if tokenizer.eos_token_id != stop:
        yield True, f"the EOS is another token ({tokenizer.eos_token}): candidates are saved to stop at either"
    if style == "chat" and not tokenizer.chat_template:
        yield False, f"the tokenizer has no chat template, which model.prompt_format={config.model.prompt_format} needs"
    if examples and stop is not None:
        split = sum(not _is_prefix(tokenizer, style, example) for example in examples[:100])
        of = min(len(examples), 100)
        yield True, f"prompt ids begin the ids of prompt and target together in {of - split} of {of} rows; both are encoded apart"


def _is_prefix(tokenizer: PreTrainedTokenizerBase, style: str, example: Example) -> bool:
    """Whether a model that generates after the prompt is at the token where training began its target."""
    prompt = render_prompt(tokenizer, style, example.messages)
    ids = token_ids(tokenizer, prompt)
    return token_ids(tokenizer, prompt + render_target(style, example.target))[: len(ids)] == ids


def _decoded_row(config: Config, tokenizer: PreTrainedTokenizerBase, examples: Sequence[Example]) -> Iterator[str]:
    """One row as the model reads it, decoded from its ids, the supervised part marked."""
    style = FORMATS[config.model.prompt_format].style
    for example in examples:
        encoded = encode_examples([example], tokenizer, style, config.model.end_of_turn, config.train.max_length)
        for sequence in encoded.sequences:
            yield f"a row of {len(sequence.ids):,} tokens, its {sequence.num_targets:,} supervised ones in ⟦⟧:"
            yield _row_text(tokenizer, sequence)
            return


def _row_text(tokenizer: PreTrainedTokenizerBase, row: Encoded, limit: int = _SHOWN) -> str:
    prompt, target = (str(tokenizer.decode(list(part))) for part in (row.ids[: row.start], row.ids[row.start :]))
    return f"{_shortened(prompt, limit)}⟦{_shortened(target, limit)}⟧"


def _shortened(text: str, limit: int) -> str:
    return text if len(text) <= limit else f"{text[: limit // 2]} [{len(text) - limit:,} characters more] {text[-limit // 2 :]}"


def _measured_speed(trained: Stage | None, store: Store, device: Device) -> tuple[float, str] | None:
    """Tokens a second of one device in the latest training of the same base model on such a device, and which that was."""
    if trained is None or not device.here:
        return None
    base = trained.upstream["base"].key
    for folder, manifest in reversed(list(store.finished())):
        if manifest["stage"] != "candidates" or manifest["upstream"].get("base") != base:
            continue
        counts = manifest["counts"]
        speeds = [row["tokens_per_s"] for row in read_metrics(folder) if "tokens_per_s" in row]
        if speeds and counts.get("device") == ("cpu" if device.kind == "cpu" else device.name):
            return statistics.median(speeds) / counts.get("processes", 1), f"in the training {manifest['key']} of this model here"
    return None


def check_before_training(
    config: Config, tokenizer: PreTrainedTokenizerBase, examples: Sequence[Example], folder: Path, say: Callable[[str], None]
) -> None:
    """Says the plan of a training that is about to start, and a micro-batch of it. Raises DataError if it cannot run as it is."""
    try:
        plan = plan_from(config, tokenizer, examples, folder, runs_here=True)
    except ConfigError as error:  # no example fits, or another architecture than those that are estimated
        if shape_of(config.model) is not None:
            raise DataError(str(error)) from error
        wrong = tuple(line for fine, line in _tokenizer_checks(config, tokenizer, examples) if not fine)
        plan = TrainingPlan(cell_label(config), (), (), wrong)
        say(f"        no plan: {error}")
    for what, figure, basis in plan.rows:
        if what in _SAID:
            say(f"        {what:<7} {figure} [{basis}]")
    if plan.problems:
        raise DataError("; ".join(plan.problems))
    for line in _micro_batch(config, tokenizer, examples):
        say(line)


def _micro_batch(config: Config, tokenizer: PreTrainedTokenizerBase, examples: Sequence[Example]) -> Iterator[str]:
    """The first examples that fill a micro-batch, as they lie end to end, decoded from their ids, what is supervised marked."""
    style, train = FORMATS[config.model.prompt_format].style, config.train
    rows: list[Encoded] = []
    for example in examples:
        rows += encode_examples([example], tokenizer, style, config.model.end_of_turn, train.max_length).sequences
        if sum(len(row.ids) for row in rows) > train.micro_batch_tokens:
            rows = rows[:-1] or rows
            break
    packed = pack(rows)
    counts = f"{plural(len(rows), 'sequence')}, {len(packed.input_ids):,} tokens, {len(packed.targets):,} of them"
    yield f"        a micro-batch of {counts} supervised and in ⟦⟧:"
    more = f" [{len(rows) - 2:,} sequences more]" if len(rows) > 2 else ""
    told = "".join(_row_text(tokenizer, row, _SHOWN_BRIEFLY) for row in rows[:2]) + more
    yield "\n".join("          | " + line for line in told.splitlines())


def print_plan(plan: TrainingPlan) -> None:
    """Prints a plan on stdout."""
    from rich.console import Console
    from rich.table import Table

    console = Console(markup=False, highlight=False)
    console.width = max(console.width, 132)
    table = Table(box=None, pad_edge=False)
    for head in ("", "estimate", "basis"):
        table.add_column(head, overflow="fold")
    for what, figure, basis in plan.rows:
        table.add_row(what, figure, f"[{basis}]")
    console.print(f"Training plan: {plan.label}. Nothing was started.", style="bold", soft_wrap=True)
    console.print(table)
    for note in plan.notes:
        console.print(note, soft_wrap=True)
