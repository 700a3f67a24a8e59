"""What a submitter makes itself, submits now, or leaves for later."""

from cft_lab.sweeps.local_stages import divide
from cft_lab.sweeps.plan import PlannedStage

KINDS = {"data", "teacher"}


def stage(key: str, kind: str, *upstream: str) -> PlannedStage:
    return PlannedStage(key, key, kind, key, upstream, 0)


#: self-made responses that a local teacher criticises, beside reference responses
CHAIN = [
    stage("base", "data"),
    stage("problems", "data"),
    stage("self", "evaluation", "problems", "base"),
    stage("critiques", "teacher", "problems", "self"),
    stage("examples", "data", "critiques"),
    stage("train", "train", "examples", "base"),
    stage("selected", "record", "train"),
    stage("reference", "data", "problems"),
    stage("examples2", "data", "reference"),
    stage("train2", "train", "examples2", "base"),
]


def keys(stages: tuple[PlannedStage, ...]) -> list[str]:
    return [stage.key for stage in stages]


def test_first_what_stands_on_no_job() -> None:
    divided = divide(CHAIN, KINDS, (), ())
    assert keys(divided.here) == ["base", "problems", "reference", "examples2"]
    assert keys(divided.jobs) == ["self", "train2"]
    assert keys(divided.later) == ["critiques", "examples", "train", "selected"]
    assert keys(divided.local) == ["critiques", "examples"]
    assert divided.awaited == {"self"}


def test_while_a_job_runs_that_local_stages_stand_on() -> None:
    divided = divide(CHAIN[2:7], KINDS, {"self"}, {"self"})
    assert (divided.here, divided.jobs) == ((), ())
    assert divided.awaited == {"self"}


def test_when_it_is_there_the_rest_goes_on() -> None:
    divided = divide(CHAIN[3:7], KINDS, (), {"self"})
    assert keys(divided.here) == ["critiques", "examples"]
    assert keys(divided.jobs) == ["train", "selected"]
    assert divided.later == ()


def test_when_it_failed_nothing_waits_for_it() -> None:
    divided = divide(CHAIN[2:], KINDS, (), {"self"})
    assert keys(divided.here) == ["reference", "examples2"]
    assert keys(divided.jobs) == ["train2"]
    assert (divided.later, divided.awaited) == ((), frozenset())


def test_nothing_local_is_all_jobs() -> None:
    divided = divide(CHAIN, (), (), ())
    assert keys(divided.jobs) == keys(tuple(CHAIN))
    assert (divided.here, divided.later, divided.awaited) == ((), (), frozenset())
