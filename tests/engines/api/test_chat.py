"""Bodies as they are sent, replies as they are read."""

import json
from typing import Any

import pytest

from cft_lab.engines.api.chat import Asking, Reply, cut_at_stop, read_reply
from cft_lab.engines.api.errors import Failure, Key, status_failure
from cft_lab.engines.base import Prompt
from cft_lab.records import Message, Sampling

PROMPT = Prompt("p", (Message("user", "hello"),))
GREEDY = Sampling(100)
KEY = Key(None)


def reply(content: Any = "a text", finish: Any = "stop", usage: Any = None, **message: Any) -> bytes:
    choice = {"message": {"role": "assistant", "content": content, **message}, "finish_reason": finish}
    return json.dumps({"model": "m-1", "choices": [choice], "usage": usage}).encode()


def read(content: bytes, sampling: Sampling = GREEDY) -> Reply | Failure:
    return read_reply(content, sampling, KEY)


def test_a_whole_reply_is_read() -> None:
    usage = {"prompt_tokens": 7, "completion_tokens": 3}
    assert read(reply(usage=usage)) == Reply("a text", "stop", (7, 3), "m-1")
    assert read(reply(finish="length")) == Reply("a text", "length", None, "m-1")
    assert read(reply("", "length")) == Reply("", "length", None, "m-1")


@pytest.mark.parametrize(
    "usage", [None, [], {"prompt_tokens": 7}, {"prompt_tokens": -1, "completion_tokens": 2}, {"prompt_tokens": True}]
)
def test_an_unusable_usage_report_is_none(usage: Any) -> None:
    found = read(reply(usage=usage))
    assert isinstance(found, Reply)
    assert found.tokens is None


@pytest.mark.parametrize(
    ("content", "kind", "then"),
    [
        (b"", "malformed JSON", "retry"),
        (b"<html>", "malformed JSON", "retry"),
        (b'{"choices": [', "malformed JSON", "retry"),
        (b"\xff\xfe\x00", "malformed JSON", "retry"),
        (b"[" * 100_000, "malformed JSON", "retry"),
        (b'{"a": ' + b"9" * 5000 + b"}", "malformed JSON", "retry"),
        (b"[]", "malformed reply", "retry"),
        (b"{}", "no choices", "retry"),
        (b'{"choices": []}', "no choices", "retry"),
        (b'{"choices": "x"}', "no choices", "retry"),
        (b'{"choices": [7]}', "no choices", "retry"),
        (b'{"choices": [{"message": null}]}', "no choices", "retry"),
        (reply(None), "no text", "retry"),
        (reply([{"type": "text"}]), "no text", "retry"),
        (reply("half", None), "no text", "retry"),
        (reply("call", "tool_calls"), "no text", "retry"),
        (reply(""), "empty text", "retry"),
        (reply(None, "content_filter"), "content filter", "refuse"),
        (reply("part of", "content_filter"), "content filter", "refuse"),
        (reply(None, refusal="I will not"), "refusal", "refuse"),
    ],
)
def test_what_is_no_reply_says_why(content: bytes, kind: str, then: str) -> None:
    found = read(content)
    assert isinstance(found, Failure)
    assert (found.kind, found.then) == (kind, then)


def test_a_failure_keeps_the_usage_that_was_reported() -> None:
    found = read(reply(None, usage={"prompt_tokens": 7, "completion_tokens": 3}))
    assert found.tokens == (7, 3)


def test_an_empty_text_counts_where_a_stop_string_may_have_come_first() -> None:
    stopping = Sampling(100, stop=("[END]",))
    spoke = {"prompt_tokens": 7, "completion_tokens": 1}
    assert read(reply("", usage=spoke), stopping) == Reply("", "stop", (7, 1), "m-1")
    assert isinstance(read(reply(""), stopping), Failure)
    assert isinstance(read(reply("", usage=spoke)), Failure)


def test_the_text_ends_at_the_first_stop_string_whoever_cuts() -> None:
    stops = ("</s>", "[END]", "(END)", "**END**", "<|im_end|>")
    assert cut_at_stop("one <|im_end|> two [END]", stops) == ("one ", True)
    assert cut_at_stop("one", stops) == ("one", False)
    assert read(reply("one [END] two", "length"), Sampling(100, stop=stops)) == Reply("one ", "stop", None, "m-1")


def test_half_a_surrogate_pair_can_be_written_to_a_file() -> None:
    found = read(b'{"choices": [{"message": {"content": "half \\ud83d"}, "finish_reason": "stop"}]}')
    assert isinstance(found, Reply)
    assert found.text.encode()


def test_a_body_has_what_the_sampling_says_and_no_more() -> None:
    say = [].append
    assert Asking("m", GREEDY, set(), say).body(PROMPT) == {
        "model": "m",
        "messages": [{"role": "user", "content": "hello"}],
        "temperature": 0.0,
        "max_tokens": 100,
    }
    sampled = Asking("m", Sampling(9, 0.3, 0.95, 4, tuple("abcdef")), set(), say).body(PROMPT)
    assert sampled["stop"] == ["a", "b", "c", "d"]
    assert (sampled["temperature"], sampled["top_p"]) == (0.3, 0.95)
    assert 0 <= sampled["seed"] < 2**31
    assert "n" not in sampled


def test_seeds_follow_the_sampling_seed_and_the_prompts_id() -> None:
    def seed(sampling_seed: int, prompt_id: str) -> int:
        asking = Asking("m", Sampling(9, 0.3, seed=sampling_seed), set(), [].append)
        return asking.body(Prompt(prompt_id, PROMPT.messages))["seed"]

    assert seed(0, "a") == seed(0, "a")
    assert len({seed(0, "a"), seed(1, "a"), seed(0, "b")}) == 3


def test_refused_parameters_are_renamed_or_left_out_and_said_once() -> None:
    said: list[str] = []
    asking = Asking("m", Sampling(9, 0.3), set(), said.append)
    body = asking.body(PROMPT)
    openai = {"message": "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead.", "param": "max_tokens"}
    fastapi = {"detail": [{"type": "extra_forbidden", "loc": ["body", "seed"], "msg": "Extra inputs are not permitted"}]}
    for refusal in (status_failure(400, openai, {}, KEY), status_failure(422, fastapi, {}, KEY)):
        assert asking.learn(refusal, body)
        assert asking.learn(refusal, body)  # another request was in flight
        assert not asking.learn(refusal, asking.body(PROMPT))
    assert asking.body(PROMPT)["max_completion_tokens"] == 9
    assert not {"max_tokens", "seed"} & set(asking.body(PROMPT))
    assert len(said) == 2
    assert not asking.learn(status_failure(400, {"message": "a question about a seed"}, {}, KEY), {"seed": 1})
