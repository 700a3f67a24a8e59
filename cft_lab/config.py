"""The configuration of one cell: one dataclass per config group, every default stated once, every field checked.

Nothing heavy is imported here. `check` runs before a model, data set or network is touched and raises `ConfigError`, whose
text names the field, its value, what is allowed and the remedy. `NOT_IN_KEYS` is the explicit list of fields that
cannot change a result; every other field is part of the key of each stage that reads it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Optional

PROJECT_ROOT = Path(__file__).resolve().parent.parent


class ConfigError(ValueError):
    """A configuration that cannot be run. `problems` has one line for each thing that is wrong."""

    def __init__(self, *problems: str) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class DataError(ValueError):
    """The data cannot give what the config asks for, which shows only once they are made; the text names the remedy."""


def _setting(default: Any, doc: str, *, low: float | None = None, high: float | None = None, choices: tuple[str, ...] = ()) -> Any:
    """A field with its one-line doc and what it allows; bounds are inclusive and None is always allowed where it is a default."""
    metadata = {"doc": doc, "low": low, "high": high, "choices": choices}
    if isinstance(default, (list, dict)):
        return field(default_factory=lambda: type(default)(default), metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass
class OptimizationConfig:
    """How a model is trained; used by pretraining in the lab and by fine-tuning everywhere."""

    lr: float = _setting(1e-3, "peak learning rate", low=1e-9, high=1.0)
    warmup_ratio: float = _setting(0.1, "share of the steps that warm up linearly", low=0.0, high=1.0)
    final_lr_ratio: float = _setting(0.0, "learning rate at the end of the cosine, as a share of the peak", low=0.0, high=1.0)
    epochs: int = _setting(1, "passes over the examples", low=1)
    global_batch_size: int = _setting(64, "sequences per optimizer step", low=1)
    device_batch_size: int = _setting(64, "sequences per forward pass; changes memory and speed only", low=1)
    max_length: int = _setting(512, "tokens; longer examples are dropped and counted", low=64)
    weight_decay: float = _setting(0.0, "AdamW weight decay", low=0.0, high=1.0)
    beta1: float = _setting(0.9, "AdamW beta1", low=0.0, high=0.9999)
    beta2: float = _setting(0.95, "AdamW beta2", low=0.0, high=0.99999)
    grad_clip: float = _setting(1.0, "largest gradient norm", low=1e-6)
    precision: str = _setting("fp32", "arithmetic of the forward and backward pass", choices=("fp32", "bf16", "auto"))
    cpu_threads: int = _setting(2, "torch threads on CPU; fixed, because it changes the rounding", low=1, high=256)
    save_every_steps: int = _setting(16, "optimizer steps between candidates", low=1)
    resume_every_steps: int = _setting(50, "optimizer steps between resume states", low=1)


@dataclass
class MixConfig:
    """A mix of lab problems and the mistakes in their solutions (weights need not sum to 1; rates lie in 0..1)."""

    families: dict[str, float] = _setting({}, "weight of each problem family", low=0.0)
    steps: dict[int, float] = _setting({}, "weight of each number of steps", low=0.0)
    noise: dict[str, float] = _setting({}, "share of wrong solutions by family", low=0.0, high=1.0)
    typical: dict[str, float] = _setting({}, "share of mistakes that are the family's own misconception", low=0.0, high=1.0)


@dataclass
class WebConfig(MixConfig):
    """What a lab model's pretraining text is made of."""

    kinds: dict[str, float] = _setting({}, "weight of each kind of document", low=0.0)


@dataclass
class PretrainConfig:
    """How a lab base model is made."""

    seed: int = _setting(0, "seed of the web text, the weights and their order", low=0)
    tokens: int = _setting(2_500_000, "tokens of web text, whole documents", low=1)
    web: WebConfig = field(default_factory=WebConfig)
    optimization: OptimizationConfig = field(default_factory=OptimizationConfig)


@dataclass
class LabModelConfig:
    """Shape and recipe of a lab base model."""

    architecture: str = _setting("qwen2", "model family", choices=("qwen2", "llama"))
    hidden_size: int = _setting(128, "width", low=8)
    intermediate_size: int = _setting(384, "width of the MLP", low=8)
    layers: int = _setting(4, "transformer blocks", low=1)
    heads: int = _setting(4, "attention heads", low=1)
    kv_heads: int = _setting(4, "key/value heads; divides heads", low=1)
    vocab_size: int = _setting(512, "BPE vocabulary before the number tokens are added", low=300)
    pretrain: PretrainConfig = field(default_factory=PretrainConfig)


