"""Writes small folders in the true layouts of the data sets that conf/data names: files, configurations, splits, columns.

The layouts are those of the data sets' cards and file lists on the hub: TIGER-Lab/WebInstructSub, meta-math/MetaMathQA and
TIGER-Lab/MathInstruct (one JSON file each), AI-MO/NuminaMath-CoT, TIGER-Lab/WebInstruct-CFT (three configurations),
microsoft/orca-math-word-problems-200k, nvidia/AceMath-Instruct-Training-Data (three splits, the response apart from the
conversation), nvidia/OpenMathInstruct-2 (nested splits), openai/gsm8k (two configurations), EleutherAI/hendrycks_math (seven, none
of them joint). wizardmath and xwinmath were never released: their folders have the columns that conf/data expects of a copy.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

Rows = list[dict[str, Any]]

SUBJECTS = (
    "algebra",
    "counting_and_probability",
    "geometry",
    "intermediate_algebra",
    "number_theory",
    "prealgebra",
    "precalculus",
)
#: rows that each folder gives in the split that conf/data reads
ROWS = 14


def question(i: int) -> str:
    return f"Mia has {i} red marbles and {2 * i + 1} blue ones in a bag. How many marbles does she have altogether?"


def solution(i: int) -> str:
    return f"She has {i} + {2 * i + 1} marbles, which makes \\boxed{{{3 * i + 1}}}."


def critique(i: int) -> str:
    return f"Critique:\nThe student adds {i} and {2 * i + 1}.\n\nConclusion: {'right' if i % 2 else 'wrong'} [END]\n\n"


def _range(many: int = ROWS) -> range:
    return range(10, 10 + many)


def _parquet(path: Path, rows: Rows) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), path)


def _card(folder: Path, configs: Mapping[str, Mapping[str, str]]) -> None:
    """A dataset card that says which files make up which split of which configuration."""
    lines = ["---", "configs:"]
    for name, splits in configs.items():
        lines += [f"- config_name: {name}", "  data_files:"]
        for split, pattern in splits.items():
            lines += [f"  - split: {split}", f"    path: {pattern}"]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "README.md").write_text("\n".join([*lines, "---", "# A data set", ""]))


def _plain(folder: Path, rows: Rows, shards: int = 1) -> Path:
    """One configuration, one split, in shards."""
    _card(folder, {"default": {"train": "data/train-*"}})
    for i in range(shards):
        _parquet(folder / "data" / f"train-{i:05}-of-{shards:05}.parquet", rows[i::shards])
    return folder


def webinstruct(folder: Path) -> Path:
    def row(i: int) -> dict[str, Any]:
        texts = {"orig_question": question(i), "orig_answer": solution(i), "question": question(i), "answer": solution(i)}
        return texts | {"source": "socratic", "index": i}

    return _plain(folder, [row(i) for i in _range()], shards=3)


def metamath(folder: Path) -> Path:
    rows = [{"type": "GSM_SV", "query": question(i), "original_question": question(i), "response": solution(i)} for i in _range()]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "MetaMathQA-395K.json").write_text(json.dumps(rows))
    return folder


def numina(folder: Path) -> Path:
    def row(i: int) -> dict[str, Any]:
        turns = [{"content": question(i), "role": "user"}, {"content": solution(i), "role": "assistant"}]
        return {"source": "synthetic_math", "problem": question(i), "solution": solution(i), "messages": turns}

    return _plain(folder, [row(i) for i in _range()], shards=2)


def webinstruct_cft(folder: Path) -> Path:
    names = [f"WebInstruct-CFT-{size}" for size in ("4K", "50K", "600K")]
    _card(folder, {name: {"train": f"{name}/train-*"} for name in names})
    for number, name in enumerate(names):
        rows = [
            {
                "instruction": "Please critique whether the following solution to the question is correct.\n\n",
                "input": f"Question:\n{question(i)}\n\nSolution:\n{solution(i)}\n\n",
                "output": critique(i),
            }
            for i in _range(ROWS + number)
        ]
        _parquet(folder / name / "train-00000-of-00001.parquet", rows)
    return folder


def mathinstruct(folder: Path) -> Path:
    rows = [
        {"source": "data/CoT/gsm_train.json", "output": solution(i), "instruction": question(i)}  # the hub's file is one list
        for i in _range()
    ]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "MathInstruct.json").write_text(json.dumps(rows, indent=4))
    return folder


def orcamath(folder: Path) -> Path:
    return _plain(folder, [{"question": question(i), "answer": solution(i)} for i in _range()])


#: the true card: it names its splits without their sizes, which `datasets` remarks on
_ACEMATH_CARD = """---
dataset_info:
  features:
  - name: messages
    list:
    - name: role
      dtype: string
    - name: content
      dtype: string
  - name: answer
    dtype: string
  splits:
  - name: general_sft_stage1
  - name: general_sft_stage2
  - name: math_sft
