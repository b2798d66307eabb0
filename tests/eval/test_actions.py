"""Silence or response: RSE-1.0 section 5."""

import pytest

from evostreaming.eval.actions import SILENCE, SYSTEM_PROMPT, parse_action


@pytest.mark.parametrize(
    "word", [*SILENCE, "Silent.", " NO REPLY!\n", "", "  ", "</Silence>", "</silence><|im_end|>", "None。", "…", ".", "</response>"]
)
def test_silence(word):
    assert parse_action(word) is None


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        ("B", "B"),
        ("</Response> It boils.<|im_end|>", "It boils."),
        ("<|im_start|>B</s>", "B"),
        ("None of them", "None of them"),
        ("The silence is over", "The silence is over"),
        ("?", "?"),
        ("a < b [x]", "a < b [x]"),
        ("I'll keep watching", "I'll keep watching"),
        ("</response></response> x", "</response> x"),
    ],
)
def test_response(raw, text):
    assert parse_action(raw) == text


@pytest.mark.parametrize("raw", ["I'll keep watching.", "Ok, I will remind you then.", "Waiting...", "Sure!"])
def test_a_promise_to_wait_is_speech_unless_parity_is_asked_for(raw):
    assert parse_action(raw) == raw
    assert parse_action(raw, placeholder_is_silence=True) is None
    assert parse_action(raw + " The pot boils now", placeholder_is_silence=True) is not None


def test_the_system_prompt_is_that_of_the_specification():
    assert SYSTEM_PROMPT.format(silence="</silence>") == (
        "You are watching a live video, one frame per turn. If there is nothing useful to say now, output exactly </silence>. Otherwise "
        "output the answer only, as soon as the video so far supports it. Do not repeat an answer you already gave."
    )