@dataclass
class ModelConfig:
    """Group `model`: the base model."""

    name: str = _setting("", "name in tables")
    scale: str = _setting("lab", "lab models are made here, paper models come from the hub", choices=("lab", "paper"))
    hub_id: Optional[str] = _setting(None, "hub repository of a paper-scale model, or a folder in its format")
    api_model: Optional[str] = _setting(None, "name at the server of engine=openai of a model that is only evaluated")
    revision: Optional[str] = _setting(None, "hub revision (commit or tag); None is the cached default")
    prompt_format: str = _setting("lab", "how prompts are written", choices=("lab", "qwen", "chat", "deepseek"))
    end_of_turn: str = _setting("<|im_end|>", "token that ends an answer; supervised, and a stop token")
    lab: Optional[LabModelConfig] = None


@dataclass
class ApiConfig:
    """How an OpenAI-compatible server is called. The key itself comes from the environment only."""

    base_url: Optional[str] = _setting(None, "address of the server, such as http://host:8000/v1; None is OpenAI's")
    api_key_env: Optional[str] = _setting("OPENAI_API_KEY", "environment variable that holds the key; None sends no key")
    mode: str = _setting("online", "a request per row, or the Batch API (half the price, hours)", choices=("online", "batch"))
    max_in_flight: int = _setting(32, "requests under way at once, at most; adapts downwards to rate limits", low=1, high=4096)
    timeout_s: float = _setting(180.0, "seconds that one request may take", low=0.1, high=86400)
    max_retries: int = _setting(8, "further attempts of a row that failed in a way that may pass", low=0, high=100)
    max_cost_usd: Optional[float] = _setting(None, "dollars that a stage may spend; it stops before it crosses this", low=0.0)
    confirm_cost: bool = _setting(False, "yes to the estimated cost, needed above confirm_above_usd")
    confirm_above_usd: float = _setting(10.0, "estimated dollars above which confirm_cost=true is needed", low=0.0)


@dataclass
class WriterConfig(ApiConfig):
    """A model, other than the one that is trained, that writes text: through an API, or on this machine."""

    model: Optional[str] = _setting(None, "model name at the API; hub repository or folder of a local model")
    revision: Optional[str] = _setting(None, "hub revision of a local model")
    prompt_format: str = _setting("qwen", "how prompts of a local model are written", choices=("lab", "qwen", "chat", "deepseek"))
    end_of_turn: str = _setting("<|im_end|>", "token that ends an answer of a local model")
    temperature: float = _setting(0.0, "sampling temperature", low=0.0, high=2.0)
    top_p: float = _setting(1.0, "nucleus", low=0.01, high=1.0)
    max_new_tokens: int = _setting(3200, "length limit of one text, in tokens", low=1)
    seed: int = _setting(0, "seed of the draws", low=0)
    accept_failed: bool = _setting(False, "go on without the rows that still failed after all retries; they are recorded")
    retry_failed: bool = _setting(False, "try rows again that a finished stage lost; what was built on them is made anew")


@dataclass
class DataConfig:
    """Group `data`: where questions, and the data set's own responses, come from."""

    name: str = _setting("", "name in tables")
    source: str = _setting("lab", "the lab world, a hub data set, or your own files", choices=("lab", "hub", "local"))
    hub_id: Optional[str] = _setting(None, "hub data set, or a local folder in the same layout")
    subset: Optional[str] = _setting(None, "configuration of the hub data set; all reads every one")
    split: str = _setting("train", "split of the hub data set")
    revision: Optional[str] = _setting(None, "hub revision")
    path: Optional[str] = _setting(None, "file or folder (JSONL, Parquet or CSV) of source local")
    layout: str = _setting(
        "columns",
        "how a row is read: mapped columns, a conversation, or instruction/input/output of a critique set",
        choices=("columns", "messages", "critique"),
    )
    columns: dict[str, str] = _setting(
        {}, "our field (question, solution, answer, subject, critique, messages, input, output) -> its column"
    )
    gold: str = _setting(
        "column",
        "where the gold answer stands: a mapped column, the solution's last boxed, or after its ####",
        choices=("column", "boxed", "hashes"),
    )
    critiques: str = _setting("teacher", "who critiques: the teacher, or the data set's own", choices=("teacher", "released"))
    streaming: bool = _setting(False, "read the hub data set without downloading it whole; changes no result")
    scan_rows: Optional[int] = _setting(None, "only the first so many rows are looked at; None is all", low=1)
    pool: int = _setting(8000, "problems drawn; every arm takes its examples from this pool in one order", low=1)
    examples: Optional[int] = _setting(3000, "training examples of an arm, taken from the pool; None is all it gives", low=1)
    supervised_tokens: Optional[int] = _setting(
        None, "instead of examples: as many as give this number of target tokens, so that arms are token-matched", low=1
    )
    seed: int = _setting(0, "seed of the draw", low=0)
    lab: Optional[MixConfig] = None


