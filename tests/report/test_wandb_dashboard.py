"""The W&B report as code: built offline, and checked against what real runs have logged offline."""

import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from cells import DEBUG
from test_tracking import about, offline_runs

from cft_lab import __main__, pipeline
from cft_lab.config import PROJECT_ROOT
from cft_lab.hydra_config import Composer, initialized
from cft_lab.published import published_values
from cft_lab.report.build import build, build_study
from cft_lab.report.claims import judge, read_claims
from cft_lab.report.page_parts import COST_COLUMNS, Amount, CostPart
from cft_lab.report.study import Study
from cft_lab.report.wandb_dashboard import TRAINING, build_dashboard, panel_metrics, spec
from cft_lab.results import open_store
from cft_lab.sweeps import run_folder
from cft_lab.sweeps.expand import compose_all, expand
from cft_lab.sweeps.plan import make_plan

SWEEP = """
caption: One arm
benchmarks: lab
grids:
  - {method: [sft]}
labels:
  - {where: {method: sft}, row: SFT}
"""


def found(told: Any, kind: str) -> list[Any]:
    """All that a spec has under a name."""
    if isinstance(told, list):
        return [one for part in told for one in found(part, kind)]
    if not isinstance(told, dict):
        return []
    return [value for name, value in told.items() if name == kind] + [one for part in told.values() for one in found(part, kind)]


def keys_of(run: list[Any], kind: str) -> set[str]:
    """The names in the history of a run, or in its config."""
    if kind == "history":
        items = [item for record in run if record.WhichOneof("record_type") == "history" for item in record.history.item]
    else:
        items = list(about(run).config.update)
    return {item.key or "/".join(item.nested_key) for item in items}


@pytest.mark.slow
def test_every_metric_of_the_dashboard_is_logged_by_runs(debug_model: Path, tmp_path: Path) -> None:
    root, folder = tmp_path / "store", tmp_path / "sweeps"
    folder.mkdir()
    (folder / "mine.yaml").write_text(SWEEP)
    shutil.copytree(debug_model.parent, root / "base_model" / debug_model.parent.name)
    with initialized():
        asked = expand([*DEBUG, "sweeps=mine", "tracking=wandb", f"output_root={root}"], folder)
        plan, _ = make_plan(compose_all(asked.cells, Composer()))
    run_folder.freeze(plan, asked.name, [])
    pipeline.run(plan.configs[0], lambda line: None)
    report = build(open_store(root), ["mine"], overrides=DEBUG, folder=folder)
    assert report.tables[0].rows[0].entries["AVG"].value is not None  # type: ignore[union-attr]
    told = spec(build_dashboard(report, "cft-lab"))["spec"]
    runs = {about(run).job_type: run for run in offline_runs(root).values()}
    assert set(runs) == {"train", "cell"}
    logged = {kind: keys_of(run, "history") for kind, run in runs.items()}
    assert set(TRAINING) <= logged["train"]
    assert panel_metrics(told) - set(TRAINING) <= logged["cell"]
    assert len(panel_metrics(told)) == len(TRAINING) + 2 + 3 * 4
    for one in found(told, "runSets"):
        (shown,) = one
        job, tag = (line["value"] for line in shown["filters"]["filters"])
        assert tag[0] in about(runs[job]).tags
        assert shown["grouping"][0] == {"section": "run", "name": "group"}
        assert about(runs[job]).run_group == "mine"
        for column in shown["runFeed"]["columnPinned"]:
            section, _, name = column.partition(":")
            assert section in ("run", "tags") or name.removesuffix(".value") in logged[job] | keys_of(runs[job], "config"), column


def test_the_published_table_and_the_stores_own_are_in_it(tmp_path: Path) -> None:
    texts = "\n".join(found(spec(build_dashboard(build(open_store(tmp_path), ["table8"]), "p", "e")), "content"))
    assert "Published (arXiv 2501.17703 v1)" in texts
    for value in published_values(8):
        assert f" {value.value:.1f} " in texts
    assert "not run" in texts


def test_claims_stand_first_with_their_verdicts_and_costs_last(tmp_path: Path) -> None:
    study = Study(open_store(tmp_path))
    report, verdicts = build_study(study, ["lab/table2"]), judge(study, read_claims())
    costs = [CostPart("candidates", ("k",), {name: Amount(None, 0, 1) for name in COST_COLUMNS} | {"seconds": Amount(90.0, 1, 2)})]
    told = spec(build_dashboard(report, "p", "e", verdicts, costs))["spec"]
    texts = "\n".join(found(told, "content"))
    paper, lab = (sum(one.claim.scale == scale for one in verdicts) for scale in ("paper", "lab"))
    assert texts.index(f"The paper's claims**: 0 of {paper} judged") < texts.index(
        f"Claims about the lab world**: 0 of {lab} judged"
    )
    for verdict in verdicts:
        assert verdict.claim.statement in texts
    assert (
        texts.index(verdicts[-1].claim.statement)
        < texts.index("Lab twin of table 2")
        < texts.index("| candidates | 1 | 90 (1 of 2) |")
    )


