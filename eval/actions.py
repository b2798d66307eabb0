"""What the model wrote on a turn: silence or a response (RSE-1.0 section 5)."""

import re

SILENCE = (
    "</silence>", "<silence>", "</standby>", "<standby>", "[silent]", "silent", "silence", "no reply", "no response", "none", "...",
)  # fmt: skip

SYSTEM_PROMPT = (
    "You are watching a live video, one frame per turn. If there is nothing useful to say now, output exactly {silence}. Otherwise "
    "output the answer only, as soon as the video so far supports it. Do not repeat an answer you already gave."
)

# Chat markup that decoding may leave in: <|im_end|>, <s>, </s>, <eos>, [INST] and their like.
_CHAT_TOKEN = re.compile(r"<\|[^<>|]*\|>|</?s>|<(?:eos|bos|pad|unk|end_of_turn|start_of_turn)>|\[/?INST\]", re.IGNORECASE)
_OPENING = re.compile(r"\s*</response>", re.IGNORECASE)
_PLACEHOLDER = re.compile(
    r"(?:ok(?:ay)?|sure|got it|understood)?[\s,.!]*"
    r"(?:i(?:'ll| will) (?:keep|wait|remind|tell you|let you know|remember|continue)[^.!?]*|(?:still )?(?:waiting|watching))?[\s.!]*",
    re.IGNORECASE,
)
_TRAILING = " \t\r\n.!?,;:…。！？"


def parse_action(raw, placeholder_is_silence=False):
    """The response in `raw`, or None for silence.

    Text that only promises to wait is a response (it is verbosity) unless `placeholder_is_silence` asks for parity with the
    benchmarks that forgive it.
    """
    text = _OPENING.sub("", _CHAT_TOKEN.sub("", raw).strip(), count=1) if "<" in raw or "[" in raw else raw
    text = text.strip()
    if not text or is_silence(text) or (placeholder_is_silence and _PLACEHOLDER.fullmatch(text)):
        return None
    return text


def is_silence(text):
    """Whether `text`, case and trailing punctuation aside, is one of the silence words."""
    folded = text.strip().casefold()
    return folded in SILENCE or folded.rstrip(_TRAILING) in SILENCE or not folded.strip(".… ")