configs:
- config_name: default
  data_files:
  - split: general_sft_stage1
    path: data/general_sft_stage1.parquet
  - split: general_sft_stage2
    path: data/general_sft_stage2.parquet
  - split: math_sft
    path: data/math_sft.parquet
---
"""


def acemath(folder: Path) -> Path:
    for split in ("general_sft_stage1", "general_sft_stage2", "math_sft"):
        told = "" if split == "math_sft" else "Write a poem about "
        rows = [{"messages": [{"role": "user", "content": told + question(i)}], "answer": solution(i)} for i in _range()]
        _parquet(folder / "data" / f"{split}.parquet", rows)
    (folder / "README.md").write_text(_ACEMATH_CARD)
    return folder


def openmath2(folder: Path) -> Path:
    def row(i: int) -> dict[str, Any]:
        answer = {"expected_answer": str(3 * i + 1), "problem_source": "math"}
        return {"problem": question(i), "generated_solution": solution(i)} | answer

    splits = {"train": ROWS, "train_1M": 2, "train_2M": 4, "train_5M": 8}
    _card(folder, {"default": {split: f"data/{split}-*" for split in splits}})
    for split, many in splits.items():
        _parquet(folder / "data" / f"{split}-00000-of-00001.parquet", [row(i) for i in _range(many)])
    return folder


def gsm8k(folder: Path) -> Path:
    _card(folder, {name: {"train": f"{name}/train-*", "test": f"{name}/test-*"} for name in ("main", "socratic")})
    for name in ("main", "socratic"):
        for split, many in (("train", ROWS), ("test", 3)):
            rows = [{"question": question(i), "answer": f"{i}+{2 * i + 1}=<<{i}>>\n#### {3 * i + 1},000"} for i in _range(many)]
            _parquet(folder / name / f"{split}-00000-of-00001.parquet", rows)
    return folder


def math(folder: Path) -> Path:
    _card(folder, {name: {"train": f"{name}/train-*", "test": f"{name}/test-*"} for name in SUBJECTS})
    for number, name in enumerate(SUBJECTS):
        for split in ("train", "test"):
            rows = [
                {"problem": question(i), "level": "Level 1", "type": name.title(), "solution": solution(i)}
                for i in range(10 + 2 * number, 12 + 2 * number)
            ]
            _parquet(folder / name / f"{split}-00000-of-00001.parquet", rows)
    return folder


def instruction_and_output(folder: Path) -> Path:
    return _plain(folder, [{"instruction": question(i), "output": solution(i)} for i in _range()])


def write_jsonl(path: Path, rows: Sequence[Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


#: name in conf/data -> writer of its folder
FOLDERS = {
    "webinstruct": webinstruct,
    "metamath": metamath,
    "numina": numina,
    "webinstruct-cft-50k": webinstruct_cft,
    "webinstruct-cft-4k": webinstruct_cft,
    "webinstruct-cft-600k": webinstruct_cft,
    "wizardmath": instruction_and_output,
    "mathinstruct": mathinstruct,
    "xwinmath": orcamath,
    "orcamath": orcamath,
    "acemath": acemath,
    "openmath2": openmath2,
    "gsm8k": gsm8k,
    "math": math,
}
#: rows of those that have another number
EXPECTED = dict.fromkeys(FOLDERS, ROWS) | {"webinstruct-cft-50k": ROWS + 1, "webinstruct-cft-600k": ROWS + 2}
