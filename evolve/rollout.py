"""Stage 4: the policy watches, is heard where its question is relevant, and what it says becomes a trajectory.

Causal: an answer at turn t comes from a fork of the stream that has seen frames 0 to t and the question. Answers that say nothing new are
silence. Guards refuse what would teach the wrong thing; every refusal is counted.
"""

import random
from dataclasses import replace
from typing import NamedTuple

from .plans import LOCAL, REMEMBERING, Plan, plan, quiet_plan
from .relevance import DOUBT, relevant
from .stage import each, run_stage, sound
from .wording import LETTERS, normalized


class Choice(NamedTuple):
    """A question put with options: its text, the letter of what the policy had answered without them, and what it answers with them."""

    text: str
    right: str
    said: str

    @property
    def agrees(self):
        return normalized(self.said) == normalized(self.right)


def roll_out(crew, rows, out, provenance, progress=None):
    """Rows {"video", "made": [trajectory], "refused": {reason: count}}; a trajectory is the object of the design."""
    return run_stage("rollout", rows, out, crew, act, (provenance,), progress)


def act(roles, items, provenance):
    """{video: row or Skip} of a group."""
    made = each(items, lambda item: roles.frames(item["video"]))
    there = sound(items, made)
    plans = {item["video"]: _plans(roles, item) for item in there}
    said = watch_and_answer(roles, {item["video"]: made[item["video"]] for item in there}, plans)
    for item in there:
        video = item["video"]
        sure = _second_answers(roles, item, made[video], plans[video], said) if roles.settings.consistency else {}
        made[video] = _row(roles, item, made[video][1], plans[video], said, sure, provenance)
    return made


def _plans(roles, row):
    """[Plan or reason] of a video: one a question, one of the borrowed and one of the foreign question."""
    settings = roles.settings
    rng = random.Random(f"rollout {settings.seed} {roles.number} {row['video']}")
    made = []
    for question, line in zip(row["questions"], row["relevant"]):
        parts = relevant(line, settings.relevance), row["segments"]
        made.append(plan(rng, question["text"], row["category"], *parts, question["others"], settings.choices))
    if borrowed := row["borrowed"]:  # of the answer that it is not there, every part is evidence
        parts = [True] * len(row["segments"]), row["segments"]
        made.append(plan(rng, borrowed["text"], borrowed["category"], *parts, borrowed["others"], settings.choices))
    if row["foreign"]:
        made.append(quiet_plan(rng, row["foreign"]["text"], [p >= DOUBT for p in row["foreign"]["relevant"]], row["segments"]))
    return made


def watch_and_answer(roles, shown, plans):
    """All videos of the group side by side, a frame of each a batch: {(video, index of plan, turn): answer}; turn None: after all of it.
    Turn "choice": the `Choice` of a plan with other answers; "last choice": that of a lettered plan after all of it."""
    said = {}
    with roles.watching() as watch:
        streams = dict(zip(shown, watch([([], [])] * len(shown))))
        for turn in range(max((len(frames) for frames, _ in shown.values()), default=0)):
            going = [video for video in streams if turn < len(shown[video][0])]
            roles.show([(streams[video], shown[video][0][turn], shown[video][1][turn]) for video in going])
            wanted = []
            for video in going:
                last = turn == len(shown[video][0]) - 1
                for index, each_plan in enumerate(plans[video]):
                    if isinstance(each_plan, Plan):
                        if turn == each_plan.ask or turn in each_plan.hear:
                            wanted.append((video, index, turn))
                        if last and not each_plan.quiet:
                            wanted.append((video, index, None))
            answers = roles.answer([streams[v] for v, _, _ in wanted], [plans[v][i].question for v, i, _ in wanted])
            said |= dict(zip(wanted, answers))
            said |= _choose(roles, streams, plans, "choice", [(v, i, said[v, i, t]) for v, i, t in wanted if t == plans[v][i].ask])
            last = [(v, i, said[v, i, t]) for v, i, t in wanted if t is None and plans[v][i].lettered]
            said |= _choose(roles, streams, plans, "last choice", last)
    return said


def _choose(roles, streams, plans, name, answered):
    """{(video, index, name): Choice} of those (video, index of plan, answer) that have other answers to stand beside."""
    put = {}
    for video, index, answer in answered:
        others = [other for other in plans[video][index].others if normalized(other) != normalized(answer)]
        if others and not roles.no_answer(answer):
            options = [answer, *others]
            random.Random(f"{name} {roles.settings.seed} {roles.number} {video} {index}").shuffle(options)
            put[video, index] = roles.prompts.choice_text(plans[video][index].question, options), LETTERS[options.index(answer)]
    letters = roles.answer([streams[video] for video, _ in put], [text for text, _ in put.values()])
    return {(*key, name): Choice(text, right, said) for (key, (text, right)), said in zip(put.items(), letters)}


def _second_answers(roles, row, shown, plans, said):
    """For each plan the answer from other evidence at its last reply: the segment alone where the answer is of the moment, else all."""
    video, sure, wanted = row["video"], {}, []
    for index, each_plan in enumerate(plans):
        if not isinstance(each_plan, Plan) or each_plan.quiet:
            continue
        sure[index] = said[video, index, None]
        turns = [turn for turn, _ in new_replies(roles, each_plan, video, index, said)]
        if each_plan.category in LOCAL and turns:
            wanted.append((index, row["segments"][each_plan.segment[turns[-1]]], turns[-1]))
    with roles.watching() as watch:
        streams = watch([[[side[i] for i in part if i <= turn] for side in shown] for _, part, turn in wanted])
        answers = roles.answer(streams, [plans[index].question for index, _, _ in wanted])
    return sure | {index: answer for (index, _, _), answer in zip(wanted, answers)}


