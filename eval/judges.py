"""How right one response is for one target: a number from 0 to 1, or None for "nobody could say" (RSE-1.0 section 6)."""

from . import answers


class LexicalJudge:
    """Judges free text by its words. Needs nothing, knows no synonyms: results must carry its name."""

    name = "lexical"
    prompt_hash = None

    def __call__(self, question, golds, response):
        return max(answers.lexical(response, gold) for gold in golds)

    def prefer(self, contest, orders):
        """For each `(reference, first, second)` 1.0 if the first has more words of the reference, 0.0 if the second has, else 0.5."""
        near = [[answers.token_f1(*map(answers.words, (text, reference))) for text in texts] for reference, *texts in orders]
        return [0.5 if first == second else float(first > second) for first, second in near]


class AssumeRight:
    """Takes every response for right, so that what is measured is timing alone. For floors only."""

    name = "assume-right"
    prompt_hash = None

    def __call__(self, question, golds, response):
        return 1.0


def judge(response, query, golds, text_judge, rule=None):
    """The verdict on `response` for a target whose answer is any of `golds`.

    Letters, integers and yes/no have one deterministic rule each; free text goes to `text_judge(question, golds, response)`, unless the
    benchmark has its own `rule`: "contains" wants a gold word for word in the response, "any" only asks that something is said.
    """
    if isinstance(text_judge, AssumeRight):
        return 1.0
    if query.answer_form == "letter":
        return float(answers.letter(response, query.options) in golds)
    if query.answer_form == "int":
        return float(answers.integer(response) in {int(gold) for gold in golds})
    if query.answer_form == "yesno":
        return float(answers.yes_no(response) in {gold.casefold() for gold in golds})
    if rule == "contains":
        return float(any(gold.casefold() in response.casefold() for gold in golds))
    if rule == "any":
        return 1.0
    return text_judge(query.text, golds, response)


def needs_judge(query, rule=None):
    return query.answer_form == "text" and rule is None
