"""The lab world's oracle behind the engine protocol: it answers teacher prompts from their text alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from cft_lab.engines.base import Prompt
from cft_lab.lab.oracle import Oracle
from cft_lab.prompts import TEACHER_CRITIQUE_SYSTEM, parse_question, parse_question_and_solution
from cft_lab.records import Completion, Sampling


class OracleEngine:
    """Critiques if the prompt is a critique prompt, answers if it is an answer prompt; sampling has no effect."""

    def __init__(self, oracle: Oracle) -> None:
        self._oracle = oracle

    def generate(self, prompts: Sequence[Prompt], sampling: Sampling) -> Iterator[tuple[int, Completion]]:
        """See `Engine.generate`. `num_tokens` counts words: the oracle has no tokenizer."""
        for index, prompt in enumerate(prompts):
            text = self._reply(prompt)
            if text is None:
                yield index, Completion("the prompt is not one of cft_lab.prompts' teacher prompts", 0, "error")
            else:
                yield index, Completion(text, len(text.split()), "stop")

    def _reply(self, prompt: Prompt) -> str | None:
        system, user = prompt.messages[0].content, prompt.messages[-1].content
        if system == TEACHER_CRITIQUE_SYSTEM:
            pair = parse_question_and_solution(user)
            return self._oracle.critique(*pair) if pair else None
        question = parse_question(user)
        return self._oracle.answer(question) if question else None
