"""The commands that a report prints, all made here: they lead to the store that is reported, under the report's overrides."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cft_lab.config import PROJECT_ROOT, Config
from cft_lab.sweeps.expand import AskedCell

_STUDIED = (0, 1, 2)  # seeds of the lab study
_LAB = "lab"
_PLAIN = re.compile(r"[\w/.@:+-]+", re.ASCII)  # what Hydra reads as it stands


@dataclass(frozen=True)
class Commands:
    """Commands for one store. `overrides` are those of the report; cells that were asked for have them already."""

    store: Path
    overrides: Sequence[str] = ()

    def sweep(self, name: str, scale: str) -> str:
        """What makes every cell of a sweep file; in the lab world with three seeds."""
        return self._run([f"sweeps={name}", *self.overrides], _STUDIED if scale == _LAB else (), many=True)

    def cell(self, cell: AskedCell, config: Config | None, seeds: Sequence[int] = ()) -> str:
        """What makes a cell under these seeds; without any, under its own, or under three in the lab world where seeds matter."""
        if config is not None and not seeds:
            seeds = _STUDIED if config.model.scale == _LAB and seeds_matter(config) else (config.seed,)
        return self._run(cell.overrides, () if config is not None and list(seeds) == [config.seed] else seeds)

    def default(self) -> str:
        """What makes the cell of the defaults."""
        return self._run((), ())

    def _run(self, overrides: Sequence[str], seeds: Sequence[int], *, many: bool = False) -> str:
        """`seeds` replace those of the overrides."""
        kept = [item for item in overrides if not item.startswith("output_root=") and not (seeds and item.startswith("seed="))]
        words = [*kept, *([f"seed={','.join(map(str, seeds))}"] if seeds else []), *self._place()]
        return " ".join(["python run.py", *(["-m"] if many or len(seeds) > 1 else []), *map(shlex.quote, words)])

    def _place(self) -> list[str]:
        """The override that leads to the store, if it is not where runs go by themselves."""
        store = self.store.resolve()
        if store == (PROJECT_ROOT / Config.output_root).resolve():
            return []
        name = store.relative_to(PROJECT_ROOT) if store.is_relative_to(PROJECT_ROOT) else store
        text = name.as_posix()
        if not _PLAIN.fullmatch(text):
            text = _hydra_quoted(text)
        return [f"output_root={text}"]


def _hydra_quoted(text: str) -> str:
    """A text between quotes as Hydra reads it: backslashes count before a quote, the end and an interpolation, and are doubled."""
    escaped = re.sub(r"(\\*)('|$)", lambda found: 2 * found[1] + ("\\'" if found[2] else ""), text)
    return "'" + re.sub(r"(\\*)\$\{", lambda found: 2 * found[1] + "\\${", escaped) + "'"


def seeds_matter(config: Config) -> bool:
    """Whether another seed gives another number: not for an untrained model that decodes greedily."""
    return config.method.name != "base" or config.temperature > 0
