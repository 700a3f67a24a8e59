"""README and docs: links lead somewhere, and every printed command is one that the program understands.

Commands are not run here: their words are read by the parser, and the cells they name are composed by Hydra. Those of
docs/own-experiment.md are typed in full by test_own_experiment_docs.py.
"""

import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from cft_lab.__main__ import parse
from cft_lab.config import PROJECT_ROOT
from cft_lab.hydra_config import Composer, initialized, sweep_names
from cft_lab.report.build import ALL, expand_names
from cft_lab.sweeps.expand import expand

TEXTS = {
    str(path.relative_to(PROJECT_ROOT)): path.read_text(encoding="utf-8")
    for path in sorted([*PROJECT_ROOT.glob("*.md"), *PROJECT_ROOT.glob("docs/**/*.md"), PROJECT_ROOT / "benchmarks/RESULTS.md"])
}
#: words that stand for the reader's own
PLACEHOLDER = re.compile(r"\.\.\.|\[[A-Z]|\b[A-Z]{2,}\b(?!\.jsonl)")


def commands(start: str) -> list[str]:
    """Every command of the docs that begins like this, in blocks and in text, without comments and with its lines joined."""
    return sorted(set(_commands(start)))


def _commands(start: str) -> Iterator[str]:
    for text in TEXTS.values():
        joined = text.replace("\\\n", " ")
        blocks = re.findall(r"^```\w*\n(.*?)^```$", joined, re.DOTALL | re.MULTILINE)
        found = [line for block in blocks for line in block.splitlines()] + re.findall(r"`([^`\n]+)`", joined)
        for line in found:
            bare = line.partition(" #")[0].strip().removeprefix(".venv/bin/")
            if bare.startswith(start) and "mine" not in re.split("[ =]", bare):  # the reader's own sweep file
                yield bare


def headings(text: str) -> set[str]:
    """The anchors of a Markdown file, as GitHub makes them."""
    return {
        re.sub(r"[^\w\- ]", "", line.lstrip("#").strip().lower()).replace(" ", "-") for line in text.splitlines() if line[:1] == "#"
    }


@pytest.mark.parametrize("name", TEXTS)
def test_links_lead_somewhere(name: str) -> None:
    folder = (PROJECT_ROOT / name).parent
    for target in re.findall(r"\]\(([^)\s]+)\)", TEXTS[name]):
        if target.startswith(("http://", "https://")):
            continue
        file, _, anchor = target.partition("#")
        path = (folder / file).resolve() if file else PROJECT_ROOT / name
        assert path.exists(), f"{name} links to {target}"
        assert not anchor or anchor in headings(path.read_text(encoding="utf-8")), f"{name} links to {target}"


@pytest.mark.parametrize("name", TEXTS)
def test_files_that_are_named_exist(name: str) -> None:
    for path in re.findall(r"`((?:docs|conf|cft_lab|sweeps|tests|benchmarks|notebooks)/[\w/.-]+\.\w+)`", TEXTS[name]):
        assert (PROJECT_ROOT / path).exists() or path == "sweeps/mine.yaml", f"{name} names {path}"


def test_commands_are_found_at_all() -> None:
    assert len(commands("python run.py")) > 20
    assert len(commands("python -m cft_lab")) > 40
    assert len(commands("make ")) >= 5


@pytest.mark.parametrize("command", commands("make "))
def test_make_targets(command: str) -> None:
    done = subprocess.run([*shlex.split(command), "--dry-run"], cwd=PROJECT_ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("command", commands("python benchmarks/"))
def test_benchmarks_exist(command: str) -> None:
    assert (PROJECT_ROOT / command.split()[1]).is_file()


@pytest.mark.parametrize("command", commands("python -m cft_lab "))
def test_the_commands_of_the_program_are_understood(command: str) -> None:
    words = shlex.split(command)[3:]
    if PLACEHOLDER.search(" ".join(words)):
        words = words[:1]
    if len(words) == 1:  # named in a sentence, without what it needs
        with pytest.raises(SystemExit) as ended:
            parse([*words, "--help"])
        assert ended.value.code == 0
        return
    options = parse(words)
    for name in expand_names(
        [word for word in getattr(options, "asked", getattr(options, "tables", [])) if "=" not in word and word != "claims"]
    ):
        assert name in ALL or name in sweep_names(), f"{command}: {name}"


@pytest.mark.parametrize("command", commands("python run.py"))
def test_the_cells_of_commands_compose(command: str) -> None:
    words = shlex.split(command)[2:]
    if "..." in command or "hydra/sweeper=basic" in command:
        pytest.skip("another sweeper's words")
    overrides = [word for word in words if not word.startswith("-") and word != "job" and not word.endswith("=NAME")]
    with initialized():
        cells = expand(overrides).cells
        composer = Composer()
        for cell in {cell.sweep: cell for cell in cells}.values():  # one of each sweep file, and of a plain grid
            composer(cell.overrides)
    assert cells


def test_every_document_can_be_found_from_the_readme() -> None:
    for name in TEXTS:
        folder, _, file = name.rpartition("/")
        if folder == "docs":
            assert file in TEXTS["README.md"], f"README.md does not name {name}"


def test_the_layout_in_the_readme_is_the_tree() -> None:
    layout = TEXTS["README.md"].split("```\nrun.py ")[1].split("```")[0]
    tracked = subprocess.run(["git", "ls-files"], cwd=PROJECT_ROOT, capture_output=True, text=True, check=False).stdout.split()
    if not tracked:
        pytest.skip("no git here")
    for entry in {Path(path).parts[0] + "/" for path in tracked if "/" in path} - {".ci/", ".github/"}:
        assert entry in layout, entry
    for entry in {
        Path(path).parts[1] for path in tracked if path.startswith("cft_lab/") and not path.endswith(("__init__.py", "py.typed"))
    }:
        assert entry in layout, f"cft_lab/{entry}"
