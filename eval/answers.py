"""Answers that need no judge: option letters, whole numbers, yes or no; and the words of a text (RSE-1.0 section 6)."""

import re
import unicodedata
from collections import Counter

_LETTER_FIRST = re.compile(r"^\W*\(?([A-Z])\)?(?:[\s.:)]|$)")
_PREFIX = re.compile(r"^\s*\(?([A-Z])[.):]\s*")
# A run of word characters, or one sign of a script that writes no spaces.
_WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]|[^\W_\u3040-\u30ff\u3400-\u9fff]+")
_ARTICLES = ("a", "an", "the")
_NUMBERS = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve", "thirteen", "fourteen",
    "fifteen", "sixteen", "seventeen", "eighteen", "nineteen", "twenty",
)  # fmt: skip
_INTEGER = re.compile(r"\d+|\b(?:" + "|".join(_NUMBERS) + r")\b", re.IGNORECASE)
_THOUGHT = re.compile(r"<think>.*?</think>", re.DOTALL)


def without_thought(reply):
    """A model's reply without what it thought aloud."""
    return _THOUGHT.sub("", reply)


def words(text):
    """The words of a text without case, letter width, punctuation, or articles (which would make any two sentences look alike)."""
    found = _WORD.findall(unicodedata.normalize("NFKC", text).casefold())
    return tuple(w for w in found if w not in _ARTICLES) or tuple(found)


def letter(response, options):
    """The option letter that a response picks, or None.

    A letter at the very start counts; failing that, and only if no option letter stands alone elsewhere, the exact text of one option.
    """
    letters = [chr(65 + i) for i in range(len(options))]
    first = _LETTER_FIRST.match(response)
    if first and first[1] in letters:
        return first[1]
    if re.search(rf"\b[A-{letters[-1]}]\b", response):
        return None
    said = words(response)
    same = [name for name, option in zip(letters, options) if words(_PREFIX.sub("", option)) == said]
    return same[0] if len(same) == 1 and said else None


def integer(response):
    """The one whole number, in digits or as zero..twenty, that a response names; None if it names none or several, or an endless one."""
    try:
        found = {_NUMBERS.index(n.lower()) if n.lower() in _NUMBERS else int(n) for n in _INTEGER.findall(response)}
    except ValueError:  # thousands of digits, as a model that repeats itself writes them, are more than Python reads
        return None
    return found.pop() if len(found) == 1 else None


def yes_no(response):
    """The word "yes" or "no" that the response begins with, or None."""
    first = words(response)[:1]
    return {("yes",): "yes", ("y",): "yes", ("no",): "no", ("n",): "no"}.get(first)


def lexical(response, gold):
    """1 if every word of the gold is in the response or their token F1 is at least 0.6, 0.5 from 0.3 on, else 0."""
    said, due = words(response), words(gold)
    if not due:
        return float(response.strip() == gold.strip())
    if set(due) <= set(said):
        return 1.0
    f1 = token_f1(said, due)
    return 1.0 if f1 >= 0.6 else 0.5 if f1 >= 0.3 else 0.0


def token_f1(said, due):
    """Harmonic mean of the precision and recall of the words, each counted as often as it occurs."""
    if not said or not due:
        return 0.0
    return 2 * sum((Counter(said) & Counter(due)).values()) / (len(said) + len(due))


def sameness(response, query):
    """What two responses have in common when they repeat each other: the letter picked, else the words."""
    if query is not None and query.answer_form == "letter":
        picked = letter(response, query.options)
        if picked:
            return picked
    return words(response) or response.strip()
