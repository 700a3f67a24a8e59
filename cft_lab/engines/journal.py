"""An engine that remembers: every completion is journalled as it arrives, so a killed stage resumes row by row."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence

from cft_lab.engines.base import Engine, Prompt
from cft_lab.records import Completion, Sampling, to_row
from cft_lab.store import Journal


class JournalEngine:
    """Wraps an engine. Prompts that the journal already answers are not sent again; failed ones are tried again."""

    def __init__(self, engine: Engine, journal: Journal) -> None:
        self._engine = engine
        self._journal = journal
        self._known = {
            row["prompt"]: Completion(**row["completion"]) for row in journal.rows if row["completion"]["finish"] != "error"
        }

    def generate(self, prompts: Sequence[Prompt], sampling: Sampling) -> Iterator[tuple[int, Completion]]:
        """See `Engine.generate`; what is known comes first."""
        names = [_name(prompt, sampling) for prompt in prompts]
        missing = [i for i, name in enumerate(names) if name not in self._known]
        for index in sorted(set(range(len(prompts))) - set(missing)):
            yield index, self._known[names[index]]
        for place, completion in self._engine.generate([prompts[i] for i in missing], sampling) if missing else ():
            index = missing[place]
            self._journal.append({"prompt": names[index], "completion": to_row(completion)})
            self._known[names[index]] = completion
            yield index, completion


def _name(prompt: Prompt, sampling: Sampling) -> str:
    """The prompt's id and a hash of all that its completion depends on within the stage."""
    digest = hashlib.sha256(repr((prompt.messages, sampling)).encode()).hexdigest()[:16]
    return f"{prompt.id}#{digest}"
