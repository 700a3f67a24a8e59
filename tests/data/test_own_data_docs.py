"""Every line of docs/data.md about one's own data, as printed: it composes, passes the checks and reads such rows."""

import re
import shlex
from pathlib import Path
from typing import Any

import hub_folders
import pytest

from cft_lab import preflight
from cft_lab.config import PROJECT_ROOT, Config, ConfigError, DataError
from cft_lab.data.sources import load_pool, missing_source
from cft_lab.hydra_config import compose

pytestmark = pytest.mark.usefixtures("own_caches")

USER, REPLY = {"role": "user", "content": "q"}, {"role": "assistant", "content": "s"}
PAIR = "Question:\nq\n\nSolution:\ns"
#: line -> a row that looks as it says, and the gold answer that is read from it
LINES: dict[str, tuple[dict[str, Any], str | None]] = {
    "": ({"question": "q", "solution": "s", "answer": 4}, "4"),
    "+data.columns.question=prompt +data.columns.solution=student.text": ({"prompt": "q", "student": {"text": "s"}}, None),
    "+data.columns.answer=gold": ({"question": "q", "solution": "s", "answer": "7", "gold": "4"}, "4"),
    "+data.columns.answer=": ({"question": "q", "solution": "s", "answer": ["no", "gold"]}, None),
    "data.gold=boxed": ({"question": "q", "solution": "s \\boxed{4}", "answer": "7"}, "4"),
    "data.gold=hashes": ({"question": "q", "solution": "s\n#### 4"}, "4"),
    "data.layout=messages": ({"messages": [USER, REPLY]}, None),
    "data.layout=messages +data.columns.solution=reply": ({"messages": [USER], "reply": "s"}, None),
    "+data.columns.critique=feedback data.critiques=released": ({"question": "q", "solution": "s", "feedback": "Fine."}, None),
    "data.layout=critique data.critiques=released": ({"instruction": "i", "input": PAIR, "output": "Critique: Fine."}, None),
    "data.layout=critique": ({"input": PAIR}, None),
}


def documented() -> tuple[str, list[str]]:
    """The command of the section, and the lines that may be added to it, without their comments."""
    section = (PROJECT_ROOT / "docs" / "data.md").read_text().partition("## Your own data")[2].partition("\n## ")[0]
    first, second = re.findall(r"```\n(.*?)```", section, re.DOTALL)
    lines = [line.partition("#" if not line.startswith("data.gold=hashes") else "   #")[0] for line in second.splitlines()]
    return first.strip(), [line.strip() for line in lines]


def read(line: str, row: dict[str, Any], folder: Path) -> tuple[Config, Any]:
    path = hub_folders.write_jsonl(folder / "mine.jsonl", [row])
    command, _ = documented()
    overrides = shlex.split(command.replace("mine.jsonl", str(path)))
    assert overrides[:2] == ["python", "run.py"]
    config = compose(*overrides[2:], *shlex.split(line))
    preflight.check(config)
    assert list(missing_source(config.data)) == []
    return config, load_pool(config.data)


def test_every_line_is_tried_here() -> None:
    assert sorted(documented()[1]) == sorted(filter(None, LINES))


@pytest.mark.parametrize("line", LINES)
def test_a_line_works_as_printed(line: str, tmp_path: Path) -> None:
    row, gold = LINES[line]
    config, pool = read(line, row, tmp_path)
    (problem,) = pool.problems
    assert (problem.question, str(problem.solution)[0], problem.answer) == ("q", "s", gold)
    assert pool.counts["short_of"] == config.data.pool == 2000
    assert [critique.text for critique in pool.critiques] == (["Fine."] if "released" in line else [])


def test_a_column_that_is_read_as_something_else_is_no_gold_answer(tmp_path: Path) -> None:
    for column, row in (("answer", {"question": "q", "answer": "s"}), ("answer.text", {"question": "q", "answer": {"text": "s"}})):
        _, pool = read(f"+data.columns.solution={column}", row, tmp_path)
        assert [(problem.solution, problem.answer) for problem in pool.problems] == [("s", None)]


def test_a_gold_answer_that_was_named_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"'glod' for answer is needed: .*\+\+data.columns.answer=COLUMN"):
        read("+data.columns.answer=glod", {"question": "q", "solution": "s", "gold": "4"}, tmp_path)


def test_the_labs_oracle_is_refused_for_own_data_with_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="reads only the lab world.*choose another teacher"):
        read("method=cft", {"question": "q", "solution": "s"}, tmp_path)
    config, _ = read("method=cft teacher=openai-compatible teacher.model=NAME", {"question": "q", "solution": "s"}, tmp_path)
    assert config.teacher.model == "NAME"
