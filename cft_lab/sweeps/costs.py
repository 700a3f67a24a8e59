"""What a stage that is yet to be made is expected to cost: GPU-hours, dollars, disk. Every figure says what it rests on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cft_lab import pipeline
from cft_lab.config import PROJECT_ROOT, Config, WriterConfig
from cft_lab.data.methods import parts
from cft_lab.engines.api.cost import CHARACTERS_PER_TOKEN, price_of
from cft_lab.evaluation.benchmarks import BENCHMARKS
from cft_lab.store import Store
from cft_lab.sweeps.plan import Plan, PlannedStage
from cft_lab.training.costs import GB, count_steps, estimate_disk
from cft_lab.training.devices import passes_precision
from cft_lab.training.lengths import Lengths, assumed_lengths
from cft_lab.training.shapes import cached_shape, count_parameters, shape_of

#: "8xH100, about 1 hour" for 50,000 critiques and a 7B model (arXiv 2501.17703): GPU-hours, examples, parameters
_PAPER_TRAINING = (8.0, 50_000, 7.6e9)
#: tokens that one GPU generates in a second with many texts under way, for 7.6e9 parameters: an assumption, not a measurement
_GENERATED_PER_S = 8_000.0
_SOLUTION_TOKENS = 600  # of an evaluated text; an assumption
_QUESTION_TOKENS = 150  # of a benchmark's question and how it is asked; an assumption
#: generations of an item; two-stage also critiques, and goes on where it finds mistakes: an assumption for it
_TURNS = {"direct": 1.0, "single-pass": 1.5, "two-stage": 4.0}
#: mean characters of question and solution, and of the critique, over 120 released rows of WebInstruct-CFT
_ROW_CHARACTERS, _CRITIQUE_CHARACTERS = 2127, 2242
_SYSTEM_CHARACTERS = 600  # of the teacher's system prompt


@dataclass(frozen=True)
class Cost:
    """What one or more stages cost; None is unknown. `bases` say what the figures rest on."""

    gpu_hours: float | None = 0.0
    usd: float | None = 0.0
    disk_gb: float | None = 0.0
    bases: tuple[str, ...] = ()

    def __add__(self, other: Cost) -> Cost:
        """Both together; what is unknown of one is unknown of both."""
        return Cost(
            _sum(self.gpu_hours, other.gpu_hours),
            _sum(self.usd, other.usd),
            _sum(self.disk_gb, other.disk_gb),
            tuple(dict.fromkeys((*self.bases, *other.bases))),
        )


def _sum(first: float | None, second: float | None) -> float | None:
    return None if first is None or second is None else first + second


def total(costs: Iterable[Cost]) -> Cost:
    """All together."""
    return sum(costs, Cost())


@dataclass(frozen=True)
class Tokens:
    """Mean prompt and output tokens of an API's rows, and what says so."""

    prompt: float
    output: float
    basis: str


Seen = Mapping[tuple[str, str], Tokens]


def rows_seen(root: Path) -> Seen:
    """(what was asked for, model) -> the rows that finished stages of this store got from an API.

    A writer is asked for rows of a stage, named like it; a model that is evaluated for items, by an inference protocol.
    """
    sums: dict[tuple[str, str], tuple[int, int, int]] = {}
    for _, manifest in Store(root).finished():
        counts = manifest["counts"]
        what, model, rows = _evaluated(manifest) if manifest["stage"] == "generations" else _written_rows(manifest)
        if model and rows and counts.get("prompt_tokens"):
            prompt, output, before = sums.get((what, model), (0, 0, 0))
            sums[what, model] = prompt + counts["prompt_tokens"], output + counts["tokens"], before + rows
    return {
        (what, model): Tokens(prompt / rows, output / rows, f"the mean of {rows:,} rows that it has written here")
        for (what, model), (prompt, output, rows) in sums.items()
    }


