"""Which stages' keys each config field changes, written down; and that the others really change nothing."""

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest

from cft_lab import pipeline
from cft_lab.config import NOT_IN_KEYS, Config, fields_of

ComposeCell = Callable[..., Config]

#: a cell in which every field is live
LIVE = (
    "method=cft",
    "responses=self",
    "inference=two-stage",
    "temperature=0.7",
)

ORDER = (
    "base_model",
    "problems",
    "responses",
    "critiques",
    "examples",
    "candidates",
    "selected",
    "generations",
    "scores",
    "result",
)
EVALUATED = frozenset({"generations", "scores", "result"})
SELECTED = EVALUATED | {"selected"}
TRAINED = SELECTED | {"candidates"}
EXAMPLES = TRAINED | {"examples"}
CRITIQUES = EXAMPLES | {"critiques"}
RESPONSES = CRITIQUES | {"responses"}
EVERYTHING_BUT_PROBLEMS = RESPONSES | {"base_model"}
EVERYTHING_BUT_BASE = RESPONSES | {"problems"}
NOTHING: frozenset[str] = frozenset()

#: how a server is called, in the groups teacher, responses and engine
CALLING = (
    "base_url",
    "api_key_env",
    "mode",
    "max_in_flight",
    "timeout_s",
    "max_retries",
    "max_cost_usd",
    "confirm_cost",
    "confirm_above_usd",
)

#: what decides the speed and memory of a training, and where it runs
TRAINING_SPEED = ("micro_batch_tokens", "loss_chunk_tokens", "activation_checkpointing", "compile", "resume_every_steps")
TRAINING_PLACE = ("processes", "nodes", "max_restarts", "preflight", "device_memory_gb", "device_tflops")

#: field, or group of fields ending in *, -> the stages whose keys it changes
CHANGES: dict[str, frozenset[str]] = {
    "model.name": NOTHING,
    "model.scale": NOTHING,
    "model.*": EVERYTHING_BUT_PROBLEMS,
    "model.shape.*": NOTHING,
    "model.shape": NOTHING,
    **{f"{place}.{name}": NOTHING for place in ("train", "model.lab.pretrain.optimization") for name in TRAINING_SPEED},
    **{f"train.{name}": NOTHING for name in TRAINING_PLACE},
    "model.lab.pretrain.optimization.save_every_steps": NOTHING,
    "data.name": NOTHING,
    "data.path": NOTHING,
    "data.streaming": NOTHING,
    "data.examples": EXAMPLES,
    "data.supervised_tokens": EXAMPLES,
    "data.*": EVERYTHING_BUT_BASE,
    "decontamination.*": EVERYTHING_BUT_BASE,
    "prices.*": NOTHING,
    **{f"{group}.{name}": NOTHING for group in ("teacher", "responses", "engine") for name in CALLING},
    **{f"{group}.{name}": NOTHING for group in ("teacher", "responses") for name in ("accept_failed", "retry_failed")},
    "responses.name": NOTHING,
    "responses.*": RESPONSES,
    "teacher.name": NOTHING,
    "teacher.*": CRITIQUES,
    "method.*": EXAMPLES,
    "train.selection.*": SELECTED,
    "train.*": TRAINED,
    "engine.batch_size": NOTHING,
    "engine.shards": NOTHING,
    "engine.gpu_memory_utilization": NOTHING,
    "engine.*": RESPONSES,
    "inference.name": EVALUATED,
    "inference.max_new_tokens": EVALUATED,
    "inference.samples": EVALUATED,
    "inference.max_rounds": EVALUATED,
    "inference.top_p": EVALUATED,
    "inference.stop": RESPONSES,
    "benchmarks.name": NOTHING,
    "benchmarks.names": frozenset({"result"}),
    "benchmarks.items": EVALUATED,
    "benchmarks.paths": NOTHING,
    "tracking.*": NOTHING,
    "cluster.*": NOTHING,
    "temperature": EVALUATED,
    "seed": TRAINED,
    "output_root": NOTHING,
    "progress": NOTHING,
}


