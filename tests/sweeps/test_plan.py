"""The planner on the real sweep files: counts, order, what has to be made, what it costs; and the command."""

import dataclasses
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from cells import DEBUG
from engines.api.loopback import serving
from sweep_tools import FIVE, composed, planned

from cft_lab import pipeline
from cft_lab.config import PROJECT_ROOT
from cft_lab.hydra_config import compose
from cft_lab.store import DONE, MANIFEST, Store
from cft_lab.sweeps import costs
from cft_lab.sweeps.plan import Plan, PlannedStage, kind_of, lost, make_plan, to_make

HEAVY = ("torch", "transformers", "wandb", "datasets", "accelerate", "vllm", "openai", "submitit")


def command(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """`python -m cft_lab plan`, without a GPU, network or cache."""
    env = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "HF_HUB_CACHE": "/nowhere", "OPENAI_API_KEY": "", **environment}
    line = [sys.executable, "-m", "cft_lab", "plan", *arguments]
    return subprocess.run(line, capture_output=True, text=True, cwd=PROJECT_ROOT, env=env, check=False)


def described(*arguments: str) -> dict[str, Any]:
    done = command(*arguments, "--json")
    assert done.returncode == 0, done.stderr
    told: dict[str, Any] = json.loads(done.stdout)
    return told


def test_the_five_tables_are_37_cells_31_distinct_and_18_trainings(tmp_path: Path) -> None:
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    told = described(*FIVE, f"output_root={tmp_path}")
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before <= 6.0  # its own time, whatever else the machine does
    assert (told["cells"], told["distinct_cells"], told["plain_multirun_trainings"]) == (37, 31, 33)
    assert told["tables"] == {"table2": 15, "table5": 6, "table6": 3, "table7": 3, "table8": 10}
    assert told["stages"] == {
        "base_model": 3,
        "problems": 3,  # WebInstruct, MetaMathQA, NuminaMath
        "responses": 4,  # those of each source, and the base model's own
        "critiques": 5,  # of these four, and of the first by the second teacher
        "answers": 1,
        "examples": 14,  # two prompt formats x 4 arms, 2 sources x 2, self, the second teacher
        "train": 18,
        "selected": 18,
        "generations": 144,  # (3 base + 18) x 6 benchmarks, and 9 more conditions x 2
        "scores": 144,
        "result": 31,
    }
    assert told["to_make"] == told["stages"]
    assert told["made"] == {}
    assert told["not_planned"] == []


def test_the_lab_twins_are_as_many() -> None:
    plan = planned(f"sweeps={','.join(f'lab/{name}' for name in FIVE)}")
    assert (len(plan.cells), len(plan.configs)) == (37, 31)
    assert sum(stage.name == "candidates" for stage in plan.stages) == 18


def test_the_distinct_cells_are_those_of_the_papers_tables() -> None:
    """Table 8's greedy direct cell is table 2's on fewer benchmarks: it shares every stage but the last."""
    plan = planned(f"sweeps={','.join(FIVE)}")
    shared = [key for key in {cell.result for cell in plan.cells} if sum(cell.result == key for cell in plan.cells) > 1]
    places = [sorted((cell.sweep, cell.row, cell.column) for cell in plan.cells if cell.result == key) for key in shared]
    ours = "Qwen2.5-Math-7B"
    assert sorted(places) == [
        [("table2", ours, "Base"), ("table6", "Base", "")],
        [
            ("table2", ours, "CFT"),
            ("table5", "WebInstruct", "CFT"),
            ("table6", "Reference", ""),
            ("table7", "CFT, GPT-4o-1120", ""),
        ],
        [("table2", ours, "SFT"), ("table5", "WebInstruct", "SFT")],
        [("table2", ours, "SFT-verified"), ("table7", "SFT-verified", "")],
    ]
    alone = planned("sweeps=table2")
    greedy = planned("sweeps=table8")
    keys = {stage.key for stage in alone.stages}
    first = next(cell for cell in greedy.cells if (cell.row, cell.column) == ("Direct inference", "T=0.0"))
    result = pipeline.plan(greedy.configs[first.config]).result
    assert [stage.name for stage in result.walk() if stage.key not in keys] == ["result"]


def test_stages_come_after_what_they_stand_on_and_each_once() -> None:
    plan = planned("sweeps=lab/table6,lab/table8", "seed=0,1")
    made: set[str] = set()
    for stage in plan.stages:
        assert set(stage.upstream) <= made
        assert stage.key not in made
        made.add(stage.key)
        live = {found.key: found for found in pipeline.plan(plan.configs[stage.cell]).result.walk()}[stage.key]
        assert (live.name, live.label) == (stage.name, stage.label)
        assert {above.key for above in live.upstream.values()} == set(stage.upstream)


