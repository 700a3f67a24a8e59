"""Filling the hub's cache from a hub on loopback, and jobs that then read it without one."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from cft_lab.commands import prefetch
from cft_lab.config import PROJECT_ROOT
from cft_lab.hydra_config import compose

TESTS = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(TESTS / "data"))

import hub_folders  # noqa: E402
import hub_server  # noqa: E402

MODEL = "Qwen/Qwen2.5-Math-7B"
CELL = (
    "model=qwen2.5-math-7b",
    "method=sft",
    "data=math",
    "benchmarks.names=[gsm8k]",
    "train.selection.mode=clean",
    "train.selection.benchmark=math-train-clean",
    "engine=transformers",
)


def write_model(folder: Path) -> None:
    """A repository with the files of a real one: two shards, tokenizer, and copies in formats that are not loaded."""
    folder.mkdir(parents=True)
    shards = {f"layer.{i}": f"model-0000{i}-of-00002.safetensors" for i in (1, 2)}
    for shard in shards.values():
        (folder / shard).write_bytes(bytes(1000))
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": shards}))
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json", "merges.txt"):
        (folder / name).write_text("{}")
    (folder / "pytorch_model.bin").write_bytes(bytes(9000))
    (folder / "consolidated.safetensors").write_bytes(bytes(9000))
    (folder / "original").mkdir()
    (folder / "original" / "params.json").write_text("{}")


@pytest.fixture
def served(tmp_path: Path) -> Path:
    """What the hub on loopback has."""
    hub_folders.gsm8k(tmp_path / "served" / "openai" / "gsm8k")
    hub_folders.math(tmp_path / "served" / "EleutherAI" / "hendrycks_math")
    write_model(tmp_path / "served" / "models" / MODEL)
    return tmp_path / "served"


@pytest.fixture
def hub(served: Path, tmp_path: Path) -> Iterator[dict[str, str]]:
    """The environment of a machine that reaches that hub, with caches of its own."""
    command = [sys.executable, str(Path(hub_server.__file__)), str(served)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        home = tmp_path / "home"
        yield {
            "HF_ENDPOINT": f"http://127.0.0.1:{server.stdout.readline().strip()}",
            "HF_HUB_OFFLINE": "0",
            "HF_HOME": str(home),
            "HF_HUB_CACHE": str(home / "hub"),
            "HF_DATASETS_CACHE": str(home / "datasets"),
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        }
        server.terminate()


def run(environment: dict[str, str], *arguments: str) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of the command in a fresh process, as the hub's client reads its settings at import."""
    command = [sys.executable, "-m", "cft_lab", "prefetch", *arguments]
    done = subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, cwd=PROJECT_ROOT, check=False)
    return done.returncode, done.stdout, done.stderr


