"""Refuses a cell that cannot run, before anything heavy is imported or made: one line for each thing that is wrong.

Looks at the config, at device files and at the hub's local cache; it imports no torch and touches no network.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from cft_lab.config import Config, ConfigError, MixConfig, check_fields
from cft_lab.data.methods import METHODS, MIXES, gold_is_the_responses_own, needs_teacher, parts
from cft_lab.engines.api.settings import setting_problems
from cft_lab.evaluation.benchmarks import BENCHMARKS, HUB_BENCHMARKS, OVERLAPS
from cft_lab.lab.benchmarks import LAB_SETS
from cft_lab.lab.language import FAMILIES, HELD_OUT
from cft_lab.lab.tokenizer import TURN_END
from cft_lab.lab.webtext import DOCUMENT_KINDS
from cft_lab.lab.world import WeightedT
from cft_lab.runtime import cached_snapshot, has_gpu, hub_cache, not_a_repository
from cft_lab.training.optimizers import conflicting_levers, missing_optimizer


def check(config: Config) -> None:
    """Raises ConfigError, with every problem found, if the config contradicts itself."""
    problems = [*check_fields(config), *_cross_checks(config)]
    if problems:
        raise ConfigError(*problems)


def _cross_checks(config: Config) -> Iterator[str]:
    for source, part in (parts(config) if config.method.name in {**METHODS, **MIXES} else {}).items():
        yield from _check_arm(source, part)
    if config.method.name != "base":
        yield from _check_selection(config)
        for name in config.decontamination.benchmarks:
            yield from _check_benchmark("decontamination.benchmarks", name)
    if config.inference.samples > 1 and config.temperature == 0:
        yield (
            f"inference.samples={config.inference.samples} draws the same text so many times at temperature=0: "
            "raise temperature, or set inference.samples=1"
        )
    if "" in config.inference.stop:
        yield f"inference.stop={list(config.inference.stop)} has an empty string, which would cut every text: remove it"
    if not config.benchmarks.names:
        yield f"benchmarks.names=[] is empty: name at least one of {', '.join(BENCHMARKS)}"
    for name in config.benchmarks.names:
        yield from _check_benchmark("benchmarks.names", name)
    for name in config.benchmarks.paths:
        if name not in HUB_BENCHMARKS:
            yield f"benchmarks.paths.{name} is not a benchmark that is read from files: choose from {', '.join(HUB_BENCHMARKS)}"
    if len(set(config.benchmarks.names)) < len(config.benchmarks.names):
        yield f"benchmarks.names={list(config.benchmarks.names)} names a benchmark twice: name each once"
    for group in ("teacher", "responses", "engine"):
        yield from setting_problems(getattr(config, group), group)
    if config.method.name != "base":
        yield from (f"train: {line}" for line in conflicting_levers(config.train))
    yield from _check_model(config)


def _check_arm(source: str, config: Config) -> Iterator[str]:
    """A single arm; `source` is the config field that its data come from."""
    data, teacher = config.data, config.teacher
    if needs_teacher(config) and teacher.kind == "none":
        yield (
            f"method={config.method.name} needs a teacher, but teacher={teacher.name or 'none'}: "
            "choose one, for example teacher=oracle (lab) or teacher=gpt-4o-2024-11-20 (paper)"
        )
    if needs_teacher(config) and teacher.kind == "oracle" and data.source != "lab":
        yield (f"teacher={teacher.name} reads only the lab world, but {source}={data.name}: choose another teacher or a lab source")
    if data.supervised_tokens is None and data.examples is not None and data.examples > data.pool:
        yield (
            f"{source}.examples={data.examples} is more than {source}.pool={data.pool}: "
            f"raise {source}.pool or lower {source}.examples"
        )
    if data.critiques == "released" and data.layout != "critique" and "critique" not in data.columns:
        yield (
            f"{source}.critiques=released, but {source}={data.name} has no critiques: map their column with "
            f"+{source}.columns.critique=COLUMN, or set {source}.critiques=teacher"
        )
    if data.critiques == "released" and config.responses.kind != "reference" and config.method.name != "sft":
        yield (
            f"{source}.critiques=released are about the data set's own responses, but responses={config.responses.name}: "
            f"set responses=reference, or {source}.critiques=teacher"
        )
    if config.method.keep_critiques == "agreeing" and gold_is_the_responses_own(config):
        yield (
            f"method.keep_critiques=agreeing compares verdicts with the gold answer, but {source}.gold={data.gold} reads it from "
            "the very solution that is critiqued: map a column of gold answers, or choose responses=self"
        )
    if data.source == "lab":
        yield from _check_mix(data.lab, f"{source}.lab")


def _check_selection(config: Config) -> Iterator[str]:
    selection = config.train.selection
    if selection.mode != "clean":
        return
    name = selection.benchmark
    yield from _check_benchmark("train.selection.benchmark", name)
    if name in LAB_SETS and LAB_SETS[name].split == "test":
        yield f"train.selection.benchmark={name} is a test set: choosing a checkpoint on it would leak; use lab-validation"
    for reported in config.benchmarks.names:
        if name == reported or (name, reported) in OVERLAPS:
            yield (
                f"train.selection.benchmark={name} is {'' if name == reported else 'part of '}{reported}, which benchmarks.names "
                "reports: use math-train-clean, or train.selection.mode=paper, which does so and is flagged"
            )


def _check_model(config: Config) -> Iterator[str]:
    lab, api = config.model.lab, config.model.api_model
    ways = {"model.lab (made here)": lab, "model.hub_id (loaded)": config.model.hub_id, "model.api_model (behind an API)": api}
    if sum(way is not None for way in ways.values()) != 1:
        has = " and ".join(name for name, way in ways.items() if way is not None) or "none"
        yield f"model={config.model.name} must have exactly one of {', '.join(ways)}, and has {has}"
    if (api is not None) != (config.engine.kind == "openai"):
        yield (
            f"engine.kind={config.engine.kind} does not fit model={config.model.name}: engine=openai evaluates models that have "
            "model.api_model, and only those"
        )
    if api is not None and config.method.name != "base":
        yield f"model={config.model.name} is behind an API and cannot be trained: use method=base, not {config.method.name}"
    for name, shape in (("model.lab", lab), ("model.shape", config.model.shape)):
        if shape is not None and (shape.hidden_size % shape.heads or shape.heads % shape.kv_heads):
            yield (
                f"{name}.heads={shape.heads} must divide {name}.hidden_size={shape.hidden_size} and be a multiple of "
                f"{name}.kv_heads={shape.kv_heads}: change one of them"
            )
    if lab is None:
        return
    if config.model.end_of_turn != TURN_END:
        yield f"model.end_of_turn={config.model.end_of_turn!r} is not in the lab tokenizer: lab models end a turn with {TURN_END}"
    web = lab.pretrain.web
    yield from _check_mix(web, "model.lab.pretrain.web")
    yield from _check_weights("model.lab.pretrain.web.kinds", web.kinds, DOCUMENT_KINDS)


def _check_mix(mix: MixConfig | None, name: str) -> Iterator[str]:
    if mix is None:
        yield f"{name} is missing: give it families, steps and noise"
        return
    trained = [family for family in FAMILIES if family not in HELD_OUT]
    yield from _check_weights(f"{name}.families", mix.families, trained)
    yield from _check_weights(f"{name}.steps", mix.steps, range(1, 7))
    for rates in ("noise", "typical"):
        for family in set(getattr(mix, rates)) - set(FAMILIES):
            yield f"{name}.{rates}.{family} is unknown: choose from {', '.join(FAMILIES)}"


def _check_weights(name: str, weights: Mapping[WeightedT, float], allowed: Iterable[WeightedT]) -> Iterator[str]:
    choices = list(allowed)
    for key in weights:
        if key not in choices:
            yield f"{name}.{key} is not allowed: choose from {', '.join(map(str, choices))}"
    if not sum(weights.values()) > 0:
        yield f"{name}={dict(weights)} has no weight above 0: give at least one of {', '.join(map(str, choices))}"


def _check_benchmark(field: str, name: str) -> Iterator[str]:
    if name not in BENCHMARKS:
        yield f"{field}={name!r} is unknown: choose from {', '.join(BENCHMARKS)}"


def compute_lacks(config: Config) -> Iterator[str]:
    """What this machine lacks for training and evaluating the cell's model, one line each."""
    model = config.model
    if model.scale == "paper" and model.api_model is None and not has_gpu():
        yield f"model={model.name} needs a GPU, and there is none here: run where there is one, or choose model=lab-qwen2"
    if config.engine.kind == "vllm" and importlib.util.find_spec("vllm") is None:
        yield "engine=vllm: the package vllm is not installed: `pip install 'cft_lab[vllm]'`, or choose engine=transformers"
    if config.method.name != "base" and (missing := missing_optimizer(config.train)):
        yield f"train: {missing}"