@dataclass
class DecontaminationConfig:
    """Group `decontamination`: which questions are kept out of training because they overlap with what is evaluated."""

    words: int = _setting(13, "length of the word n-grams that count as overlap; 0 switches it off", low=0, high=1000)
    benchmarks: list[str] = _setting([], "benchmarks checked besides the cell's own and its validation set")


@dataclass
class ResponsesConfig(WriterConfig):
    """Group `responses`: whose solutions are imitated or critiqued."""

    name: str = _setting("reference", "name in tables")
    kind: str = _setting(
        "reference",
        "the data set's own, the base model's, or those of another model (local or through an API)",
        choices=("reference", "self", "local", "openai"),
    )
    max_new_tokens: int = _setting(160, "length limit of one response, in tokens", low=1)


@dataclass
class TeacherConfig(WriterConfig):
    """Group `teacher`: who critiques responses and writes answers."""

    name: str = _setting("none", "name in tables")
    kind: str = _setting(
        "none", "the lab's oracle, a model through an API, or one on this machine", choices=("none", "oracle", "openai", "local")
    )
    error_rate: float = _setting(0.0, "how often a lab oracle errs", low=0.0, high=1.0)


@dataclass
class PricesConfig:
    """Group `prices`: what an API asks, in dollars per million tokens."""

    dated: str = _setting("", "when the prices were read")
    input_usd: dict[str, float] = _setting({}, "model -> price of a million prompt tokens", low=0.0)
    output_usd: dict[str, float] = _setting({}, "model -> price of a million generated tokens", low=0.0)
    batch_factor: float = _setting(1.0, "what the Batch API asks, as a share of the price", low=0.0, high=1.0)


@dataclass
class MethodConfig:
    """Group `method`: how examples are made (a function of data/methods.py), and which critiques are used."""

    name: str = _setting("cft", "arm", choices=("base", "sft", "sft-verified", "sft-teacher", "cft", "cft-short", "mix"))
    keep_critiques: str = _setting(
        "all",
        "which critiques may be used: all (the paper), those with a readable verdict, those whose verdict agrees with the gold",
        choices=("all", "parsed", "agreeing"),
    )
    max_critique_words: Optional[int] = _setting(None, "longer critiques are left out; cft-short finds its own limit", low=1)


@dataclass
class SelectionConfig:
    """Which candidate becomes the model that is evaluated."""

    mode: str = _setting("best", "best on the validation set (ties to the earlier step), or the last", choices=("best", "last"))
    benchmark: str = _setting("lab-validation", "validation set")
    max_new_tokens: int = _setting(160, "length limit while scoring candidates", low=1)


@dataclass
class TrainConfig(OptimizationConfig):
    """Group `train`: fine-tuning and the choice of a checkpoint."""

    selection: SelectionConfig = field(default_factory=SelectionConfig)


@dataclass
class EngineConfig(ApiConfig):
    """Group `engine`: what generates text when models are evaluated."""

    kind: str = _setting("transformers", "generation engine", choices=("transformers", "vllm", "openai"))
    batch_size: int = _setting(256, "texts under way at once in a process; changes memory and speed only", low=1)
    precision: str = _setting("fp32", "arithmetic", choices=("fp32", "bf16", "auto"))
    cpu_threads: int = _setting(2, "torch threads on CPU; fixed, because it changes the rounding", low=1, high=256)
    max_model_len: Optional[int] = _setting(None, "tokens of a prompt and its text together; None is the model's own limit", low=2)
    shards: Optional[int] = _setting(
        None, "processes that share the prompts; None is one for each visible GPU (or group of them), and one on a CPU", low=1
    )
    tensor_parallel: int = _setting(1, "GPUs that one model is spread over (vllm)", low=1)
    gpu_memory_utilization: float = _setting(0.9, "share of the GPU's memory that vllm takes", low=0.05, high=1.0)
    enforce_eager: bool = _setting(False, "vllm without compilation and CUDA graphs: starts sooner, runs slower")


@dataclass
class InferenceConfig:
    """Group `inference`: the protocol that turns a question into a final answer."""

    name: str = _setting("direct", "protocol", choices=("direct", "single-pass", "two-stage"))
    max_new_tokens: int = _setting(160, "length limit of one generation", low=1)
    samples: int = _setting(1, "draws of every item; above 1 the score is avg@k, beside maj@k and pass@k", low=1, high=1024)
    max_rounds: int = _setting(8, "most solutions that two-stage self-critique writes", low=1, high=64)
    top_p: float = _setting(1.0, "nucleus", low=0.01, high=1.0)
    stop: list[str] = _setting([], "strings that end a generation")


@dataclass
class BenchmarksConfig:
    """Group `benchmarks`: what the model is evaluated on."""

    name: str = _setting("lab", "preset")
    names: list[str] = _setting([], "benchmarks in table order")
    items: Optional[int] = _setting(None, "only the first so many items of each; None is all", low=2)
    paths: dict[str, str] = _setting(
        {}, "benchmark -> JSONL or Parquet file, or folder in the hub's layout; from the project's folder"
    )


