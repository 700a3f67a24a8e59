"""Groups `model`, `train` and what they share: how models are made."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Optional

from cft_lab.config.fields import setting


@dataclass
class OptimizationConfig:
    """How a model is trained; used by pretraining in the lab and by fine-tuning everywhere."""

    lr: float = setting(1e-3, "peak learning rate", low=1e-9, high=1.0)
    warmup_ratio: float = setting(0.1, "share of the steps that warm up linearly", low=0.0, high=1.0)
    final_lr_ratio: float = setting(0.0, "learning rate at the end of the cosine, as a share of the peak", low=0.0, high=1.0)
    epochs: int = setting(1, "passes over the examples", low=1)
    global_batch_size: int = setting(64, "sequences per optimizer step", low=1)
    micro_batch_tokens: int = setting(4096, "tokens of one forward pass on a device; changes memory and speed only", low=1)
    loss_chunk_tokens: int = setting(4096, "target tokens whose logits exist at once; changes memory and speed only", low=1)
    max_length: int = setting(512, "tokens; longer examples are dropped and counted", low=64)
    weight_decay: float = setting(0.0, "AdamW weight decay", low=0.0, high=1.0)
    beta1: float = setting(0.9, "AdamW beta1", low=0.0, high=0.9999)
    beta2: float = setting(0.95, "AdamW beta2", low=0.0, high=0.99999)
    grad_clip: float = setting(1.0, "largest gradient norm", low=1e-6)
    precision: str = setting("fp32", "arithmetic of the forward and backward pass", choices=("fp32", "bf16", "auto"))
    weights: str = setting("fp32", "what the trained weights are kept in", choices=("fp32", "bf16"))
    optimizer: str = setting(
        "adamw",
        "AdamW with fp32 moments, with 8-bit moments, or with bf16 moments and stochastic rounding of bf16 weights",
        choices=("adamw", "adamw-8bit", "adamw-bf16"),
    )
    activation_checkpointing: str = setting(
        "none", "what the backward pass computes again instead of keeping it", choices=("none", "selective", "full")
    )
    compile: bool = setting(False, "torch.compile: faster steps after a slow start")
    max_nonfinite_steps: int = setting(
        1, "steps with a loss or gradient that is no number: each is skipped, and training stops at this many", low=1
    )
    cpu_threads: int = setting(2, "torch threads on CPU; fixed, because it changes the rounding", low=1, high=256)
    save_every_steps: int = setting(16, "optimizer steps between candidates", low=1)
    resume_every_steps: int = setting(50, "optimizer steps between resume states", low=1)


@dataclass
class MixConfig:
    """A mix of lab problems and the mistakes in their solutions (weights need not sum to 1; rates lie in 0..1)."""

    families: dict[str, float] = setting({}, "weight of each problem family", low=0.0)
    steps: dict[int, float] = setting({}, "weight of each number of steps", low=0.0)
    noise: dict[str, float] = setting({}, "share of wrong solutions by family", low=0.0, high=1.0)
    typical: dict[str, float] = setting({}, "share of mistakes that are the family's own misconception", low=0.0, high=1.0)


@dataclass
class WebConfig(MixConfig):
    """What a lab model's pretraining text is made of."""

    kinds: dict[str, float] = setting({}, "weight of each kind of document", low=0.0)


@dataclass
class PretrainConfig:
    """How a lab base model is made."""

    seed: int = setting(0, "seed of the web text, the weights and their order", low=0)
    tokens: int = setting(2_500_000, "tokens of web text, whole documents", low=1)
    web: WebConfig = field(default_factory=WebConfig)
    optimization: OptimizationConfig = field(default_factory=OptimizationConfig)


@dataclass
class ShapeConfig:
    """Shape of a decoder: what memory and time are estimated from without its weights."""

    architecture: str = setting("qwen2", "model family", choices=("qwen2", "llama"))
    hidden_size: int = setting(128, "width", low=8)
    intermediate_size: int = setting(384, "width of the MLP", low=8)
    layers: int = setting(4, "transformer blocks", low=1)
    heads: int = setting(4, "attention heads", low=1)
    kv_heads: int = setting(4, "key/value heads; divides heads", low=1)
    vocab_size: int = setting(512, "vocabulary; of a lab model: the BPE's, before the number tokens are added", low=300)
    tied_embeddings: bool = setting(False, "whether the output projection is the input embedding")


@dataclass
class LabModelConfig(ShapeConfig):
    """Shape and recipe of a lab base model."""

    tied_embeddings: bool = setting(True, "whether the output projection is the input embedding")
    pretrain: PretrainConfig = field(default_factory=PretrainConfig)


@dataclass
class ModelConfig:
    """Group `model`: the base model."""

    name: str = setting("", "name in tables")
    scale: str = setting("lab", "lab models are made here, paper models come from the hub", choices=("lab", "paper"))
    hub_id: Optional[str] = setting(None, "hub repository of a paper-scale model, or a folder in its format")
    api_model: Optional[str] = setting(None, "name at the server of engine=openai of a model that is only evaluated")
    revision: Optional[str] = setting(None, "hub revision (commit or tag); None is the cached default")
    prompt_format: str = setting("lab", "how prompts are written", choices=("lab", "qwen", "chat", "deepseek"))
    end_of_turn: str = setting("<|im_end|>", "token that ends an answer; supervised, and a stop token")
    lab: Optional[LabModelConfig] = None
    shape: Optional[ShapeConfig] = None  # of a hub model, for estimates before its weights are here


@dataclass
class SelectionConfig:
    """Which candidate becomes the model that is evaluated."""

    mode: str = setting(
        "clean",
        "the best candidate on a set that is not reported (clean), or on MATH-500 as in the paper, a part of the reported test set "
        "(paper), ties to the earlier step; the last candidate (last); or no candidate but the end of training (none)",
        choices=("clean", "paper", "last", "none"),
    )
    benchmark: str = setting("lab-validation", "validation set of mode clean")
    max_new_tokens: int = setting(160, "length limit while scoring candidates", low=1)

    @property
    def scored_on(self) -> str | None:
        """The benchmark that candidates are scored on; None if they are not scored."""
        return {"clean": self.benchmark, "paper": "math500"}.get(self.mode)


@dataclass
class TrainConfig(OptimizationConfig):
    """Group `train`: fine-tuning and the choice of a checkpoint."""

    processes: Optional[int] = setting(None, "processes on a node, a GPU each; None is one per visible GPU, one on a CPU", low=1)
    nodes: int = setting(1, "nodes of one training", low=1)
    max_restarts: int = setting(3, "times that a training of several processes restarts by itself after one of them died", low=0)
    keep_candidates: Optional[int] = setting(
        None, "candidates on the disk at once: the best so far are kept, scored as they appear; None keeps all", low=2
    )
    preflight: bool = setting(False, "print the plan of the training (tokens, steps, memory, time, disk) and stop")
    device_memory_gb: Optional[float] = setting(None, "memory of a GPU in GB, to plan for another machine", low=0.1)
    device_tflops: Optional[float] = setting(None, "peak TFLOP/s of a GPU, to plan for another machine", low=0.001)
    selection: SelectionConfig = field(default_factory=SelectionConfig)