def lacking(config: Config, *, computes: bool = True) -> Iterator[str]:
    """What this machine lacks for the cell, one line each; stages tell what they lack themselves.

    `computes`: whether this is the machine that trains and evaluates.
    """
    yield from _missing_benchmarks(config)
    if computes:
        yield from compute_lacks(config)
    model = config.model
    if model.hub_id is not None and not_a_repository(model.hub_id):
        yield f"model.hub_id={model.hub_id}: no such folder, and no name of a hub repository (owner/name): correct it"
    elif model.hub_id is not None and cached_snapshot(model.hub_id, model.revision) is None:
        at = f" at revision {model.revision}" if model.revision else ""
        yield (
            f"model.hub_id={model.hub_id}: its weights{at} are not in the local cache {hub_cache()}: fetch them where there is a "
            f"network (`hf download {model.hub_id}`), set HF_HUB_CACHE, or set model.hub_id to a local folder"
        )
    if config.tracking.kind == "wandb" and importlib.util.find_spec("wandb") is None:
        yield "tracking=wandb: the package wandb is not installed: `pip install wandb`, or choose tracking=none"
    if config.tracking.kind == "wandb" and config.tracking.mode == "online" and not _wandb_key():
        yield "tracking.mode=online needs WANDB_API_KEY in the environment, or `wandb login`; or use tracking.mode=offline"


def _missing_benchmarks(config: Config) -> Iterator[str]:
    """Benchmarks of the cell, its validation set included, whose rows are not on this disk."""
    used = dict.fromkeys(config.benchmarks.names)
    if config.method.name != "base" and config.train.selection.scored_on is not None:
        used[config.train.selection.scored_on] = None
    for name in used:
        problem = BENCHMARKS[name].missing(config.benchmarks.paths)
        if problem:
            yield problem


def _wandb_key() -> bool:
    netrc = Path(os.environ.get("NETRC", "~/.netrc")).expanduser()
    return bool(os.environ.get("WANDB_API_KEY")) or (netrc.exists() and "wandb" in netrc.read_text(errors="replace"))