@dataclass
class TrackingConfig:
    """Group `tracking`: where metrics go besides metrics.jsonl. The W&B key comes from the environment only."""

    kind: str = _setting("none", "tracker", choices=("none", "wandb"))
    project: str = _setting("cft-lab", "W&B project")
    entity: Optional[str] = _setting(None, "W&B entity")
    mode: str = _setting("offline", "W&B mode", choices=("offline", "online"))


@dataclass
class Config:
    """One cell: a base model, its training data and method, and how it is evaluated."""

    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    mix_data: DataConfig = field(default_factory=DataConfig)
    decontamination: DecontaminationConfig = field(default_factory=DecontaminationConfig)
    responses: ResponsesConfig = field(default_factory=ResponsesConfig)
    teacher: TeacherConfig = field(default_factory=TeacherConfig)
    prices: PricesConfig = field(default_factory=PricesConfig)
    method: MethodConfig = field(default_factory=MethodConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    engine: EngineConfig = field(default_factory=EngineConfig)
    inference: InferenceConfig = field(default_factory=InferenceConfig)
    benchmarks: BenchmarksConfig = field(default_factory=BenchmarksConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)
    temperature: float = _setting(0.0, "what the evaluation samples at; 0 is greedy", low=0.0, high=2.0)
    seed: int = _setting(0, "training order and evaluation sampling, nothing else", low=0)
    output_root: str = _setting("outputs", "the store; relative paths start at the project's folder")
    progress: bool = _setting(True, "progress bars and stage lines")


_API_FIELDS = tuple(item.name for item in dataclasses.fields(ApiConfig))

#: fields that cannot change a result (names are labels; the others decide speed, place, price or looks)
NOT_IN_KEYS = frozenset(
    {
        "model.name",
        "model.scale",
        "data.name",
        "data.path",  # what the files hold is in the key
        "data.streaming",
        "mix_data.name",
        "mix_data.path",
        "mix_data.streaming",
        "responses.name",
        "teacher.name",
        *(f"{group}.{name}" for group in ("teacher", "responses") for name in ("accept_failed", "retry_failed")),
        *(f"{group}.{name}" for group in ("teacher", "responses", "engine") for name in _API_FIELDS),
        *(f"prices.{item.name}" for item in dataclasses.fields(PricesConfig)),
        "benchmarks.name",
        "benchmarks.paths",  # where rows lie; what they say is in the keys by its hash
        "engine.batch_size",
        "engine.shards",
        "engine.gpu_memory_utilization",
        "output_root",
        "progress",
        "train.device_batch_size",
        "train.resume_every_steps",
        "model.lab.pretrain.optimization.device_batch_size",
        "model.lab.pretrain.optimization.resume_every_steps",
        "model.lab.pretrain.optimization.save_every_steps",
        "tracking.kind",
        "tracking.project",
        "tracking.entity",
        "tracking.mode",
    }
)


def fields_of(config: Any, prefix: str = "") -> Iterator[tuple[str, Any, dataclasses.Field[Any]]]:
    """Every leaf field of a config as (dotted name, value, dataclass field), nested dataclasses opened."""
    for item in dataclasses.fields(config):
        value = getattr(config, item.name)
        name = f"{prefix}{item.name}"
        if dataclasses.is_dataclass(value):
            yield from fields_of(value, f"{name}.")
        else:
            yield name, value, item


def key_part(part: Any, prefix: str) -> dict[str, Any]:
    """What of a config part goes into stage keys: its leaf fields by dotted name, less `NOT_IN_KEYS`.

    `prefix` is where the part stands in `Config`, such as `train`.
    """
    return {name: value for name, value, _ in fields_of(part, f"{prefix}.") if name not in NOT_IN_KEYS}


def check_fields(config: Any) -> list[str]:
    """One line for every field that is out of range; an empty list if all is well."""
    problems = []
    for name, value, item in fields_of(config):
        allowed = item.metadata
        values = list(value.values()) if isinstance(value, dict) else [value]
        if allowed.get("choices") and value not in allowed["choices"]:
            problems.append(f"{name}={value!r} is not allowed: choose one of {', '.join(allowed['choices'])}")
        low, high = allowed.get("low"), allowed.get("high")
        for number in values:
            if not isinstance(number, (int, float)) or isinstance(number, bool):
                continue
            if (low is not None and not number >= low) or (high is not None and not number <= high):
                bounds = f"at least {low:g}" if high is None else f"from {low:g} to {high:g}"
                problems.append(f"{name}={value!r} is out of range: {item.metadata['doc']}, {bounds}")
                break
    return problems
