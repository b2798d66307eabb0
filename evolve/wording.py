"""The words of the three roles: a versioned file, replaceable by a user's own, whose hash stands in every output."""

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path

from ..engine.errors import ArgumentError

LETTERS = "ABCDE"
CATEGORIES = ("IV", "MD", "TA", "AM", "DED")
BUILT_IN = Path(__file__).parent / "prompts"


def normalized(text):
    """Lower case words without punctuation: what counts as the same question or answer."""
    return " ".join(re.findall(r"\w+", text.lower()))


@dataclass(frozen=True)
class Prompts:
    """system: what the model is told while it generates and annotates; topics: {category: words}; classify + classify_answer: the question
    of stage 1, the five options between; ask: of stage 2, with {topic}; relevant: of stage 3, with {question}; yes, no: its two answers;
    pending: answers that say that nothing has happened yet, which are silence; stream_system: the system turn of a trajectory, with
    {silence}; sha: hash of the file."""

    system: str
    topics: dict
    classify: str
    classify_answer: str
    ask: str
    relevant: str
    yes: str
    no: str
    pending: tuple
    stream_system: str
    sha: str

    @classmethod
    def read(cls, name="v1"):
        """From a name in `evolve/prompts` or the path of a JSON file. Raises ArgumentError."""
        path = Path(name) if str(name).endswith(".json") else BUILT_IN / f"{name}.json"
        try:
            data = path.read_bytes()
            values = json.loads(data)
            made = cls(**{**values, "pending": tuple(values["pending"])}, sha=hashlib.sha256(data).hexdigest()[:16])
            for text, place in ((made.ask, "{topic}"), (made.relevant, "{question}"), (made.stream_system, "{silence}")):
                if place not in text:
                    raise ValueError(f"{place} is missing in {text!r}")
            if set(made.topics) != set(CATEGORIES):
                raise ValueError(f"topics are {', '.join(made.topics)}, expected {', '.join(CATEGORIES)}")
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            known = ", ".join(sorted(file.stem for file in BUILT_IN.glob("*.json")))
            raise ArgumentError(f"{path} is no prompt file ({error}); built in: {known}; copy one of them to begin your own") from None
        return made

    def classify_text(self):
        """Stage 1's question with its five lettered options."""
        return self.choice_text(self.classify, [self.topics[category] for category in CATEGORIES])

    def choice_text(self, question, options):
        """A question with lettered options; the answer is a letter."""
        return "\n".join([question, *(f"{letter}. {option}" for letter, option in zip(LETTERS, options)), self.classify_answer])