def _written_rows(manifest: Mapping[str, Any]) -> tuple[str, str | None, int]:
    counts = manifest["counts"]
    model = next((value for name, value in manifest["config"].items() if name.endswith(".model")), None)
    return manifest["stage"], model, counts.get("asked", 0) - counts.get("failed", 0) - counts.get("refused", 0)


def _evaluated(manifest: Mapping[str, Any]) -> tuple[str, str | None, int]:
    """An item counts once for each sample, with all texts that its protocol wants."""
    counts = manifest["counts"]
    if "api_model" not in counts:
        return "", None, 0
    return manifest["config"]["inference"]["protocol"], counts["api_model"], counts["generations"]


def plan_costs(plan: Plan, stages: Sequence[PlannedStage], root: Path) -> dict[str, Cost]:
    """Key -> cost of those stages of a plan."""
    seen = rows_seen(root)
    benchmarks: dict[str, str] = {}  # key of generations -> benchmark
    for config in plan.configs:
        scored = pipeline.plan(config).result.upstream
        benchmarks |= {scored[name].upstream["generations"].key: name for name in config.benchmarks.names}
    return {stage.key: _stage_cost(stage, plan.configs[stage.cell], benchmarks.get(stage.key, ""), seen) for stage in stages}


def _stage_cost(stage: PlannedStage, config: Config, benchmark: str, seen: Seen) -> Cost:
    if stage.name == "candidates":
        return training_cost(config)
    if stage.name == "selected":
        return selection_cost(config)
    if stage.name == "generations":
        return evaluation_cost(config, benchmark, seen)
    if stage.name == "responses":
        return _written(stage, config, config.responses, config.responses.kind, seen)
    if stage.name == "answers" or (stage.name == "critiques" and config.data.critiques == "teacher"):
        return _written(stage, config, config.teacher, config.teacher.kind, seen)
    return Cost()


def training_cost(config: Config) -> Cost:
    """A fine-tuning: GPU-hours from the paper's own, disk as training/costs.py counts it. Lab models train on the CPU."""
    train, shape = config.train, shape_of(config.model)
    if config.model.scale == "lab":
        return Cost(bases=("lab models train and answer on the CPU, within minutes",))
    if shape is None:
        return Cost(None, 0.0, None, (f"unknown: model.shape of {config.model.name} is not in conf/model",))
    parameters, lengths = count_parameters(shape).total, assumed_lengths(config)
    hours, paper_examples, paper_parameters = _PAPER_TRAINING
    steps = count_steps(config, lengths)
    disk = estimate_disk(config, shape, steps, passes_precision(train, "cuda"), PROJECT_ROOT / config.output_root)
    return Cost(
        hours * train.epochs * lengths.examples / paper_examples * parameters / paper_parameters,
        0.0,
        disk.needed / GB,
        (
            "training: the paper's 8 H100-hours for 50,000 critiques and 7.6 billion parameters, scaled by examples and "
            "parameters; disk: the weights of every candidate that is kept, and three resume states",
            *_examples_basis(config, lengths),
        ),
    )


def _examples_basis(config: Config, lengths: Lengths) -> list[str]:
    """What the number of examples rests on, where it is not said but follows from a budget of tokens."""
    budgets = [part.data.supervised_tokens for part in parts(config).values() if part.data.supervised_tokens is not None]
    tokens = " and ".join(f"{budget:,}" for budget in budgets)
    return [f"{lengths.examples:,} examples with {tokens} supervised tokens: {lengths.basis}"] if budgets else []