def test_arms_stand_beside_each_other_and_protocols_over_temperature(tmp_path: Path) -> None:
    report = build(open_store(tmp_path), ["lab/table2", "lab/table8"])
    told = spec(build_dashboard(report, "p", "e"))["spec"]
    scatter = [one for one in found(told, "config") if isinstance(one, dict) and "yAxis" in one]
    assert [(one["xAxis"], one["yAxis"]) for one in scatter] == [
        ("config:temperature.value", f"summary:{name}/accuracy") for name in ("lab-basic", "lab-applied")
    ]
    runsets = [one for sets in found(told, "runSets") for one in sets]
    tags = {one["name"]: [line["value"] for line in one["filters"]["filters"][1:]] for one in runsets}
    assert tags["Two-stage self-critique"] == [["table:lab/table8"], ["row:Two-stage self-critique"]]
    assert tags["CFT"] == [["table:lab/table2"], ["row:lab-qwen2"], ["column:CFT"]]


def test_the_command_takes_words_for_claims_and_groups(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert __main__.main(["wandb-dashboard", "claims", "--store", str(tmp_path), "--dry-run"]) == 0
    assert "in project cft-lab: claims\n" in capsys.readouterr().out
    assert __main__.main(["wandb-dashboard", "lab", "--store", str(tmp_path), "--json"]) == 0
    shown = capsys.readouterr().out
    assert "Claims about the lab world" in shown
    assert "The paper's claims" not in shown
    assert "Lab world: Table 8" in shown


def test_the_command_shows_it_without_a_network(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    command = ["wandb-dashboard", "lab/table8", "--store", str(tmp_path)]
    assert __main__.main([*command, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["project"] == "cft-lab"
    assert __main__.main([*command, "--dry-run"]) == 0
    assert "  train/loss\n" in capsys.readouterr().out
    assert __main__.main(command) == 2
    assert "WANDB_API_KEY is not set" in capsys.readouterr().err
    assert __main__.main(["wandb-dashboard", "table99", "--store", str(tmp_path), "--json"]) == 2
    assert "table99" in capsys.readouterr().err


def test_without_the_library_the_extra_is_named(tmp_path: Path) -> None:
    script = (
        "import sys; sys.modules['wandb_workspaces'] = None\n"
        "from cft_lab.__main__ import main\n"
        f"sys.exit(main(['wandb-dashboard', 'lab/table8', '--json', '--store', {str(tmp_path)!r}]))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, cwd=PROJECT_ROOT)
    assert done.returncode == 2
    assert "pip install -e '.[dashboard]'" in done.stderr
    assert "Traceback" not in done.stderr


class _Server(BaseHTTPRequestHandler):
    """Answers what W&B's client asks when it saves a report, or refuses to take it."""

    saved: list[dict[str, Any]]
    refuses = False

    def log_message(self, *_: Any) -> None:
        pass

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        asked = json.loads(body) if self.path == "/graphql" else {"query": ""}
        data: dict[str, Any] = {}
        if "viewer" in asked["query"]:
            data["viewer"] = {"id": "v", "username": "me", "email": "", "entity": "me", "flags": "{}", "teams": {"edges": []}}
        if "GetProjects" in asked["query"]:
            project: dict[str, Any] = {"id": "p", "name": "cft-lab", "entityName": "me", "createdAt": "2026-01-01T00:00:00"}
            project |= {"isBenchmark": False, "user": None}
            page = {"endCursor": "c", "hasNextPage": False}
            data["models"] = {"edges": [{"node": project, "cursor": "c"}], "pageInfo": page}
        if "upsertView" in asked["query"]:
            sent = asked["variables"]
            self.saved.append(sent)
            told = {"id": "Vmlldzox", "project": {"id": "p", "name": "cft-lab", "entityName": "me"}, "user": {"username": "me"}}
            times = dict.fromkeys(("createdAt", "updatedAt"), "2026-01-01T00:00:00")
            names = {name: sent[name] for name in ("name", "displayName", "description", "type", "spec")}
            data["upsertView"] = {"view": {**told, **times, **names}, "inserted": True}
        refused = self.refuses and "upsertView" in data
        answer = json.dumps({"errors": [{"message": f"denied to {'k' * 40}"}]} if refused else {"data": data}).encode()
        self.send_response(403 if refused else 200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)


@pytest.fixture
def server() -> Iterator[ThreadingHTTPServer]:
    handler = type("Handler", (_Server,), {"saved": []})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as serving:
        threading.Thread(target=serving.serve_forever, daemon=True).start()
        yield serving
        serving.shutdown()


@pytest.mark.slow
@pytest.mark.parametrize("refuses", [False, True])
def test_the_command_sends_it_with_wandbs_own_client(server: ThreadingHTTPServer, tmp_path: Path, refuses: bool) -> None:
    handler: Any = server.RequestHandlerClass
    handler.refuses = refuses
    (tmp_path / "store").mkdir()
    own = {"WANDB_BASE_URL": f"http://127.0.0.1:{server.server_port}", "WANDB_API_KEY": "k" * 40, "HOME": str(tmp_path)}
    command = [sys.executable, "-m", "cft_lab", "wandb-dashboard", "lab/table8", "--store", str(tmp_path / "store")]
    env = {**os.environ, **own}
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=PROJECT_ROOT, env=env, timeout=120)
    assert done.returncode == (1 if refuses else 0), done.stderr
    assert "k" * 40 not in done.stdout + done.stderr
    assert not [file for file in tmp_path.rglob("*") if file.is_file() and "k" * 40 in file.read_text(errors="replace")]
    (sent,) = handler.saved
    assert "train/loss" in panel_metrics(json.loads(sent["spec"]))
    if refuses:
        assert "W&B did not take the report" in done.stderr
    else:
        assert (sent["entityName"], sent["projectName"]) == ("me", "cft-lab")
        assert done.stdout.startswith("http")
        assert "/me/cft-lab/reports/" in done.stdout