def check_cell(environment: dict[str, str]) -> list[str]:
    """What preflight and planning say is missing for the cell, with the hub offline."""
    script = (
        "import json, sys\nfrom cft_lab import pipeline\nfrom cft_lab.config import ConfigError\n"
        "from cft_lab.hydra_config import compose\n"
        f"try:\n    pipeline.check(compose(*{[*CELL]!r}))\nexcept ConfigError as error:\n    print(json.dumps(error.problems))"
    )
    command = [sys.executable, "-c", script]
    settings = os.environ | environment | {"HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, env=settings, capture_output=True, text=True, cwd=PROJECT_ROOT, check=True)
    problems: list[str] = json.loads(done.stdout)
    return [line for line in problems if "GPU" not in line and "OPENAI_API_KEY" not in line]


@pytest.mark.slow
def test_what_a_cell_needs_is_fetched_and_found_offline(hub: dict[str, str], served: Path, tmp_path: Path) -> None:
    assert len(check_cell(hub)) >= 3
    code, told, wrong = run(hub, "--dry-run", *CELL)
    assert (code, wrong) == (0, "")
    assert f"would fetch: {MODEL} (model=qwen2.5-math-7b), 7 files, 2.1 kB" in told
    assert "would fetch: openai/gsm8k (benchmark gsm8k)" in told
    assert "in all; the disk of" in told
    assert not list((tmp_path / "home").rglob("refs")), "looking leaves no trace in the cache"

    code, told, wrong = run(hub, *CELL)
    assert (code, wrong) == (0, "")
    assert told.endswith("jobs can run with HF_HUB_OFFLINE=1.\n")
    (snapshot,) = (tmp_path / "home" / "hub" / f"models--{MODEL.replace('/', '--')}" / "snapshots").iterdir()
    assert {path.name for path in snapshot.iterdir()} == {
        "config.json", "tokenizer.json", "tokenizer_config.json", "merges.txt", "model.safetensors.index.json",
        "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors",
    }  # fmt: skip
    assert check_cell(hub) == []

    shutil.rmtree(served)
    code, told, _ = run(hub | {"HF_HUB_OFFLINE": "1"}, *CELL)
    assert code == 0
    assert told.count("there: ") == 3
    code, told, wrong = run(hub, *CELL)
    assert (code, wrong) == (0, ""), "what is there is used as it is, whatever became of the hub's copy"
    assert told.count("not compared with the hub") == 3


@pytest.mark.slow
def test_an_interrupted_download_is_completed_at_its_own_version(hub: dict[str, str], tmp_path: Path) -> None:
    assert run(hub, *CELL)[0] == 0
    snapshots = tmp_path / "home" / "hub" / "datasets--EleutherAI--hendrycks_math" / "snapshots"
    (snapshot,) = snapshots.iterdir()
    other = snapshots.with_name("refs") / "main"
    assert other.read_text() == hub_server.COMMIT
    gone = next(snapshot.glob("algebra/train-*"))
    gone.unlink()
    code, told, _ = run(hub, *CELL)
    assert code == 0
    assert "to fetch: EleutherAI/hendrycks_math (data=math, benchmark math-train-clean), 1 files" in told
    assert "the rest of what is there" in told
    assert gone.exists()
    assert [path.name for path in snapshots.iterdir()] == [hub_server.COMMIT]


def test_a_gated_data_set_is_named_with_the_remedy(hub: dict[str, str], served: Path) -> None:
    gated = served / "Idavidrein" / "gpqa"
    gated.mkdir(parents=True)
    (gated / ".gated").touch()
    code, told, wrong = run(hub, "model=lab-qwen2", "method=base", "benchmarks.names=[gpqa-diamond,gsm8k]")
    assert code == 1
    assert "fetched: openai/gsm8k (benchmark gsm8k)" in told, "the others are fetched"
    assert "missing: Idavidrein/gpqa (benchmark gpqa-diamond) cannot be had from the hub (GatedRepoError" in wrong
    assert "accept its terms at https://huggingface.co/datasets/Idavidrein/gpqa, then set HF_TOKEN" in wrong


def test_what_the_hub_does_not_have_and_what_it_never_had(hub: dict[str, str], served: Path) -> None:
    shutil.rmtree(served / "models")
    (served / "models" / "openai" / "bin-only").mkdir(parents=True)
    (served / "models" / "openai" / "bin-only" / "config.json").write_text("{}")
    code, _, wrong = run(hub, *CELL, "data=wizardmath")
    assert code == 1
    assert f"missing: {MODEL} (model=qwen2.5-math-7b) cannot be had from the hub (RepositoryNotFoundError" in wrong
    assert "missing: data.hub_id is missing: data=wizardmath has no hub id of its own" in wrong
    code, _, wrong = run(hub, *CELL, "model.hub_id=openai/bin-only")
    assert "missing: openai/bin-only (model=qwen2.5-math-7b): its repository has no .safetensors files" in wrong


def test_an_unreachable_hub_is_said(hub: dict[str, str]) -> None:
    code, _, wrong = run(hub | {"HF_ENDPOINT": "http://127.0.0.1:9"}, *CELL)
    assert code == 1
    assert wrong.count("cannot be had from the hub") == 3
    code, _, wrong = run(hub | {"HF_HUB_OFFLINE": "1"}, *CELL)
    assert code == 1
    assert wrong.count("unset HF_HUB_OFFLINE where there is a network") == 3


def test_a_disk_without_room_stops_everything(capsys: pytest.CaptureFixture[str]) -> None:
    need = prefetch.Need("model", MODEL, None, ("model",), lambda: None)
    (told,) = prefetch._fetch_all([prefetch.Fetch(need, None, 3, 10**18)], dry_run=False)
    assert told.startswith(f"{MODEL} (model): the disk is too small for all")
    assert "1000000.00 TB in all; the disk of" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "told"),
    [(["table99"], "sweeps=table99 is not a sweep file"), (["model=gpt-5"], "gpt-5"), (["train.lrr=1"], "did you mean train.lr?")],
)
def test_bad_input(arguments: list[str], told: str) -> None:
    code, _, wrong = run({}, *arguments)
    assert code == 2
    assert told in wrong
    assert wrong.startswith("Nothing was fetched, for this reason:")


def uses(*overrides: str) -> dict[str, Sequence[str]]:
    return {need.hub_id: need.uses for need in prefetch.distinct_needs([compose(*overrides)])}


def test_cells_need_what_their_stages_read(own_caches: Path) -> None:
    assert uses() == {}
    paper = uses("model=qwen2.5-math-7b", "method=cft")
    assert paper["TIGER-Lab/WebInstructSub"] == ("data=webinstruct",)
    assert paper["HuggingFaceH4/MATH-500"] == ("benchmark math500",)
    assert "TIGER-Lab/WebInstructSub" not in uses("model=qwen2.5-math-7b", "method=base")
    assert "gpt-4o" not in str(uses("model=gpt-4o", "method=base")).lower()
    local = uses("model=qwen2.5-math-7b", "teacher=local", "teacher.model=Qwen/Qwen2.5-7B")
    assert local["Qwen/Qwen2.5-7B"] == ("teacher.model",)
    assert "Qwen/Qwen2.5-7B" not in uses("model=qwen2.5-math-7b", "method=sft", "teacher=local", "teacher.model=Qwen/Qwen2.5-7B")
    mixed = uses("model=qwen2.5-math-7b", "method=mix", "data@mix_data=acemath")
    assert mixed["nvidia/AceMath-Instruct-Training-Data"] == ("data=acemath",)
    both = uses("model=qwen2.5-math-7b", "method=sft", "data=gsm8k", "benchmarks.names=[gsm8k]")
    assert both["openai/gsm8k"] == ("data=gsm8k", "benchmark gsm8k")


def test_local_files_are_not_fetched(own_caches: Path, tmp_path: Path) -> None:
    (tmp_path / "gsm8k.jsonl").write_text('{"question": "q", "answer": "#### 1"}\n')
    config = compose(*CELL, f"+benchmarks.paths.gsm8k={tmp_path / 'gsm8k.jsonl'}")
    assert "openai/gsm8k" not in {need.hub_id for need in prefetch.needs_of(config)}
    config = compose(*CELL, f"+benchmarks.paths.gsm8k={tmp_path / 'none.jsonl'}", f"data.hub_id={tmp_path}")
    assert [need.hub_id for need in prefetch.needs_of(config)] == [MODEL, "EleutherAI/hendrycks_math"]
    assert [line.split("=")[0] for line in prefetch.local_problems(config)] == ["benchmarks.paths.gsm8k"]
