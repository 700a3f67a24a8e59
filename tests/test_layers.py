"""Architecture: who may import whom, and what start-up must not import."""

import ast
import re
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from cft_lab.config import PROJECT_ROOT
from cft_lab.data.methods import METHODS, MIXES
from cft_lab.evaluation.protocols import PROTOCOLS

PACKAGE = PROJECT_ROOT / "cft_lab"
#: from the ground up; a module imports from lower floors, or from its own package
FLOORS = [
    {"records", "verdicts", "published"},
    {"prompts", "json_files", "locks", "provenance"},
    {"grade_columns"},
    {"config", "store"},
    {"runtime", "lab", "tracking", "hydra_config"},
    {"engines"},
    {"evaluation"},
    {"data", "training"},
    {"stages", "preflight"},
    {"pipeline", "results"},
    {"final_table"},
    {"sweeps"},
    {"report"},
    {"commands"},
    {"cli", "__main__"},
]
HEAVY = ("torch", "transformers", "wandb", "datasets", "accelerate", "vllm", "openai", "matplotlib")


def floor_of(module: str) -> int:
    name = module.split(".")[1]
    return next(i for i, floor in enumerate(FLOORS) if name in floor)


def imports_of(file: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("cft_lab"):
            found |= {node.module} if node.module != "cft_lab" else {f"cft_lab.{alias.name}" for alias in node.names}
    return found


def test_every_module_imports_only_from_floors_below() -> None:
    upward = []
    for file in PACKAGE.rglob("*.py"):
        here = "cft_lab." + ".".join(file.relative_to(PACKAGE).with_suffix("").parts)
        if here == "cft_lab.__init__":
            continue
        for target in imports_of(file):
            same_package = here.split(".")[1] == target.split(".")[1]
            if not same_package and floor_of(target) >= floor_of(here):
                upward.append(f"{here} imports {target}")
    assert not upward


def test_every_module_has_a_floor() -> None:
    names = {path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}
    assert names - {"__init__"} == set.union(*FLOORS)


def plain(name: str) -> str:
    """A distribution's name as all of its spellings have it."""
    return re.sub("[-_.]+", "-", re.split("[<>=\\[ ]", name)[0]).lower()


def test_every_package_that_is_imported_is_declared() -> None:
    project = tomllib.loads((PROJECT_ROOT / "pyproject.toml").read_text())["project"]
    extras = [name for extra, names in project["optional-dependencies"].items() if extra != "dev" for name in names]
    declared = {plain(name) for name in [*project["dependencies"], *extras]}
    imported = set()
    for node in (node for file in PACKAGE.rglob("*.py") for node in ast.walk(ast.parse(file.read_text()))):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names += [node.module] if isinstance(node, ast.ImportFrom) and node.module else []
        imported |= {name.split(".")[0] for name in names}
    owners = packages_distributions()
    others = imported - sys.stdlib_module_names - {"cft_lab", "hydra_plugins"}
    assert {name for name in others if not declared & {plain(owner) for owner in owners.get(name, [name])}} == set()


@pytest.mark.parametrize("arguments", [["--help"], ["--cfg", "job"], ["model=qwen2.5-math-7b"]])
def test_start_up_imports_nothing_heavy(arguments: list[str]) -> None:
    script = (
        "import sys, runpy\n"
        f"sys.argv = {['run.py', *arguments]!r}\n"
        "try:\n    runpy.run_path(sys.argv[0], run_name='__main__')\nexcept SystemExit:\n    pass\n"
        f"print('HEAVY', [name for name in {HEAVY!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=PROJECT_ROOT, check=True)
    assert done.stdout.rstrip().endswith("HEAVY []"), done.stdout[-500:] + done.stderr[-500:]


def test_planning_a_cell_imports_nothing_heavy() -> None:
    script = (
        "import sys\nfrom cft_lab import pipeline\nfrom cft_lab.hydra_config import compose\n"
        "assert pipeline.plan(compose()).result.key\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=PROJECT_ROOT)
    assert done.stdout.strip() == "[]"


def test_the_choices_in_conf_are_the_choices_in_the_code() -> None:
    def names(group: str) -> set[str]:
        return {path.stem for path in (PROJECT_ROOT / "conf" / group).glob("*.yaml") if not path.stem.startswith("_")}

    assert names("method") == {*METHODS, *MIXES}
    assert names("inference") == set(PROTOCOLS) | {f"paper-{name}" for name in PROTOCOLS}


def test_prompt_texts_live_in_prompts_only() -> None:
    for file in PACKAGE.rglob("*.py"):
        if file.name != "prompts.py":
            assert "step by step, and put" not in file.read_text(), file
