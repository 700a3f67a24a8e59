"""From stages to jobs, without a scheduler."""

import random

import pytest
from sweep_tools import PlanSweep

from cft_lab.sweeps.job_graph import Job, Task, jobs_of, throttles
from cft_lab.sweeps.plan import Plan


def jobs_of_plan(plan: Plan) -> list[Job]:
    return jobs_of(plan.stages, plan.configs)


def test_conditions_of_one_trained_model_are_one_array_behind_one_training(plan_sweep: PlanSweep) -> None:
    plan = plan_sweep("sweeps=lab/table8")
    jobs = jobs_of_plan(plan)
    names = [job.name for job in jobs]
    chain = ["problems", "base_model", "responses", "critiques", "examples", "candidates", "selected", "generations", "record"]
    assert sorted(names) == sorted(chain)
    generations = jobs[names.index("generations")]
    assert len(generations.tasks) == 20  # ten conditions, two benchmarks
    assert all(len(task.keys) == 2 for task in generations.tasks)  # with their scores
    assert len(jobs[names.index("record")].keys) == 10


def test_jobs_come_after_what_they_read_and_make_every_stage_once(plan_sweep: PlanSweep) -> None:
    plan = plan_sweep("method=base,sft,sft-verified,cft", "seed=0,1", "temperature=0,0.5")
    made: set[str] = set()
    for job in jobs_of_plan(plan):
        assert job.after <= made
        for task in job.tasks:
            own: set[str] = set()
            for key in task.keys:
                upstream = next(stage.upstream for stage in plan.stages if stage.key == key)
                assert set(upstream) <= own | task.after | made
                own.add(key)
        assert not made & set(job.keys)
        made |= set(job.keys)
    assert made == {stage.key for stage in plan.stages}


def test_a_choice_without_scoring_goes_with_its_training(plan_sweep: PlanSweep) -> None:
    plan = plan_sweep("train.selection.mode=last")
    by_key = {stage.key: stage.name for stage in plan.stages}
    training = next(job for job in jobs_of_plan(plan) if job.name == "candidates")
    assert [by_key[key] for key in training.keys] == ["candidates", "selected"]


def test_a_result_of_one_benchmark_goes_with_its_evaluation(plan_sweep: PlanSweep) -> None:
    plan = plan_sweep("benchmarks.names=[lab-basic]")
    by_key = {stage.key: stage.name for stage in plan.stages}
    jobs = jobs_of_plan(plan)
    assert [by_key[key] for key in jobs[-1].keys] == ["generations", "scores", "result"]
    assert not any(job.gathers for job in jobs)


def test_stages_that_are_there_are_in_no_job(plan_sweep: PlanSweep) -> None:
    plan = plan_sweep()
    missing = [stage for stage in plan.stages if stage.name in ("generations", "scores", "result")]
    jobs = jobs_of(missing, plan.configs)
    assert [job.name for job in jobs] == ["generations", "record"]
    assert {stage.name for stage in plan.stages if stage.key in jobs[0].after} == {"selected"}  # perhaps a job that runs already


def test_trainings_alone_span_several_nodes(plan_sweep: PlanSweep) -> None:
    jobs = jobs_of_plan(plan_sweep("train.nodes=2"))
    assert {job.name: job.nodes for job in jobs if job.nodes > 1} == {"candidates": 2}


def test_a_model_that_is_spread_over_gpus_has_them_where_it_is_evaluated(plan_sweep: PlanSweep) -> None:
    jobs = jobs_of_plan(plan_sweep("engine=vllm-4gpu"))
    assert {job.kind: job.gpus for job in jobs} == {"data": 0, "teacher": 0, "train": 0, "evaluation": 4, "record": 0}


@pytest.mark.parametrize("most", [1, 2, 3, 5])
def test_no_more_jobs_run_at_once_than_allowed(most: int) -> None:
    """A scheduler that starts whatever it may, in any order: every job starts some day, and never too many run."""
    for seed in range(50):
        _run_in_any_order(random.Random(seed), most)


def _run_in_any_order(random_: random.Random, most: int) -> None:
    jobs = [Job("train", f"job{place}", 1, _tasks(place, random_)) for place in range(random_.randint(3, 12))]
    limits = throttles(jobs, most)
    before = [
        {other for other in range(len(jobs)) if jobs[place].after & set(jobs[other].keys)} | limits[place].behind
        for place in range(len(jobs))
    ]
    over: set[int] = set()
    running: dict[int, int] = {}
    while len(over) < len(jobs):
        started = [place for place in range(len(jobs)) if place not in over | set(running) and before[place] <= over]
        for place in random_.sample(started, random_.randint(0, len(started))):
            running[place] = min(limits[place].at_once or 1, len(jobs[place].tasks))
        assert sum(running.values()) <= most
        assert running or started, "nothing can start"
        if running:
            over.add(random_.choice(list(running)))
            running = {place: width for place, width in running.items() if place not in over}


def _tasks(place: int, random_: random.Random) -> tuple[Task, ...]:
    upstream = frozenset(f"{other}-0" for other in range(place) if random_.random() < 0.2)
    return tuple(Task((f"{place}-{number}",), upstream) for number in range(random_.choice((1, 1, 1, 4))))


def test_without_a_limit_nothing_waits_for_its_turn(plan_sweep: PlanSweep) -> None:
    jobs = jobs_of_plan(plan_sweep())
    assert all(limit.behind == frozenset() and limit.at_once is None for limit in throttles(jobs, None))
