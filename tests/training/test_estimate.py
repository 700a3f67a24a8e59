"""Estimated memory against the peak of real trainings; what fits, what is refused, and what is said when memory ran out."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from cft_lab.config import PROJECT_ROOT, Config, ConfigError, OptimizationConfig, ShapeConfig
from cft_lab.data.methods import METHODS, MIXES
from cft_lab.hydra_config import compose
from cft_lab.training import costs, fitting
from cft_lab.training.devices import GIB, Device, find_device
from cft_lab.training.estimate import Setting, estimate_memory
from cft_lab.training.lengths import _SOURCES, assumed_lengths, measured_lengths
from cft_lab.training.meters import flops_of_shape
from cft_lab.training.shapes import count_parameters

QWEN = {"architecture": "qwen2", "hidden_size": 512, "intermediate_size": 1408, "layers": 12, "heads": 8, "kv_heads": 4}
LLAMA = {"architecture": "llama", "hidden_size": 768, "intermediate_size": 2048, "layers": 8, "heads": 12, "kv_heads": 12}
WIDE = {"architecture": "qwen2", "hidden_size": 320, "intermediate_size": 640, "layers": 2, "heads": 5, "kv_heads": 5}

#: name -> shape, settings that differ, rows; two steps each, of one micro-batch or of two
TRAININGS = {
    "deep, everything kept, one micro-batch a step": (
        {**QWEN, "vocab_size": 32_000, "tied_embeddings": False},
        {"micro_batch_tokens": 1024, "global_batch_size": 8},
        16,
    ),
    "recomputed blocks, two micro-batches a step": (
        {**LLAMA, "vocab_size": 8_000, "tied_embeddings": False},
        {"micro_batch_tokens": 512, "global_batch_size": 8, "activation_checkpointing": "full"},
        16,
    ),
    "a vocabulary of 152,064, its loss in chunks": (
        {**WIDE, "vocab_size": 152_064, "tied_embeddings": True},
        {"micro_batch_tokens": 512, "global_batch_size": 8, "loss_chunk_tokens": 128},
        16,
    ),
}
LENGTH, SUPERVISED = 128, 0.5


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the peak of memory is read from Linux's /proc")
@pytest.mark.parametrize("name", TRAININGS)
def test_the_estimate_is_within_15_percent_of_the_measured_growth(name: str) -> None:
    shape, settings, rows = TRAININGS[name]
    config = {"cpu_threads": 1, "max_length": 2048, "save_every_steps": 1000, "resume_every_steps": 1000, **settings}
    asked = {"shape": shape, "train": config, "rows": rows, "length": LENGTH, "supervised": SUPERVISED}
    environment = {
        **os.environ,
        "PYTHONPATH": str(PROJECT_ROOT),
        "MALLOC_MMAP_THRESHOLD_": "65536",
        "MALLOC_TRIM_THRESHOLD_": "65536",
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
    }
    script = Path(__file__).with_name("memory_of_training.py")
    done = subprocess.run(
        [sys.executable, str(script), json.dumps(asked)], capture_output=True, text=True, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    measured = json.loads(done.stdout.splitlines()[-1])
    planned = ShapeConfig(**shape)  # type: ignore[arg-type]
    assert measured["parameters"] == count_parameters(planned).total
    assert 4 * measured["parameters"] > 200e6, "weights of 200 MB or more"
    step_tokens = settings["global_batch_size"] * LENGTH
    setting = Setting(planned, OptimizationConfig(**config), "cpu", "fp32", 1, step_tokens, LENGTH, SUPERVISED)  # type: ignore[arg-type]
    memory = estimate_memory(setting)
    told = ", ".join(f"{part.name} {part.num_bytes / 1e6:.0f}" for part in memory.parts)
    print(f"{name}: estimated {memory.total / 1e6:.0f} MB ({told}), measured {measured['growth'] / 1e6:.0f} MB")
    assert memory.total == pytest.approx(measured["growth"], rel=0.15), told


def planned(*overrides: str) -> tuple[Config, Setting, Device]:
    config = compose("method=cft", *overrides)
    shape = fitting.shape_of(config.model)
    assert shape is not None
    device = find_device(config)
    return config, fitting.setting_of(config, shape, device, assumed_lengths(config)), device


SEVEN, LARGE = "model=qwen2.5-math-7b", "model=qwen2.5-32b-instruct"
HUNGRY = ("train.micro_batch_tokens=16384", "train.activation_checkpointing=none")


@pytest.mark.parametrize(
    ("overrides", "fits"),
    [
        ((SEVEN, "train.device_memory_gb=141"), True),
        ((SEVEN, "train.device_memory_gb=80"), False),
        ((SEVEN, "train.device_memory_gb=80", "train.processes=8"), True),
        ((SEVEN, "train.device_memory_gb=24"), False),
        ((LARGE, "train.device_memory_gb=80", "train.processes=8"), True),
        ((LARGE, "train.device_memory_gb=141"), False),
        ((SEVEN, "train.device_memory_gb=80", "train.weights=bf16", "train.optimizer=adamw-8bit"), True),
    ],
)
def test_what_fits_where(overrides: tuple[str, ...], fits: bool) -> None:
    config, setting, device = planned(*overrides)
    memory = estimate_memory(setting)
    assert (fitting.misfit("it", setting, memory, device) == []) is fits
    assert (fitting.refusal(config) is None) is fits


def test_a_refusal_says_why_and_what_would_fit() -> None:
    config, *_ = planned(SEVEN, *HUNGRY, "train.device_memory_gb=24", "train.processes=1")
    said = fitting.refusal(config)
    assert said is not None
    for part in ("on each of 1 GPU", "train.device_memory_gb=24", "the largest part is", "no setting makes it fit on 1 GPU"):
        assert part in said
    assert "what would fit: train.processes=8 train.nodes=" in said


def test_what_is_said_to_fit_does_fit() -> None:
    _config, setting, device = planned(SEVEN, "train.device_memory_gb=141", *HUNGRY)
    assert device.memory is not None
    found = fitting.what_fits(setting, device.memory)
    assert any("optimizer=adamw-8bit" in fit.overrides for fit in found)
    for fit in found:
        _, again, _ = planned(SEVEN, "train.device_memory_gb=141", *HUNGRY, *fit.overrides.split())
        assert estimate_memory(again).total == fit.memory.total <= device.memory


@pytest.mark.parametrize("better", ["train.micro_batch_tokens=4096", "train.activation_checkpointing=full", "train.processes=8"])
def test_a_lever_saves_memory(better: str) -> None:
    _, plain, _ = planned(SEVEN, *HUNGRY)
    _, saving, _ = planned(SEVEN, *HUNGRY, better)
    assert estimate_memory(saving).total < 0.9 * estimate_memory(plain).total


LOW_BIT = ("train.weights=bf16", "train.optimizer=adamw-8bit")


def test_levers_that_do_not_work_in_several_processes_are_refused_and_never_offered() -> None:
    config, setting, device = planned(LARGE, *LOW_BIT, "train.device_memory_gb=80", "train.processes=8")
    said = fitting.refusal(config)
    assert said is not None
    assert "in 8 processes: weights=bf16 with optimizer=adamw-8bit works in one process only" in said
    assert "optimizer=adamw-bf16" in said
    assert device.memory is not None
    offered = [*fitting.what_fits(setting, device.memory)]
    _, setting, _ = planned(LARGE, *HUNGRY, "train.device_memory_gb=60", "train.processes=8")
    offered += fitting.what_fits(setting, 60 * GIB)
    _, setting, _ = planned(LARGE, *LOW_BIT, "train.device_memory_gb=40", "train.processes=1")
    several = [fit for fit in fitting.what_fits(setting, 40 * GIB) if "train.processes" in fit.overrides]
    assert several
    for fit in [*offered, *several]:
        assert not ("adamw-8bit" in fit.overrides and "weights=bf16" in fit.overrides), fit.overrides
    assert any("train.optimizer=adamw-bf16 train.weights=bf16" in fit.overrides for fit in offered)
    assert all("train.optimizer=adamw-bf16" in fit.overrides for fit in several)


def test_processes_without_a_place_are_refused_before_anything_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SLURM_JOB_NUM_NODES", "SLURM_NNODES", "SLURM_JOB_NODELIST", "SLURM_JOB_ID"):
        monkeypatch.delenv(name, raising=False)
    said = fitting.refusal(compose("method=cft", "train.nodes=2"))
    assert said is not None
    assert "train.nodes=2 needs a SLURM job of so many nodes, and this is none: set cluster=slurm" in said
    monkeypatch.setenv("SLURM_JOB_NODELIST", "gpu[07-08]")
    monkeypatch.setenv("SLURM_JOB_NUM_NODES", "2")
    assert fitting.refusal(compose("method=cft", "train.nodes=2")) is None
    assert "and this has 2" in str(fitting.refusal(compose("method=cft", "train.nodes=3")))
    monkeypatch.delenv("SLURM_JOB_NODELIST")
    assert "cluster.train.gpus=8" in str(fitting.refusal(compose("method=cft", SEVEN, "cluster=slurm", "train.processes=16")))
    assert fitting.refusal(compose("method=cft", SEVEN, "cluster=slurm", "train.nodes=4")) is None
    assert "in 8 processes" in str(fitting.refusal(compose("method=cft", SEVEN, "cluster=slurm", "train=paper-one-gpu")))
    nvidia_smi = tmp_path / "nvidia-smi"  # what the driver's prints, which is not on this machine
    nvidia_smi.write_text("#!/bin/sh\nprintf 'NVIDIA H200, 143771\\nNVIDIA H200, 143771\\n'\n")
    nvidia_smi.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setattr("cft_lab.runtime.GPU_DEVICE_FILES", (str(nvidia_smi),))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    monkeypatch.setattr("sys.platform", "linux")
    assert "train.processes=4, but 2 GPUs are visible here" in str(fitting.refusal(compose("method=cft", "train.processes=4")))


def test_nothing_is_refused_where_no_memory_is_known() -> None:
    config, _setting, device = planned(SEVEN)
    if device.here:
        pytest.skip("a GPU is here")
    assert device.memory is None
    assert fitting.refusal(config) is None
    assert fitting.refusal(compose("method=base", SEVEN)) is None


def test_out_of_memory_is_explained_with_the_estimate_and_what_should_fit() -> None:
    config, setting, _ = planned(SEVEN, "train.micro_batch_tokens=4096", "train.activation_checkpointing=none")
    asked = {"device": "cuda", "precision": "bf16", "ranks": 1, "lengths": (2048, 1500, 500), "targets": 1700}
    said = fitting.estimate_in_words(setting.shape, config.train, limit=139 * GIB, **asked)  # type: ignore[arg-type]
    for part in ("the estimate for 4,048 tokens was ", " of 139.0 GiB, so it could not fit: weights 28.4 GiB", "activations"):
        assert part in said
    assert "Estimated to fit: train.activation_checkpointing=full" in said
    said = fitting.estimate_in_words(setting.shape, config.train, limit=400 * GIB, **asked)  # type: ignore[arg-type]
    assert "so an estimate was off, or another process holds memory" in said


def test_lengths_are_measured_or_labelled_as_assumed() -> None:
    counted = measured_lengths([10, 20, 30, 40], 25, too_long=2, without_target=1, basis="here")
    assert (counted.examples, counted.sequences, counted.mean, counted.longest) == (7, 4, 25.0, 40)
    assert counted.targets == pytest.approx(25)
    assert counted.measured
    assumed = assumed_lengths(compose("method=cft", SEVEN))
    assert assumed.basis.startswith("assumed: counted on ")
    assert assumed.too_long + assumed.sequences == assumed.examples == 50_000
    assert assumed.longest == 2048


def test_every_method_is_known_to_the_assumptions() -> None:
    assert set(_SOURCES) == {*METHODS, *MIXES}
    with pytest.raises(ConfigError, match="method=base trains nothing"):
        assumed_lengths(compose("method=base"))


def test_lengths_of_a_mix_are_those_of_both_sources() -> None:
    mixed = assumed_lengths(compose("method=mix", SEVEN))
    critiques, responses = (assumed_lengths(compose(f"method={method}", SEVEN)) for method in ("cft", "sft"))
    assert mixed.sequences == critiques.sequences + responses.sequences
    assert responses.mean < mixed.mean < critiques.mean
    assert "MATH" in mixed.basis
    assert "critique" in mixed.basis


def test_token_matched_arms_have_the_same_number_of_targets() -> None:
    short, long = (
        assumed_lengths(compose(f"method={method}", SEVEN, "data.supervised_tokens=1000000")) for method in ("sft", "cft")
    )
    assert short.targets == pytest.approx(1e6, rel=0.01)
    assert short.examples > 2 * long.examples


def test_steps_time_and_disk() -> None:
    config, setting, device = planned(SEVEN, "train.device_memory_gb=141", "train.device_tflops=989")
    lengths = dataclasses.replace(assumed_lengths(config), sequences=50_000)
    steps = costs.count_steps(config, lengths)
    assert (steps.total, steps.warmup, steps.candidates) == (98, 10, 49)  # the paper's: ~98 steps, ~49 checkpoints
    time = costs.estimate_time(config.train, setting.shape, lengths, device)
    counted = flops_of_shape(setting.shape).of([round(lengths.mean)] * 1000, round(1000 * lengths.mean * lengths.target_share))
    assert time.flops == pytest.approx(counted * lengths.sequences / 1000, rel=0.01)
    assert time.hours == pytest.approx(time.flops / (989e12 * 0.35 * 0.75) / 3600)
    known = costs.estimate_time(config.train, setting.shape, lengths, device, (5000.0, "in an earlier training"))
    assert known.hours == pytest.approx(lengths.tokens / 5000 / 3600)
    assert known.basis.startswith("measured")
    disk = costs.estimate_disk(config, setting.shape, steps, "bf16", Path("/nowhere/at/all"))
    assert disk.candidate == pytest.approx(15.2e9, rel=0.01)
    assert disk.needed == pytest.approx(16 * 15.23e9 + 3 * 91.4e9, rel=0.01)
    assert disk.folder == Path("/")


def test_a_full_disk_is_said_with_the_remedy() -> None:
    disk = costs.Disk(candidate=15e9, held=49, resume=180e9, free=100e9, folder=Path("/data"))
    assert disk.shortage is not None
    assert "needs 915 GB of disk and 100 GB are free at /data: set train.keep_candidates=2" in disk.shortage
    assert dataclasses.replace(disk, free=1e12).shortage is None


def test_keeping_few_candidates_bounds_the_disk() -> None:
    config, setting, _ = planned(SEVEN, "train.keep_candidates=2")
    disk = costs.estimate_disk(config, setting.shape, costs.count_steps(config, assumed_lengths(config)), "bf16", Path("/"))
    assert disk.held == 2


def test_the_estimates_need_no_torch() -> None:
    script = (
        "import sys\nfrom cft_lab.hydra_config import compose\nfrom cft_lab.sweeps.costs import training_cost\n"
        "from cft_lab.training import fitting\n"
        f"config = compose('method=cft', {SEVEN!r}, 'train.device_memory_gb=24')\n"
        "assert fitting.refusal(config) and training_cost(config).gpu_hours\n"
        "print([name for name in ('torch', 'transformers', 'numpy') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
