"""Groups `data`, `responses`, `teacher`, `method` and their like: what models are trained on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional

from cft_lab.config.engines import WriterConfig
from cft_lab.config.fields import setting
from cft_lab.config.models import MixConfig


@dataclass
class DataConfig:
    """Group `data`: where questions, and the data set's own responses, come from."""

    name: str = setting("", "name in tables")
    source: str = setting("lab", "the lab world, a hub data set, or your own files", choices=("lab", "hub", "local"))
    hub_id: Optional[str] = setting(None, "hub data set, or a local folder in the same layout")
    subset: Optional[str] = setting(None, "configuration of the hub data set; all reads every one")
    split: str = setting("train", "split of the hub data set")
    revision: Optional[str] = setting(None, "hub revision")
    path: Optional[str] = setting(None, "file or folder (JSONL, Parquet or CSV) of source local")
    layout: str = setting(
        "columns",
        "how a row is read: mapped columns, a conversation, or instruction/input/output of a critique set",
        choices=("columns", "messages", "critique"),
    )
    columns: dict[str, str] = setting(
        {}, "our field (question, solution, answer, subject, critique, messages, input, output) -> its column"
    )
    gold: str = setting(
        "column",
        "where the gold answer stands: a mapped column, the solution's last boxed, or after its ####",
        choices=("column", "boxed", "hashes"),
    )
    critiques: str = setting("teacher", "who critiques: the teacher, or the data set's own", choices=("teacher", "released"))
    streaming: bool = setting(False, "read the hub data set without downloading it whole; changes no result")
    scan_rows: Optional[int] = setting(None, "only the first so many rows are looked at; None is all", low=1)
    pool: int = setting(8000, "problems drawn; every arm takes its examples from this pool in one order", low=1)
    examples: Optional[int] = setting(3000, "training examples of an arm, taken from the pool; None is all it gives", low=1)
    supervised_tokens: Optional[int] = setting(
        None, "instead of examples: as many as give this number of target tokens, so that arms are token-matched", low=1
    )
    seed: int = setting(0, "seed of the draw", low=0)
    lab: Optional[MixConfig] = None


@dataclass
class DecontaminationConfig:
    """Group `decontamination`: which questions are kept out of training because they overlap with what is evaluated."""

    words: int = setting(13, "length of the word n-grams that count as overlap; 0 switches it off", low=0, high=1000)
    benchmarks: list[str] = setting([], "benchmarks checked besides the cell's own and its validation set")


@dataclass
class ResponsesConfig(WriterConfig):
    """Group `responses`: whose solutions are imitated or critiqued."""

    name: str = setting("reference", "name in tables")
    kind: str = setting(
        "reference",
        "the data set's own, the base model's, or those of another model (local or through an API)",
        choices=("reference", "self", "local", "openai"),
    )
    max_new_tokens: int = setting(160, "length limit of one response, in tokens", low=1)


@dataclass
class TeacherConfig(WriterConfig):
    """Group `teacher`: who critiques responses and writes answers."""

    name: str = setting("none", "name in tables")
    kind: str = setting(
        "none", "the lab's oracle, a model through an API, or one on this machine", choices=("none", "oracle", "openai", "local")
    )
    error_rate: float = setting(0.0, "how often a lab oracle errs", low=0.0, high=1.0)


@dataclass
class PricesConfig:
    """Group `prices`: what an API asks, in dollars per million tokens."""

    dated: str = setting("", "when the prices were read")
    input_usd: dict[str, float] = setting({}, "model -> price of a million prompt tokens", low=0.0)
    output_usd: dict[str, float] = setting({}, "model -> price of a million generated tokens", low=0.0)
    batch_factor: float = setting(1.0, "what the Batch API asks, as a share of the price", low=0.0, high=1.0)


@dataclass
class MethodConfig:
    """Group `method`: how examples are made (a function of data/methods.py), and which critiques are used."""

    name: str = setting("cft", "arm", choices=("base", "sft", "sft-verified", "sft-teacher", "cft", "cft-short", "mix"))
    keep_critiques: str = setting(
        "all",
        "which critiques may be used: all (the paper), those with a readable verdict, those whose verdict agrees with the gold",
        choices=("all", "parsed", "agreeing"),
    )
    max_critique_words: Optional[int] = setting(None, "longer critiques are left out; cft-short finds its own limit", low=1)
