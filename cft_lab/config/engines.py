"""How text is generated and what is measured: servers, groups `engine`, `inference` and `benchmarks`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional

from cft_lab.config.fields import setting


@dataclass
class ApiConfig:
    """How an OpenAI-compatible server is called. The key itself comes from the environment only."""

    base_url: Optional[str] = setting(None, "address of the server, such as http://host:8000/v1; None is OpenAI's")
    api_key_env: Optional[str] = setting("OPENAI_API_KEY", "environment variable that holds the key; None sends no key")
    mode: str = setting("online", "a request per row, or the Batch API (half the price, hours)", choices=("online", "batch"))
    max_in_flight: int = setting(32, "requests under way at once, at most; adapts downwards to rate limits", low=1, high=4096)
    timeout_s: float = setting(180.0, "seconds that one request may take", low=0.1, high=86400)
    max_retries: int = setting(8, "further attempts of a row that failed in a way that may pass", low=0, high=100)
    max_cost_usd: Optional[float] = setting(None, "dollars that a stage may spend; it stops before it crosses this", low=0.0)
    confirm_cost: bool = setting(False, "yes to the estimated cost, needed above confirm_above_usd")
    confirm_above_usd: float = setting(10.0, "estimated dollars above which confirm_cost=true is needed", low=0.0)


@dataclass
class WriterConfig(ApiConfig):
    """A model, other than the one that is trained, that writes text: through an API, or on this machine."""

    model: Optional[str] = setting(None, "model name at the API; hub repository or folder of a local model")
    revision: Optional[str] = setting(None, "hub revision of a local model")
    prompt_format: str = setting("qwen", "how prompts of a local model are written", choices=("lab", "qwen", "chat", "deepseek"))
    end_of_turn: str = setting("<|im_end|>", "token that ends an answer of a local model")
    temperature: float = setting(0.0, "sampling temperature", low=0.0, high=2.0)
    top_p: float = setting(1.0, "nucleus", low=0.01, high=1.0)
    max_new_tokens: int = setting(3200, "length limit of one text, in tokens", low=1)
    seed: int = setting(0, "seed of the draws", low=0)
    accept_failed: bool = setting(False, "go on without the rows that still failed after all retries; they are recorded")
    retry_failed: bool = setting(False, "try rows again that a finished stage lost; what was built on them is made anew")


@dataclass
class EngineConfig(ApiConfig):
    """Group `engine`: what generates text when models are evaluated."""

    kind: str = setting("transformers", "generation engine", choices=("transformers", "vllm", "openai"))
    batch_size: int = setting(256, "texts under way at once in a process; changes memory and speed only", low=1)
    precision: str = setting("fp32", "arithmetic", choices=("fp32", "bf16", "auto"))
    cpu_threads: int = setting(2, "torch threads on CPU; fixed, because it changes the rounding", low=1, high=256)
    max_model_len: Optional[int] = setting(None, "tokens of a prompt and its text together; None is the model's own limit", low=2)
    shards: Optional[int] = setting(
        None, "processes that share the prompts; None is one for each visible GPU (or group of them), and one on a CPU", low=1
    )
    tensor_parallel: int = setting(1, "GPUs that one model is spread over (vllm)", low=1)
    gpu_memory_utilization: float = setting(0.9, "share of the GPU's memory that vllm takes", low=0.05, high=1.0)
    enforce_eager: bool = setting(False, "vllm without compilation and CUDA graphs: starts sooner, runs slower")


@dataclass
class InferenceConfig:
    """Group `inference`: the protocol that turns a question into a final answer."""

    name: str = setting("direct", "protocol", choices=("direct", "single-pass", "two-stage"))
    max_new_tokens: int = setting(160, "length limit of one generation", low=1)
    samples: int = setting(1, "draws of every item; above 1 the score is avg@k, beside maj@k and pass@k", low=1, high=1024)
    max_rounds: int = setting(8, "most solutions that two-stage self-critique writes", low=1, high=64)
    top_p: float = setting(1.0, "nucleus", low=0.01, high=1.0)
    stop: list[str] = setting([], "strings that end a generation")


@dataclass
class BenchmarksConfig:
    """Group `benchmarks`: what the model is evaluated on."""

    name: str = setting("lab", "preset")
    names: list[str] = setting([], "benchmarks in table order")
    items: Optional[int] = setting(None, "only the first so many items of each; None is all", low=2)
    paths: dict[str, str] = setting(
        {}, "benchmark -> JSONL or Parquet file, or folder in the hub's layout; from the project's folder"
    )