def test_planning_needs_nothing_heavy() -> None:
    script = (
        "import sys\nfrom cft_lab.__main__ import main\nmain(['plan', 'table6', '--json'])\n"
        f"print('HEAVY', [name for name in {HEAVY!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=PROJECT_ROOT, check=False)
    assert done.stdout.rstrip().endswith("HEAVY []"), done.stdout[-300:] + done.stderr[-300:]


@pytest.mark.slow
def test_a_thousand_cells_are_planned_in_two_minutes() -> None:
    started = time.process_time()
    plan = planned("sweeps=table2", "seed=range(67)")
    assert len(plan.cells) == 1005
    assert time.process_time() - started <= 120


@pytest.mark.parametrize(
    ("overrides", "kinds"),
    [
        ((), {"base_model": "train", "critiques": "teacher", "generations": "evaluation", "scores": "record", "examples": "data"}),
        (("responses=self", "method=base"), {"base_model": "train", "result": "record"}),
        (("responses=self",), {"responses": "evaluation", "selected": "evaluation", "candidates": "train"}),
        (("train.selection.mode=last",), {"selected": "record", "responses": "data"}),
        (("model=qwen2.5-math-7b",), {"base_model": "data", "critiques": "teacher", "problems": "data"}),
        (("model=qwen2.5-math-7b", "data=webinstruct-cft-50k"), {"critiques": "data"}),
        (("teacher=local",), {"critiques": "evaluation"}),
        (("model=gpt-4o",), {"generations": "teacher", "base_model": "data"}),
    ],
)
def test_a_stage_asks_for_the_machine_that_it_needs(overrides: tuple[str, ...], kinds: dict[str, str]) -> None:
    plan = planned(*overrides)
    found = {stage.name: stage.kind for stage in plan.stages}
    assert found | kinds == found
    assert all(stage.kind == kind_of(stage.name, plan.configs[stage.cell]) for stage in plan.stages)


def mark(root: Path, stages: list[PlannedStage], *names: str, files: tuple[str, ...] = (MANIFEST, DONE)) -> None:
    for stage in stages:
        if stage.name in names:
            folder = root / stage.name / stage.key
            folder.mkdir(parents=True, exist_ok=True)
            for file in files:
                (folder / file).write_text("{}")


def test_only_what_is_not_there_has_to_be_made(tmp_path: Path) -> None:
    plan = planned("method=cft", "benchmarks.names=[lab-long]")
    stages, names = list(plan.stages), [stage.name for stage in plan.stages]
    assert [stage.name for stage in to_make(plan, tmp_path)] == names
    mark(tmp_path, stages, *(name for name in names if name not in ("scores", "result")))
    assert [stage.name for stage in to_make(plan, tmp_path)] == ["scores", "result"]
    mark(tmp_path, stages, "scores", "result")
    assert to_make(plan, tmp_path) == []


def test_a_deleted_folder_is_made_again_and_a_pruned_stage_only_when_needed(tmp_path: Path) -> None:
    plan = planned("method=cft", "benchmarks.names=[lab-long]")
    stages, names = list(plan.stages), [stage.name for stage in plan.stages]
    mark(tmp_path, stages, *names)
    by_name = {stage.name: stage for stage in stages}

    def folder(name: str) -> Path:
        return tmp_path / name / by_name[name].key

    (folder("candidates") / DONE).unlink()  # pruned: its manifest stays
    assert to_make(plan, tmp_path) == []
    for file in folder("selected").iterdir():
        file.unlink()
    folder("selected").rmdir()  # deleted, and the candidates are needed for it
    assert [stage.name for stage in to_make(plan, tmp_path)] == ["candidates", "selected"]
    assert [stage.name for stage in lost(plan, tmp_path)] == ["candidates", "selected"]


def test_a_cell_whose_data_file_is_gone_is_told_and_the_others_are_planned(tmp_path: Path) -> None:
    gone = f"benchmarks.paths={{aime24: {tmp_path}/no.jsonl}}"
    done = command("method=base", "benchmarks.names=[lab-long],[aime24]", f"+{gone}", "--json")
    told = json.loads(done.stdout)
    assert (told["cells"], told["distinct_cells"], told["stages"]["result"]) == (2, 1, 1)
    assert len(told["not_planned"]) == 1
    assert "benchmarks.names=[aime24]" in told["not_planned"][0]
    assert "no.jsonl does not exist" in told["not_planned"][0]
    assert "not planned: " in command("method=base", "benchmarks.names=[aime24]", f"+{gone}").stdout
    own = command("data=local", "data.path=/no/rows.jsonl", "method=sft").stdout
    assert "not planned: data.path=/no/rows.jsonl does not exist" in own
    mixed = command("method=mix", "data@mix_data=local", "model=lab-debug,lab-llama").stdout
    assert "not planned: model=lab-debug; model=lab-llama: mix_data.path is missing" in mixed


def test_the_command_tells_counts_costs_bases_and_the_graph(tmp_path: Path) -> None:
    done = command("lab/table6", "seed=0,1", f"output_root={tmp_path}", "--graph")
    assert done.returncode == 0, done.stderr
    for part in (
        "6 cells (lab/table6 6), 5 distinct",
        "4 trainings; a plain multirun would train 4 times",
        "GPU-hours",
        "basis: lab",
    ):
        assert part in done.stdout
    graph = [line for line in done.stdout.splitlines() if " <- " in line]
    assert len(graph) == len(planned("sweeps=lab/table6", "seed=0,1").stages)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["table9"], "sweeps=table9 is not a sweep file"),
        (["table2", "train.lrr=1"], "train.lrr is not a field: did you mean train.lr?"),
        (["table2", "model=lab-qwen2"], "model is what the cells of sweeps/table2.yaml differ in"),
        (["method=foo"], "method/foo"),
    ],
)
def test_bad_input_is_refused_as_when_running(arguments: list[str], said: str) -> None:
    done = command(*arguments)
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def plan_cost(plan: Plan, root: Path) -> dict[str, costs.Cost]:
    found = costs.plan_costs(plan, plan.stages, root)
    by_name: dict[str, costs.Cost] = {}
    for stage in plan.stages:
        by_name[stage.name] = by_name.get(stage.name, costs.Cost()) + found[stage.key]
    return by_name


