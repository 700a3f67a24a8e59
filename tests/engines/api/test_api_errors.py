"""What is done about each failure, and that no key survives in a message."""

import email.utils
import time

import pytest

from cft_lab.engines.api.errors import REFUSE, RETRY, STOP, Failure, Key, Target, retry_after, status_failure, stop_error

SECRET = "-".join(["sk", "proj", "abcdefghijklmnop"])
KEY = Key(SECRET)


@pytest.mark.parametrize(
    ("status", "body", "kind", "then"),
    [
        (400, {"message": "bad value"}, "bad request", REFUSE),
        (400, {"message": "too long", "code": "context_length_exceeded"}, "context length", REFUSE),
        (400, {"message": "This model's maximum context length is 10", "param": "max_tokens"}, "context length", REFUSE),
        (400, {"message": "temperature must be 1", "param": "temperature"}, "refused setting", STOP),
        (400, {"message": "flagged", "code": "content_filter"}, "content filter", REFUSE),
        (400, {"message": "bad key", "code": "invalid_api_key"}, "key refused", STOP),
        (401, {"message": "who?"}, "key refused", STOP),
        (402, {"message": "pay"}, "no credit", STOP),
        (403, "not in your country", "key refused", STOP),
        (404, {"message": "The model `x` does not exist", "code": "model_not_found"}, "unknown model", STOP),
        (404, {"message": "The model `x` does not exist."}, "unknown model", STOP),
        (404, {"detail": "Not Found"}, "not found", STOP),
        (405, None, "not found", STOP),
        (413, "too large", "status 413", REFUSE),
        (422, {"detail": "no"}, "status 422", REFUSE),
        (429, {"message": "slow down"}, "rate limit", RETRY),
        (429, {"message": "quota", "type": "insufficient_quota"}, "no credit", STOP),
        (500, "oops", "status 500", RETRY),
        (503, "busy", "status 503", RETRY),
        (529, "busy", "status 529", RETRY),
    ],
)
def test_each_status_has_one_meaning(status: int, body: object, kind: str, then: str) -> None:
    failure = status_failure(status, body, {}, KEY)
    assert (failure.kind, failure.then) == (kind, then)


def test_only_what_asks_for_it_slows_everybody_down() -> None:
    assert status_failure(429, "", {}, KEY).slow_down
    assert status_failure(503, "", {"retry-after": "1"}, KEY).slow_down
    assert not status_failure(503, "", {}, KEY).slow_down
    assert not status_failure(429, {"code": "insufficient_quota"}, {}, KEY).slow_down


def test_a_gateway_that_gave_up_may_have_cost_money() -> None:
    assert [status_failure(status, "", {}, KEY).billed for status in (500, 502, 504)] == [False, True, True]


def test_retry_after_is_read_in_all_its_forms() -> None:
    assert retry_after({}) is None
    assert retry_after({"retry-after": "1.5"}) == 1.5
    assert retry_after({"retry-after-ms": "250", "retry-after": "9"}) == 0.25
    assert retry_after({"retry-after": "-3"}) == 0.0
    assert retry_after({"retry-after": "soon"}) is None
    date = email.utils.formatdate(time.time() + 30, usegmt=True)
    assert 28 < (retry_after({"retry-after": date}) or 0) <= 30
    assert retry_after({"retry-after": email.utils.formatdate(0, usegmt=True)}) == 0.0


def test_a_wait_of_hours_ends_the_run_instead() -> None:
    failure = status_failure(429, {"message": "daily limit"}, {"retry-after": "7200"}, KEY)
    error = stop_error(failure, Target("teacher", "m", "http://x/v1", "K"))
    assert failure.then == STOP
    assert "wait for 7200 s" in str(error)


@pytest.mark.parametrize(
    ("kind", "owner", "expected"),
    [
        ("key refused", "teacher", "teacher.api_key_env=K"),
        ("unknown model", "teacher", "teacher.model='m'"),
        ("unknown model", "engine", "model.api_model='m'"),
        ("not found", "responses", "responses.base_url=http://x/v1"),
        ("unreachable", "teacher", "teacher.base_url=http://x/v1"),
        ("no credit", "teacher", "Top it up"),
        ("refused setting", "teacher", "teacher"),
    ],
)
def test_what_ends_a_run_names_the_field(kind: str, owner: str, expected: str) -> None:
    text = str(stop_error(Failure(kind, "the reason", STOP), Target(owner, "m", "http://x/v1", "K")))
    assert expected in text
    assert "the reason" in text


def test_keys_are_redacted_whole_and_in_part() -> None:
    text = f"Incorrect API key provided: {SECRET}; sk-proj-****mnop; Bearer whatever.it-is"
    redacted = KEY.redact(text)
    assert SECRET not in redacted
    assert "mnop" not in redacted
    assert "whatever" not in redacted
    assert repr(KEY) == "[key]"
    assert SECRET not in status_failure(500, {"message": text}, {}, KEY).what


def test_a_models_text_loses_a_real_key_and_keeps_ordinary_words() -> None:
    assert KEY.redact_reply(f"the key is {SECRET}.") == "the key is [key]."
    assert Key("EMPTY").redact_reply("the EMPTY set") == "the EMPTY set"
    assert Key(None).redact_reply("no-key") == "no-key"