def new_replies(roles, each_plan, video, index, said):
    """[(turn, text)] where the policy says something new."""
    turns, last, replies = each_plan.hear, None, []
    if each_plan.baseline:
        last = normalized(said[video, index, each_plan.ask])
    else:
        turns = (each_plan.ask, *turns)
    for turn in turns:
        text = said[video, index, turn]
        if not roles.no_answer(text) and normalized(text) != last:
            replies.append((turn, text))
            last = normalized(text)
    return replies


def _row(roles, row, times, plans, said, sure, provenance):
    made, refused = [], {}
    for index, each_plan in enumerate(plans):
        result, name = each_plan, f"{roles.number}-{row['video']}-{index}"
        if isinstance(each_plan, Plan):
            replies = dict(new_replies(roles, each_plan, row["video"], index, said))
            choice = said.get((row["video"], index, "choice"))
            result = refusal(roles.settings, each_plan, times, replies, sure.get(index), choice)
            if result is None:
                lettered = choice and each_plan.lettered
                put = replace(each_plan, question=choice.text) if lettered else each_plan
                turns = _turns(roles, times, put, {put.ask: choice.right} if lettered else replies)
                system = roles.prompts.stream_system.format(silence=roles.engine.streaming.silence)
                made.append(_trajectory(roles, row, put, name, system, turns, provenance))
            for kind, turns in rehearsals(roles, times, each_plan, said, (row["video"], index)):
                made.append(_trajectory(roles, row, each_plan, f"{name}-{kind}", None, turns, provenance, offline=True))
        if result is not None:
            refused[result] = refused.get(result, 0) + 1
    return {"video": row["video"], "made": made, "refused": refused}


def rehearsals(roles, times, each_plan, said, key):
    """[(name, turns)]: what was seen is shown and the question put with the last frame, as models are used offline, with the answer that
    the model gives; rehearsed, it is not forgotten. Once after all of the video; of what is waited for, once before it came."""
    asked = [("offline", len(times), said.get((*key, None)), said.get((*key, "last choice")))]
    if each_plan.category == "AM":
        asked.append(("offline-early", each_plan.ask + 1, said.get((*key, each_plan.ask)), None))
    found = []
    for name, seen, answer, choice in asked:
        if not answer or normalized(answer) == normalized(roles.engine.streaming.silence):
            continue
        query, reply = (choice.text, choice.right) if choice and choice.agrees else (each_plan.question, answer)
        shown = [{"t": t, "reply": None} for t in times[: seen - 1]]
        found.append((name, [*shown, {"t": times[seen - 1], "query": query, "reply": reply}]))
    return found


def refusal(settings, each_plan, times, replies, second, choice=None):
    """Why a trajectory is refused, or None. Rates are over the turns from the question on."""
    if each_plan.quiet:
        return None
    if not replies:
        return "nothing was said"
    if len(replies) > max(settings.most_answers * (len(times) - each_plan.ask), 1):
        return "answers too often"
    counted = [int(text) for text in replies.values() if text.isdecimal()]
    if each_plan.category == "TA" and counted != sorted(counted):
        return "counts backwards"
    if settings.consistency and normalized(second) != normalized(list(replies.values())[-1]):
        return "not the answer from all of the evidence"
    if choice and not choice.agrees:
        return "another option than its own answer"
    return None


def _turns(roles, times, each_plan, replies):
    turns = []
    for turn in kept_turns(roles.settings.window, len(times), each_plan, replies):
        made = {"t": times[turn], "reply": replies.get(turn)}
        if turn == each_plan.ask:
            made = {"t": times[turn], "query": each_plan.question, "reply": replies.get(turn)}
        turns.append(made)
    return turns


def _trajectory(roles, row, each_plan, name, system, turns, provenance, offline=False):
    return {
        "id": name, "video": row["video"], "fps": roles.settings.fps, "category": each_plan.category, "system": system, "turns": turns,
        "quiet": each_plan.quiet and not offline, "offline": offline, "provenance": provenance,
    }  # fmt: skip


def kept_turns(window, count, each_plan, replies):
    """Places of the turns that stay: long silent runs are cut to `window` turns before each reply and after the last; the question's turn
    and what lies between evidence and an answer about the past stay. window 0: all of them."""
    if not window:
        return list(range(count))
    anchors = sorted({each_plan.ask, *replies})
    keep = {each_plan.ask}
    for turn in anchors:
        keep |= set(range(max(turn - window, 0), turn + 1))
    keep |= set(range(anchors[-1], min(anchors[-1] + window + 1, count)))
    if each_plan.category in REMEMBERING:
        keep |= set(range(anchors[-1]))
    return sorted(keep)


def select(rows, samples, quiet_share, categories, offline_share=0.0):
    """`samples` of the trajectories that were made: a share that stays quiet, a share of offline ones, the rest streams that speak; of both
    latter all categories alike while they last."""
    made = [trajectory for row in rows for trajectory in row["made"]]
    quiet = [each for each in made if each["quiet"]][: round(samples * quiet_share)]
    offline = alike([each for each in made if each["offline"]], round(samples * offline_share), categories)
    spoken = [each for each in made if not each["quiet"] and not each["offline"]]
    ids = {each["id"] for each in (*quiet, *offline, *alike(spoken, samples - len(quiet) - len(offline), categories))}
    return [each for each in made if each["id"] in ids]


def alike(made, room, categories):
    """At most `room` of the trajectories, as many of each category while they last."""
    by_category = {name: [each for each in made if each["category"] == name] for name in categories}
    chosen = []
    while len(chosen) < room and any(by_category.values()):
        for name in categories:
            if by_category[name] and len(chosen) < room:
                chosen.append(by_category[name].pop(0))
    return chosen