def expected(field: str) -> frozenset[str]:
    """The most specific line of CHANGES for a field."""
    fits = [name for name in CHANGES if name == field or (name.endswith("*") and field.startswith(name[:-1]))]
    return CHANGES[max(fits, key=len)]


def keys(config: Config) -> dict[tuple[str, str], str]:
    """(stage, benchmark or nothing) -> key."""
    result = pipeline.plan(config).result
    found = {}
    for benchmark, above in result.upstream.items():
        for stage in above.walk():
            found[stage.name, benchmark if stage.name in ("generations", "scores") else ""] = stage.key
    return found | {("result", ""): result.key}


def perturbed(field: str, value: Any) -> Any:
    special = {
        "model.prompt_format": "qwen",
        "method.name": "sft-verified",
        "benchmarks.names": ["lab-basic", "lab-applied", "lab-long"],
        "inference.name": "single-pass",
        "responses.kind": "reference",
        "train.selection.mode": "last",
        "train.selection.benchmark": "lab-long",
        "data.source": "hub",
        "data.critiques": "released",
    }
    if field in special:
        return special[field]
    if isinstance(value, bool):
        return not value
    if isinstance(value, (int, float)):
        return value + 1 if isinstance(value, int) else value + 0.01
    if isinstance(value, dict):
        return {**value, next(iter(value), "question"): 0.123 if value else "q"}
    if isinstance(value, list):
        return [*value, "stop here"]
    return f"{value}-other"


def fields(config: Config) -> list[tuple[str, Any]]:
    return [(name, value) for name, value, _ in fields_of(config)]


def with_field(config: Config, field: str, value: Any) -> Config:
    """A copy of the config with one field changed."""
    head, _, rest = field.partition(".")
    inner = getattr(config, head)
    return dataclasses.replace(config, **{head: with_field(inner, rest, value) if rest else value})


def test_every_field_changes_exactly_the_keys_that_it_should(cell: ComposeCell) -> None:
    config = cell(*LIVE)
    before = keys(config)
    assert {name for name, _ in before} == set(ORDER), "every stage must be live in this cell"
    wrong = []
    for field, value in fields(config):
        if field.startswith(("mix_data.", "decontamination.")):
            continue  # not live here; see below
        after = keys(with_field(config, field, perturbed(field, value)))
        if field not in ("benchmarks.names", "method.name"):
            assert after.keys() == before.keys(), field
        changed = {place[0] for place in before.keys() & after.keys() if before[place] != after[place]}
        if changed != expected(field):
            wrong.append(f"{field}: changes {sorted(changed)}, expected {sorted(expected(field))}")
    assert not wrong, "\n".join(wrong)


def test_the_second_source_of_a_mix_changes_its_examples_as_the_first_does(cell: ComposeCell) -> None:
    config = cell("method=mix")
    before = keys(config)["candidates", ""]
    for field, value in fields(config):
        if not field.startswith("mix_data."):
            continue
        twin = field.removeprefix("mix_")
        after = keys(with_field(config, field, perturbed(twin, value)))["candidates", ""]
        assert (after == before) is (expected(twin) == NOTHING), field


def test_decontamination_and_what_is_evaluated_change_the_problems_of_real_data(cell: ComposeCell) -> None:
    config = cell(*LIVE, "data=metamath")
    for field, value in {
        "decontamination.words": 12,
        "decontamination.benchmarks": ["gsm8k"],
        "benchmarks.names": ["lab-basic"],
        "train.selection.benchmark": "math-train-clean",
    }.items():
        assert keys(with_field(config, field, value))["problems", ""] != keys(config)["problems", ""], field
    unchecked = with_field(config, "decontamination.words", 0)
    assert keys(with_field(unchecked, "benchmarks.names", ["lab-basic"]))["problems", ""] == keys(unchecked)["problems", ""]