def test_costs_follow_from_rows_prices_and_the_papers_hours(tmp_path: Path) -> None:
    found = plan_cost(planned("model=qwen2.5-math-7b", "teacher.mode=batch"), tmp_path)
    prompt, output = (600 + 2127) / 4, 2242 / 4
    assert found["critiques"].usd == pytest.approx((1e5 * prompt * 2.5 + 1e5 * output * 10) / 1e6 / 2, rel=1e-3)
    assert "assumed" in found["critiques"].bases[0]
    assert found["candidates"].gpu_hours == pytest.approx(8, rel=0.01)
    resume = 3 * 7.62 * 12
    assert found["candidates"].disk_gb == pytest.approx(16 * 7.62 * 2 + resume, rel=0.01)
    assert found["selected"].gpu_hours == pytest.approx(49 * 500 * 600 / 8000 / 3600, rel=0.01)
    assert "not measured" in found["generations"].bases[0]
    kept = plan_cost(planned("model=qwen2.5-math-7b", "train.keep_candidates=2"), tmp_path)
    assert kept["candidates"].disk_gb == pytest.approx(2 * 7.62 * 2 + resume, rel=0.01)


def test_examples_are_those_of_all_sources_and_of_a_budget_of_tokens(tmp_path: Path) -> None:
    def hours(*overrides: str) -> tuple[float | None, ...]:
        found = plan_cost(planned("model=qwen2.5-math-7b", *overrides), tmp_path)
        return found["candidates"].gpu_hours, found["selected"].gpu_hours

    one, two = hours("method=cft"), hours("method=mix")
    assert two == pytest.approx([2 * part for part in one if part], rel=0.02)
    few = plan_cost(planned("model=qwen2.5-math-7b", "data.supervised_tokens=1000000"), tmp_path)
    assert few["candidates"].gpu_hours == pytest.approx(8 * 1922 / 50_000, rel=0.01)
    assert few["selected"].gpu_hours == pytest.approx(2 * 500 * 600 / 8000 / 3600, rel=0.01)
    assert any(basis.startswith("1,922 examples with 1,000,000 supervised tokens: assumed") for basis in few["candidates"].bases)