def selection_cost(config: Config) -> Cost:
    """Scoring every candidate on the validation set."""
    selection, train = config.train.selection, config.train
    if selection.scored_on is None:
        return Cost()
    examples = assumed_lengths(config).examples
    candidates = -(-(-(-examples // train.global_batch_size) * train.epochs) // train.save_every_steps)
    return _generated(config, candidates * BENCHMARKS[selection.scored_on].size)


def evaluation_cost(config: Config, benchmark: str, seen: Seen) -> Cost:
    """The generations of one benchmark, here or through an API."""
    size, protocol = BENCHMARKS[benchmark].size, config.inference.name
    items = min(config.benchmarks.items or size, size) * config.inference.samples
    if config.engine.kind != "openai":
        return _generated(config, items * _TURNS[protocol])
    model = str(config.model.api_model)
    return _asked(model, config.engine.mode, items, config, seen.get((protocol, model)) or _assumed_item(protocol))


def _assumed_item(protocol: str) -> Tokens:
    """An item of a benchmark through an API, with all its texts."""
    output, prompt = _TURNS[protocol] * _SOLUTION_TOKENS, float(_QUESTION_TOKENS)
    if protocol == "two-stage":  # each text has a prompt, and every other is a critique, whose prompt has the solution
        prompt = _TURNS[protocol] * _QUESTION_TOKENS + output / 2
    return Tokens(prompt, output, f"assumed, not measured: {prompt:.0f} prompt and {output:.0f} output tokens an item, {protocol}")


def _generated(config: Config, texts: float) -> Cost:
    if config.model.scale == "lab":
        return Cost(bases=("lab models train and answer on the CPU, within minutes",))
    shape = shape_of(config.model)
    told = f", as if it had 7.6 billion parameters ({config.model.name}: conf/model has no shape)" if shape is None else ""
    return _on_gpus(texts, _PAPER_TRAINING[2] if shape is None else count_parameters(shape).total, told)


def _generated_by(writer: WriterConfig, texts: float) -> Cost:
    """What another model than the trained one writes on this machine."""
    shape = None if writer.model is None else cached_shape(writer.model, writer.revision)
    if shape is None:
        told = f"GPU-hours of {writer.model} unknown: no folder or cached model that tells a Qwen2 or Llama shape"
        return Cost(gpu_hours=None, bases=(told,))
    return _on_gpus(texts, count_parameters(shape).total, "")


def _on_gpus(texts: float, parameters: float, told: str) -> Cost:
    basis = (
        f"generation: assumed, not measured: {_SOLUTION_TOKENS} tokens a text and {_GENERATED_PER_S:,.0f} tokens/s on a GPU for "
        f"7.6 billion parameters{told}"
    )
    return Cost(texts * _SOLUTION_TOKENS / _GENERATED_PER_S * parameters / _PAPER_TRAINING[2] / 3600, bases=(basis,))


def _written(stage: PlannedStage, config: Config, writer: WriterConfig, kind: str, seen: Seen) -> Cost:
    if kind == "self":
        return _generated(config, config.data.pool)
    if kind == "local":
        return _generated_by(writer, config.data.pool)
    if kind != "openai":
        return Cost()
    model = str(writer.model)
    return _asked(model, writer.mode, config.data.pool, config, seen.get((stage.name, model)) or _assumed_row())


def _assumed_row() -> Tokens:
    """A row of a data set that an API writes: a critique."""
    prompt = (_SYSTEM_CHARACTERS + _ROW_CHARACTERS) / CHARACTERS_PER_TOKEN
    output = _CRITIQUE_CHARACTERS / CHARACTERS_PER_TOKEN
    told = f"assumed {prompt:.0f} prompt and {output:.0f} output tokens a row, as in 120 released rows of WebInstruct-CFT"
    return Tokens(prompt, output, told)


def _asked(model: str, mode: str, rows: int, config: Config, each: Tokens) -> Cost:
    """Dollars of rows that an API writes."""
    price = price_of(model, config.prices)
    if price is None:
        return Cost(usd=None, bases=(f"dollars unknown: prices has no {model}",))
    dated = f"; prices of {config.prices.dated}" if config.prices.dated else ""
    usd = price.cost(round(rows * each.prompt), round(rows * each.output), mode)
    return Cost(usd=usd, bases=(f"{model}: {each.basis}; {mode}{dated}",))
