"""Stages 1 to 4 one by one: shares, refusals, segments, plans, and what the policy may know."""

import random
from collections import Counter
from dataclasses import replace

import pytest

from evostreaming.engine.errors import ArgumentError
from evostreaming.evolve.classify import balanced, mixed
from evostreaming.evolve.plans import Plan, plan, quiet_plan
from evostreaming.evolve.questions import is_question, leaks, well_formed
from evostreaming.evolve.relevance import judge, relevant, segments
from evostreaming.evolve.rollout import Choice, act, kept_turns, new_replies, refusal, select, watch_and_answer
from evostreaming.evolve.settings import Settings
from evostreaming.evolve.wording import CATEGORIES, Prompts


# --- 1
@pytest.mark.parametrize("count", [1, 4, 5, 23, 50])
def test_categories_have_equal_shares_whatever_the_model_likes(count):
    rng = random.Random(count)
    rows = [[0.96, *(0.04 * rng.random() for _ in range(4))] for _ in range(count)]  # a model that always says A
    shares = Counter(balanced(rows))
    assert sum(shares.values()) == count and max(shares.values()) <= -(-count // 5)


def test_a_sure_choice_is_heard():
    rows = [[0.9 if i == k else 0.025 for i in range(5)] for k in (3, 0, 4, 1, 2)]
    assert balanced(rows) == ["AM", "IV", "DED", "MD", "TA"]


def test_mixing_deals_out_the_same_categories_anew():
    chosen = [CATEGORIES[i % 5] for i in range(100)]
    assert mixed(chosen, 0.0, "s") == chosen
    dealt = mixed(chosen, 0.6, "s")
    moved = sum(a != b for a, b in zip(chosen, dealt))
    assert Counter(dealt) == Counter(chosen) and 30 < moved <= 60
    assert dealt == mixed(chosen, 0.6, "s") != mixed(chosen, 0.6, "t")


# --- 2
def test_malformed_and_duplicate_questions_are_refused_and_counted():
    drawn = ["What is it now?", "what is it now?", "What is it, now?", "Why?", "What\nis it?", "Tell me when it ends.", "No end of it", ""]
    kept, refused = well_formed(drawn)
    assert kept == ["What is it now?", "Tell me when it ends."]
    assert refused == {"malformed": 5, "duplicate": 1}
    assert not is_question("What " + "very " * 40 + "long question is this?")


@pytest.mark.parametrize(
    "question, answer, wrong",
    [
        ("Which color does the red star have?", "red", True),
        ("What is the blue ring doing?", "The blue ring.", True),
        ("Did you see a red star?", "yes", False),
        ("Which number stands on the sign, 4?", "4", False),
        ("Which came first: the star left or the ring left?", "the ring left", False),
        ("What does the redness show?", "red", False),
        ("What is it?", "", False),
    ],
)
def test_an_answer_in_its_question_is_a_leak(question, answer, wrong):
    assert leaks(question, answer) is wrong


# --- 3
def test_segments_hold_every_frame_once():
    times = [0.0, 2.0, 4.0, 6.0, 6.1, 14.0]
    assert segments(times, 4.0) == [[0, 1], [2, 3, 4], [5]]


def test_a_segment_is_relevant_beside_the_surest_one_of_its_question():
    assert relevant([0.1, 0.4, 0.2, 0.19], 0.5) == [False, True, True, False]
    assert relevant([0.9, 0.5, 0.4], 0.5) == [True, True, False]
    assert relevant([0.29, 0.01], 0.5) == [False, False], "where the model doubts everything, nothing is relevant"


def test_each_segment_is_judged_alone_and_for_every_question(make_roles):
    roles = make_roles()
    video = "train-wait-20000072.mp4"
    questions = [{"text": "What is seen?"}, {"text": "Tell me when the sign ends."}]
    row = {"video": video, "category": "AM", "questions": questions, "borrowed": None}
    made = judge(roles, [row, {**row, "video": "broken.mp4"}], [("other.mp4", "Tell me when it rains.")])
    assert "broken.mp4" in str(made["broken.mp4"])
    found = made[video]
    frames, times = roles.frames(video)
    assert found["foreign"]["text"] == "Tell me when it rains."
    assert {len(line) for line in (*found["relevant"], found["foreign"]["relevant"])} == {len(found["segments"])}
    # The second segment, shown on its own, is judged as it was among the others.
    with roles.watching() as watch:
        streams = watch([([frames[i] for i in found["segments"][1]], [times[i] for i in found["segments"][1]])])
        alone = roles.yes(streams * 2, ["What is seen?", "Tell me when the sign ends."])
    assert alone == pytest.approx([line[1] for line in found["relevant"]], abs=2e-4)


# --- 4: plans
SEGMENTS = [[0, 1], [2, 3], [4, 5], [6, 7], [8, 9]]


def plans(category, relevant, draws=60):
    return [plan(random.Random(i), "Q?", category, relevant, SEGMENTS) for i in range(draws)]


def test_a_question_of_the_moment_is_put_in_a_relevant_segment_and_heard_on():
    for made in plans("IV", [False, True, False, True, False]):
        assert made.ask in (2, 3, 6, 7) and set(made.hear) == {t for t in (2, 3, 6, 7) if t > made.ask} and not made.baseline


def test_a_question_about_the_past_comes_once_something_was_seen():
    made = plans("MD", [False, False, True, False, False])
    assert {each.ask for each in made} == set(range(4, 10)) and all(each.hear == () for each in made)


def test_a_question_that_waits_is_put_before_its_event_and_heard_only_there():
    for made in plans("AM", [False, False, True, True, False]):
        assert made.ask < 4 and made.hear == (4, 5, 6, 7) and made.baseline


def test_what_is_waited_for_is_not_said_to_have_happened_when_it_is_asked(make_roles):
    for made in plans("AM", [True, True, False, False, False]):
        assert made.ask == 0 and made.baseline
        said = {("v", 0, turn): "The star left." for turn in range(4)}
        assert new_replies(make_roles(), made, "v", 0, said) == []


@pytest.mark.parametrize("category", ["TA", "DED"])
def test_counts_and_procedures_are_asked_for_early_and_late(category):
    made = plans(category, [False, False, True, True, False])
    assert {bool(each.hear) for each in made} == {True, False}
    assert all(each.ask in (4, 5, 6, 7) for each in made if not each.hear)


def test_nothing_relevant_gives_no_trajectory_and_a_foreign_event_must_not_be_there():
    assert plan(random.Random(0), "Q?", "IV", [False] * 5, SEGMENTS) == "no relevant segment"
    quiet = quiet_plan(random.Random(0), "Q?", [False] * 5, SEGMENTS)
    assert quiet.quiet and quiet.hear == ()
    assert isinstance(quiet_plan(random.Random(0), "Q?", [False, True, False, False, False], SEGMENTS), str)


# --- 4: what becomes of the answers
def waiting(category="AM", ask=0, hear=(2, 3, 4, 5), baseline=True):
    return Plan("Q?", category, ask, hear, baseline, {t: t // 2 for t in range(10)})


def test_what_says_nothing_new_is_silence(make_roles):
    answers = {0: "Not yet.", 2: "Not yet.", 3: "It came.", 4: "it came", 5: "It left."}
    said = {("v", 0, turn): text for turn, text in answers.items()}
    assert new_replies(make_roles(), waiting(), "v", 0, said) == [(3, "It came."), (5, "It left.")]
    said = {("v", 0, turn): text for turn, text in {0: "2", 2: "2", 3: "SILENT", 4: "3", 5: ""}.items()}
    assert new_replies(make_roles(), waiting("TA"), "v", 0, said) == [(4, "3")]
    assert new_replies(make_roles(), waiting("TA", baseline=False), "v", 0, said) == [(0, "2"), (4, "3")]


def test_each_guard_refuses_what_it_is_for():
    times, settings = list(range(10)), Settings()
    assert refusal(settings, waiting(), times, {3: "It came."}, "it came") is None
    assert refusal(settings, waiting(), times, {}, "it came") == "nothing was said"
    assert refusal(settings, waiting(), times, dict.fromkeys(range(5), "x"), "x") == "answers too often"
    assert refusal(settings, waiting(), times, {3: "It came."}, "It left.") == "not the answer from all of the evidence"
    assert refusal(replace(settings, consistency=False), waiting(), times, {3: "It came."}, "It left.") is None
    assert refusal(settings, waiting("IV"), times, {3: "red"}, "red", Choice("Q", "B", "b.")) is None
    assert refusal(settings, waiting("IV"), times, {3: "red"}, "red", Choice("Q", "B", "A")) == "another option than its own answer"
    assert refusal(settings, waiting("TA"), times, {3: "3", 5: "2"}, "2") == "counts backwards"
    assert refusal(settings, replace(waiting(), quiet=True), times, {}, None) is None


def test_pruning_keeps_the_question_the_replies_and_what_they_rest_on():
    long = Plan("Q?", "AM", 5, (40,), True, {})
    assert kept_turns(3, 60, long, {40: "x"}) == [2, 3, 4, 5, 37, 38, 39, 40, 41, 42, 43]
    assert kept_turns(0, 60, long, {40: "x"}) == list(range(60))
    memory = Plan("Q?", "MD", 40, (), False, {})
    assert kept_turns(3, 60, memory, {40: "x"}) == list(range(44))


def test_an_answer_does_not_depend_on_later_frames(make_roles):
    roles = make_roles()
    frames, times = roles.frames("train-repeat-20000072.mp4")
    asked = [Plan("What do you see now?", "IV", 1, (2, 3), False, {}), Plan("Describe what is on the screen.", "MD", 3, (), False, {})]
    short = watch_and_answer(roles, {"v": (frames[:4], times[:4])}, {"v": asked})
    whole = watch_and_answer(roles, {"v": (frames, times)}, {"v": asked})
    heard = {key: text for key, text in short.items() if key[2] is not None}
    assert len(heard) == 4 and all(heard.values())
    assert heard == {key: whole[key] for key in heard}
    other = watch_and_answer(roles, {"v": ([*frames[:3], 0 * frames[3]], times[:4])}, {"v": asked})
    assert other["v", 1, 3] != whole["v", 1, 3], "an answer that no frame changes would show nothing"


def test_refusals_are_counted_and_quiet_streams_say_nothing(make_roles):
    roles, video = make_roles(), "train-wait-20000072.mp4"
    times = roles.frames(video)[1]
    parts = segments(times, 4.0)
    row = {
        "video": video, "category": "AM", "questions": [{"text": "Tell me when it rains.", "others": []}] * 2,
        "borrowed": None, "segments": parts,
        "relevant": [[0.0] * len(parts)] * 2, "foreign": {"text": "Tell me when the cook is gone.", "relevant": [0.0] * len(parts)},
    }  # fmt: skip
    made = act(roles, [row], {"round": 1})[video]
    assert made["refused"] == {"no relevant segment": 2}
    quiet, plain = made["made"]
    assert plain["offline"] and not plain["quiet"] and plain["turns"][-1]["reply"], "what it says to the question offline is rehearsed"
    assert quiet["quiet"] and not any(turn["reply"] for turn in quiet["turns"])
    assert [turn["query"] for turn in quiet["turns"] if "query" in turn] == ["Tell me when the cook is gone."]


def test_selection_is_balanced_and_holds_the_quiet_share():
    counts = zip(CATEGORIES, (50, 3, 50, 50, 50))
    made = [{"id": f"{name}{i}", "category": name, "quiet": False, "offline": False} for name, count in counts for i in range(count)]
    made += [{"id": f"q{i}", "category": "AM", "quiet": True, "offline": False} for i in range(50)]
    made += [{"id": f"o{i}", "category": CATEGORIES[i % 5], "quiet": False, "offline": True} for i in range(50)]
    chosen = select([{"made": made}], 60, 0.1, CATEGORIES)
    shares = Counter("quiet" if row["quiet"] else row["category"] for row in chosen)
    assert shares == {"quiet": 6, "MD": 3, "IV": 13, "TA": 13, "AM": 13, "DED": 12}
    assert [row["id"] for row in chosen] == [row["id"] for row in made if row in chosen], "the order of the videos stays"
    plain = [row for row in select([{"made": made}], 60, 0.1, CATEGORIES, 0.25) if row["offline"]]
    assert Counter(row["category"] for row in plain) == dict.fromkeys(CATEGORIES, 3) and len(plain) == 15


# --- words and settings
def test_prompts_are_named_by_their_hash_and_refused_when_incomplete(tmp_path):
    own = tmp_path / "own.json"
    own.write_text((Prompts.read.__func__.__globals__["BUILT_IN"] / "v1.json").read_text().replace("live video", "film"))
    assert Prompts.read(own).sha != Prompts.read().sha
    own.write_text(own.read_text().replace("{topic}", "it"))
    with pytest.raises(ArgumentError, match="topic"):
        Prompts.read(own)
    with pytest.raises(ArgumentError, match="built in: v1"):
        Prompts.read("v0")


@pytest.mark.parametrize("wrong", [{"samples": 0}, {"quiet_share": 1.5}, {"fps": 0}, {"segment_s": 1.0}])
def test_settings_that_make_no_sense_are_refused(wrong):
    with pytest.raises(ArgumentError):
        Settings(**wrong)
