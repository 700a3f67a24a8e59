"""The configuration of one cell: one dataclass per config group, every default stated once, every field checked.

Nothing heavy is imported here. `check` runs before a model, data set or network is touched and raises `ConfigError`, whose
text names the field, its value, what is allowed and the remedy. `NOT_IN_KEYS` is the explicit list of fields that
cannot change a result; every other field is part of the key of each stage that reads it.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cft_lab.config.data import DataConfig, DecontaminationConfig, MethodConfig, PricesConfig, ResponsesConfig, TeacherConfig
from cft_lab.config.engines import ApiConfig, BenchmarksConfig, EngineConfig, InferenceConfig, WriterConfig
from cft_lab.config.fields import ConfigError, DataError, check_fields, fields_of, setting
from cft_lab.config.models import (
    LabModelConfig,
    MixConfig,
    ModelConfig,
    OptimizationConfig,
    PretrainConfig,
    SelectionConfig,
    ShapeConfig,
    TrainConfig,
    WebConfig,
)
from cft_lab.config.running import ClusterConfig, ResourcesConfig, TrackingConfig

PROJECT_ROOT = Path(__file__).resolve().parent.parent.parent


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
    cluster: ClusterConfig = field(default_factory=ClusterConfig)
    temperature: float = setting(0.0, "what the evaluation samples at; 0 is greedy", low=0.0, high=2.0)
    seed: int = setting(0, "training order and evaluation sampling, nothing else", low=0)
    output_root: str = setting("outputs", "the store; relative paths start at the project's folder")
    progress: bool = setting(True, "progress bars and stage lines")


_API_FIELDS = tuple(item.name for item in dataclasses.fields(ApiConfig))
#: fields of OptimizationConfig that change speed and memory, and nothing else but the last digits
_SPEED_FIELDS = ("micro_batch_tokens", "loss_chunk_tokens", "activation_checkpointing", "compile", "resume_every_steps")

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
        *(f"{place}.{name}" for place in ("train", "model.lab.pretrain.optimization") for name in _SPEED_FIELDS),
        "model.lab.pretrain.optimization.save_every_steps",
        *(f"train.{name}" for name in ("processes", "nodes", "max_restarts", "preflight", "device_memory_gb", "device_tflops")),
        "model.shape",
        *(f"model.shape.{item.name}" for item in dataclasses.fields(ShapeConfig)),
        *(name for name, _, _ in fields_of(TrackingConfig(), "tracking.")),
        *(name for name, _, _ in fields_of(ClusterConfig(), "cluster.")),
    }
)


def key_part(part: Any, prefix: str) -> dict[str, Any]:
    """What of a config part goes into stage keys: its leaf fields by dotted name, less `NOT_IN_KEYS`.

    `prefix` is where the part stands in `Config`, such as `train`.
    """
    return {name: value for name, value, _ in fields_of(part, f"{prefix}.") if name not in NOT_IN_KEYS}


__all__ = [
    "NOT_IN_KEYS",
    "PROJECT_ROOT",
    "ApiConfig",
    "BenchmarksConfig",
    "ClusterConfig",
    "Config",
    "ConfigError",
    "DataConfig",
    "DataError",
    "DecontaminationConfig",
    "EngineConfig",
    "InferenceConfig",
    "LabModelConfig",
    "MethodConfig",
    "MixConfig",
    "ModelConfig",
    "OptimizationConfig",
    "PretrainConfig",
    "PricesConfig",
    "ResourcesConfig",
    "ResponsesConfig",
    "SelectionConfig",
    "ShapeConfig",
    "TeacherConfig",
    "TrackingConfig",
    "TrainConfig",
    "WebConfig",
    "WriterConfig",
    "check_fields",
    "fields_of",
    "key_part",
]