def test_the_table_and_the_list_of_harmless_fields_agree(cell: ComposeCell) -> None:
    names = [field for field, _ in fields(cell(*LIVE))]
    live = [field for field in names if not field.startswith("mix_data.")]
    assert {field for field in live if expected(field) == NOTHING} == {field for field in live if field in NOT_IN_KEYS}
    of_hub_models = [field for field, _ in fields(cell("model=qwen2.5-math-7b"))]
    assert {*names, *of_hub_models} >= NOT_IN_KEYS


#: another value for each field that changes no key and could conceivably change a score
HARMLESS = {
    "model.name": "renamed",
    "model.scale": "paper",
    **{
        f"{place}.{name}": value
        for place in ("train", "model.lab.pretrain.optimization")
        for name, value in zip(TRAINING_SPEED, (1500, 100, "full", False, 7), strict=True)
    },
    "train.processes": 1,
    "train.nodes": 1,
    "train.max_restarts": 0,
    "train.preflight": False,
    "train.device_memory_gb": 24.0,
    "train.device_tflops": 100.0,
    "model.lab.pretrain.optimization.save_every_steps": 5,
    "data.name": "renamed",
    "data.path": "elsewhere.jsonl",
    "data.streaming": True,
    "mix_data.name": "renamed",
    "mix_data.path": "elsewhere.jsonl",
    "mix_data.streaming": True,
    "prices.dated": "yesterday",
    "prices.input_usd": {"some-model": 1.0},
    "prices.output_usd": {"some-model": 1.0},
    "prices.batch_factor": 0.25,
    **{
        f"{group}.{name}": value
        for group in ("teacher", "responses", "engine")
        for name, value in zip(CALLING, ("http://localhost/v1", "SOME_KEY", "batch", 3, 5.0, 1, 2.0, True, 0.5), strict=True)
    },
    **{f"{group}.{name}": True for group in ("teacher", "responses") for name in ("accept_failed", "retry_failed")},
    "responses.name": "renamed",
    "teacher.name": "renamed",
    "engine.batch_size": 3,
    "engine.shards": 2,
    "engine.gpu_memory_utilization": 0.5,
    "benchmarks.name": "renamed",
    "benchmarks.paths": {"gsm8k": "elsewhere.jsonl"},
    "tracking.kind": "wandb",
    "tracking.project": "other",
    "tracking.entity": "someone",
    "tracking.mode": "offline",
    "progress": True,
}


@pytest.mark.slow
def test_fields_that_change_no_key_change_no_score(cell: ComposeCell, tmp_path_factory: pytest.TempPathFactory) -> None:
    """One fresh run with every such field at another value: same scores, item by item, as the plain run."""
    read_elsewhere = ("model.shape", "cluster.", "output_root")  # by the planner and by what starts stages, never by a stage
    assert set(HARMLESS) == {field for field in NOT_IN_KEYS if not field.startswith(read_elsewhere)}
    live = ("method=cft", "responses=self", "benchmarks.items=20", "inference.max_new_tokens=40")
    plain = cell(*live, f"output_root={tmp_path_factory.mktemp('plain')}")
    other = cell(*live, f"output_root={tmp_path_factory.mktemp('other')}")
    for field, value in HARMLESS.items():
        other = with_field(other, field, value)
    assert keys(plain) == keys(other)
    results = [pipeline.run(config, lambda line: None) for config in (plain, other)]
    assert results[0].scores == results[1].scores
    for benchmark in plain.benchmarks.names:
        texts = [
            (
                pipeline.output_root(config) / "generations" / result.keys[f"generations/{benchmark}"] / "generations.jsonl"
            ).read_text()
            for config, result in zip((plain, other), results, strict=True)
        ]
        assert texts[0] == texts[1]
        assert "so " in texts[0], "the model must have something to say"