@pytest.mark.parametrize("model", ["qwen2.5-math-7b", "lab-qwen2"])
def test_a_writer_on_this_machine_costs_what_its_own_size_does(tmp_path: Path, model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    writer = tmp_path / "writer"
    writer.mkdir()
    shape = {"hidden_size": 8192, "intermediate_size": 29568, "num_hidden_layers": 80, "num_attention_heads": 64}
    shape |= {"num_key_value_heads": 8, "vocab_size": 152064}
    (writer / "config.json").write_text(json.dumps({"model_type": "qwen2", **shape}))
    (writer / "model.safetensors").touch()

    def written(name: str) -> costs.Cost:
        plan = planned(f"model={model}", "teacher=local", f"teacher.model={name}", "data.pool=100000")
        return plan_cost(plan, tmp_path)["critiques"]

    assert written(str(writer)).gpu_hours == pytest.approx(1e5 * 600 / 8000 * 72.7e9 / 7.6e9 / 3600, rel=0.01)
    assert written("Qwen/Qwen2.5-72B-Instruct").gpu_hours is None
    assert "Qwen/Qwen2.5-72B-Instruct unknown" in written("Qwen/Qwen2.5-72B-Instruct").bases[0]


def test_rows_that_were_answered_here_are_a_better_basis(tmp_path: Path) -> None:
    plan = planned("model=qwen2.5-math-7b")
    (stage,) = (stage for stage in plan.stages if stage.name == "critiques")
    folder = tmp_path / "critiques" / "0123"
    folder.mkdir(parents=True)
    counts = {"asked": 110, "failed": 6, "refused": 4, "prompt_tokens": 30_000, "tokens": 20_000}
    manifest = {
        "stage": "critiques",
        "key": "0123",
        "created": "",
        "counts": counts,
        "config": {"teacher.model": "gpt-4o-2024-11-20"},
    }
    (folder / MANIFEST).write_text(json.dumps(manifest))
    (folder / DONE).touch()
    cost = costs.plan_costs(plan, [stage], tmp_path)[stage.key]
    assert cost.usd == pytest.approx((1e5 * 300 * 2.5 + 1e5 * 200 * 10) / 1e6, rel=1e-6)
    assert "the mean of 100 rows that it has written here" in cost.bases[0]


@pytest.mark.parametrize(("protocol", "prompt", "output"), [("direct", 150, 600), ("two-stage", 1800, 2400)])
def test_an_evaluation_through_an_api_is_not_priced_as_critiques(tmp_path: Path, protocol: str, prompt: int, output: int) -> None:
    plan = planned("model=gpt-4o", "benchmarks.names=[gsm8k]", f"inference={protocol}")
    (stage,) = (stage for stage in plan.stages if stage.name == "generations")
    cost = costs.plan_costs(plan, [stage], tmp_path)[stage.key]
    assert cost.usd == pytest.approx(1319 * (prompt * 2.5 + output * 10) / 1e6)
    assert f"assumed, not measured: {prompt} prompt and {output} output tokens an item, {protocol}" in cost.bases[0]


def test_an_api_that_was_evaluated_here_is_priced_by_what_it_wrote(tmp_path: Path) -> None:
    """By the manifests that a real evaluation leaves, of the same protocol only."""
    priced = ("+prices.input_usd={loopback-1: 10}", "+prices.output_usd={loopback-1: 100}")
    common = ("model=gpt-4o", "model.api_model=loopback-1", "engine.api_key_env=null", *priced)
    store = Store(tmp_path, lambda line: None)
    with serving() as server:
        here = compose(*common, f"engine.base_url={server.url}", "benchmarks.names=[lab-basic,lab-long]", "benchmarks.items=5")
        for scored in pipeline.plan(here).result.upstream.values():
            store.ensure(scored.upstream["generations"])
    counts = [manifest["counts"] for _, manifest in store.finished() if manifest["stage"] == "generations"]
    tokens = [sum(count[name] for count in counts) / 10 for name in ("prompt_tokens", "tokens")]
    plan = planned(*common, "benchmarks.names=[gsm8k]")
    (stage,) = (stage for stage in plan.stages if stage.name == "generations")
    cost = costs.plan_costs(plan, [stage], tmp_path)[stage.key]
    assert cost.usd == pytest.approx(1319 * (tokens[0] * 10 + tokens[1] * 100) / 1e6, rel=1e-3)
    assert "the mean of 10 rows that it has written here" in cost.bases[0]
    other = planned(*common, "benchmarks.names=[gsm8k]", "inference=two-stage")
    (stage,) = (stage for stage in other.stages if stage.name == "generations")
    assert "assumed" in costs.plan_costs(other, [stage], tmp_path)[stage.key].bases[0]


def test_what_is_unknown_stays_unknown(tmp_path: Path) -> None:
    dear = plan_cost(planned("teacher=openai-compatible", "teacher.model=mine"), tmp_path)["critiques"]
    assert dear.usd is None
    assert "prices has no mine" in dear.bases[0]
    assert (dear + costs.Cost(usd=3.0)).usd is None
    shapeless = [(cell, dataclasses.replace(config, model=dataclasses.replace(config.model, shape=None)))
                 for cell, config in composed("model=qwen2.5-math-7b")]  # fmt: skip
    training = plan_cost(make_plan(shapeless)[0], tmp_path)["candidates"]
    assert (training.gpu_hours, training.disk_gb) == (None, None)


def test_what_was_released_or_made_here_costs_no_dollars(tmp_path: Path) -> None:
    assert plan_cost(planned("model=qwen2.5-math-7b", "data=webinstruct-cft-50k"), tmp_path)["critiques"].usd == 0
    lab = plan_cost(planned(*DEBUG), tmp_path)
    assert costs.total(lab.values()).usd == 0
    assert costs.total(lab.values()).gpu_hours == 0
