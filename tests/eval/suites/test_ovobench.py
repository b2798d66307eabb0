"""OVO-Bench: the real annotation and the released results, read in place when they are there."""

import itertools
import json

import pytest

from evostreaming.eval.discretize import grid, spans
from evostreaming.eval.episodes import read_episodes, write_episodes
from evostreaming.eval.errors import SchemaError
from evostreaming.eval.floors import make_trace, timing_floors
from evostreaming.eval.judges import LexicalJudge
from evostreaming.eval.primary import tolerance, verbosity_factor
from evostreaming.eval.scoring import score_run
from evostreaming.eval.suites import ovo_timing, ovobench, ovobench_offline
from evostreaming.eval.traces import Trace

CLONE = [
    {"id": 3, "task": "EPM", "video": "a/b.mp4", "realtime": 21.5, "question": "Who?", "answer": "me", "options": ["you", "me"], "gt": 1},
    {"id": 4, "task": "CRR", "video": "c.mp4", "question": "What next?", "answer": "She sits.", "ask_time": 10, "clue_time": 15,
     "test_info": [{"realtime": 10, "type": 0}, {"realtime": 45, "type": 1}]},
    {"id": 5, "task": "SSR", "video": "d.mp4", "tutorial": "MakeTea", "all_steps": ["boil", "pour"], "start_time": [3, 20],
     "end_time": [9, 30], "test_info": [{"realtime": 40, "step": "boil", "type": 0}, {"realtime": 4, "step": "boil", "type": 1}]},
    {"id": 6, "task": "REC", "video": "e.mp4", "activity": "jump", "start_times": [4, 8, 20], "end_times": [6, 9, 22.0],
     "test_info": [{"realtime": 7, "count": 1}, {"realtime": 30, "count": 3}]},
]  # fmt: skip


@pytest.fixture
def clone(tmp_path):
    def write(rows=CLONE):
        (tmp_path / "ovo_bench_new.json").write_text(json.dumps(rows))
        return tmp_path

    return write


def test_conversion_of_each_kind_of_record(clone, tmp_path):
    epm, crr, ssr, rec = episodes = ovobench.read(clone())
    assert [(e.regime, e.t_start, e.t_end, e.queries[0].t_q) for e in episodes] == [
        ("BT", 0, 25.5, 21.5), ("FAR", 0, 45, 10), ("FAR", 0, 40, 0), ("FAR", 0, 30, 0),
    ]  # fmt: skip
    assert epm.queries[0].text == (
        "\nQuestion: Who?\nOptions:\nA. you; B. me;\n\nRespond only with the letter corresponding to your chosen option (e.g., A, B, C). \n"
        "Do not include any additional text or explanation in your response.\n"
    )
    assert (epm.targets[0].answer, spans(epm)[0].first, spans(epm)[0].goals[0].k) == ("B", 10, 10)
    assert [(t.t_star, t.window, t.answer) for t in crr.targets] == [(15, (15, 45), "She sits.")]
    assert ssr.queries[0].text == "Tell me each step of MakeTea when it starts."
    assert [(t.t_star, t.window, t.answer) for t in ssr.targets] == [(5, (3, 9), "boil"), (22, (20, 30), "pour")]
    assert rec.queries[0].text == "Each time they jump, say the total count so far."
    assert [(t.t_star, t.window, t.answer) for t in rec.targets] == [(6, (6, 9), "1"), (9, (9, 14), "2"), (22, (22, 27), "3")]
    assert [t.t_star for t in ovobench.read(clone(), rec_anchor="start+2")[3].targets] == [6, 10, 22]
    assert {e.video_id for e in episodes} == {"a/b.mp4", "c.mp4", "d.mp4", "e.mp4"}
    write_episodes(tmp_path / "e.jsonl", episodes)
    assert read_episodes(tmp_path / "e.jsonl") == episodes


@pytest.mark.parametrize(
    ("index", "field", "value", "says"),
    [
        (0, "gt", 2, "there are 2 options"),
        (0, "realtime", "21", "expected a number, got a string"),
        (0, "id", 6, "already used by record 0"),
        (0, "task", "XYZ", "not one of EPM"),
        (1, "test_info", [], "at least one probe"),
        (1, "clue_time", 5, "not between ask_time 10"),
        (2, "end_time", [9], "equally long"),
        (3, "start_times", [4, "8", 20], "expected a number"),
    ],
)
def test_a_wrong_record_names_record_and_field(clone, index, field, value, says):
    rows = json.loads(json.dumps(CLONE))
    rows[index][field] = value
    with pytest.raises(SchemaError, match=rf"record {3 if field == 'id' else index}, field .*{says}"):
        ovobench.read(clone(rows))


def test_a_folder_without_the_annotation_says_what_it_looked_for(tmp_path):
    with pytest.raises(SchemaError, match=r"ovo_bench_new\.json"):
        ovobench.read(tmp_path)


@pytest.mark.parametrize(
    ("task", "response", "gold", "right"),
    [
        ("EPM", "Answer", "A", True), ("EPM", "B", "A", False), ("EPM", None, "A", False), ("REC", "1 and 2", "12", True),
        ("REC", "none", "0", False), ("REC", "3.", "3", True), ("SSR", "Y", "Yes", True), ("SSR", "N", "Yes", False),
        ("CRR", "N", "No", True),
        ("CRR", "No.", "No", True), ("CRR", "yes", "Yes", False), ("CRR", "Yes", "No", False),
    ],
)  # fmt: skip
def test_the_official_rule(task, response, gold, right):
    assert ovobench_offline.is_right(task, response, gold) is right


GOLDEN = {
    "Gemini": (62.54, 69.32, 57.15, 63.00, "ASI 76.35 EPM 58.59 HLD 52.69 ATR 79.31 ACR 66.97 OCR 85.91 STU 58.43 OJR 61.96 FPD 63.37 "
               "REC 35.53 SSR 74.24 CRR 61.67"),
    "QWen2VL_7B_": (46.46, 55.98, 48.74, 50.39, "ASI 56.08 EPM 47.81 HLD 35.48 ATR 56.03 ACR 50.46 OCR 60.40 STU 47.19 OJR 55.43 "
                    "FPD 66.34 REC 31.66 SSR 65.82 CRR 48.75"),
    "FlashVStream": (27.38, 28.37, 45.09, 33.61, "ASI 37.16 EPM 39.06 HLD 5.91 ATR 28.45 ACR 29.36 OCR 24.16 STU 33.71 OJR 28.80 "
                     "FPD 25.74 REC 8.02 SSR 67.25 CRR 60.00"),
}  # fmt: skip


@pytest.mark.parametrize("model", GOLDEN)
def test_the_released_results_score_what_the_benchmark_says(data_dir, model):
    scores = ovobench_offline.score_results(data_dir("ovobench") / "results" / model)
    *expected, tasks = GOLDEN[model]
    assert [round(scores[c], 2) for c in ("backward", "realtime", "forward", "total")] == expected
    words = tasks.split()
    assert {t: round(s, 2) for t, s in scores["tasks"].items()} == {t: float(s) for t, s in zip(words[::2], words[1::2])}


def test_lists_instead_of_texts_are_named_not_crashed_on(data_dir):
    with pytest.raises(SchemaError, match=r"forward\[0\]\.test_info\[0\]\.response: expected a string or null, got a list"):
        ovobench_offline.score_results(data_dir("ovobench") / "results" / "QWen2VL_7B_listbug")


def test_a_missing_category_leaves_no_total(tmp_path):
    row = {"task": "EPM", "response": "A", "ground_truth": "A"}
    (tmp_path / "a.json").write_text(json.dumps({"backward": [row], "realtime": [], "forward": []}))
    assert ovobench_offline.score_results(tmp_path) == {
        "tasks": {"EPM": 100.0}, "backward": 100.0, "realtime": None, "forward": None, "total": None,
    }  # fmt: skip


def test_the_probes_of_the_release(data_dir):
    probes = ovobench_offline.probes(data_dir("ovobench"))
    by_task = {t: [p for p in probes if p.task == t] for t in ("EPM", "REC", "SSR", "CRR")}
    assert (len(probes), {t: len(p) for t, p in by_task.items()}) == (3035, {"EPM": 297, "REC": 698, "SSR": 629, "CRR": 240})
    share = lambda task, says: 100 * sum(ovobench_offline.is_right(task, says, p.gold) for p in by_task[task]) / len(by_task[task])  # noqa: E731
    assert [round(share(*x), 2) for x in (("SSR", "Yes"), ("CRR", "Yes"), ("REC", "1"))] == [67.25, 60.0, 20.49]
    assert len({p.clip for p in probes}) == 3035
    assert sum(p.seconds for p in probes) == pytest.approx(640_828, abs=2000)


def test_the_whole_release_becomes_episodes(data_dir):
    episodes = ovobench.read(data_dir("ovobench"))
    counts = {}
    for e in episodes:
        counts[e.task] = counts.get(e.task, 0) + 1
    assert counts == {"EPM": 297, "HLD": 186, "ASI": 148, "STU": 178, "OJR": 184, "ATR": 116, "FPD": 101, "ACR": 109, "OCR": 149,
                      "REC": 82, "SSR": 42, "CRR": 48}  # fmt: skip
    assert len({e.video for e in episodes}) == 644
    assert sum(grid(e).n for e in ovobench.read(data_dir("ovobench"), tail_s=0)) == 199_172
    forward = [e for e in episodes if e.regime == "FAR"]
    assert sum(grid(e).n for e in forward) == 25_479
    assert sum(len(s.goals) for e in forward for s in spans(e)) == 508
    assert sum(s.turns for e in forward for s in spans(e)) == 8_050
    assert sum(len(e.targets) for e in forward) == 522


@pytest.mark.parametrize(("fps", "oracle", "metronome", "chatter", "e_bounds"), [
    (0.5, 98.9, 89.9, 10.4, (33.0, 13.8)), (1.0, 100.0, 90.5, 10.5, (19.9, 7.7)), (2.0, 100.0, 90.5, 10.5, (11.1, 4.1)),
])  # fmt: skip
def test_ceilings_and_floors_of_the_specification(data_dir, fps, oracle, metronome, chatter, e_bounds):
    floors = {p: rows["mean"] for p, rows in timing_floors(ovobench.read(data_dir("ovobench"), fps=fps)).items()}
    assert [round(floors[p]["S"], 1) for p in ("oracle", "every-3rd-turn", "always-speak")] == [oracle, metronome, chatter]
    assert floors["oracle"]["E"] == pytest.approx(100, abs=0.05)
    for policy, bound in zip(("every-3rd-turn", "always-speak"), e_bounds):
        assert floors[policy]["E"] <= bound + 0.05
    assert floors["always-silent"] == {"S": 0.0, "E": 0.0}


@pytest.mark.parametrize(("fps", "rec"), [(0.5, 96.8), (1.0, 100.0), (2.0, 100.0)])
def test_the_oracle_with_its_texts_judged_is_perfect_but_for_crowded_counts(data_dir, fps, rec):
    episodes = [e for e in ovobench.read(data_dir("ovobench"), fps=fps) if e.regime == "FAR"]
    scores = score_run(episodes, {e.episode_id: make_trace(e, "oracle") for e in episodes}, LexicalJudge())
    mean = lambda task, field: 100 * sum(x := [getattr(s, field) for s in scores if s.task == task]) / len(x)  # noqa: E731
    assert {t: round(mean(t, "S"), 1) for t in ("REC", "SSR", "CRR")} == {"REC": rec, "SSR": 100.0, "CRR": 100.0}
    assert {t: round(mean(t, "E"), 1) for t in ("REC", "SSR", "CRR")} == {"REC": 100.0, "SSR": 100.0, "CRR": 100.0}


@pytest.mark.parametrize(
    ("fps", "merged", "crowded", "overlapping", "silent_metronome"), [(0.5, 14, 6, 28, 6), (1.0, 6, 0, 22, 12), (2.0, 6, 0, 22, 24)]
)
def test_how_crowded_forward_targets_are(data_dir, fps, merged, crowded, overlapping, silent_metronome):
    """Sections 3, 7, 9 and 12.2 of RSE-1.0: merges, REC records with M < 1 for the oracle, with overlapping tolerance, room for chatter."""
    forward = [(e, span) for e in ovobench.read(data_dir("ovobench"), fps=fps) if e.regime == "FAR" for span in spans(e)]
    goals, turns = sum(len(span.goals) for _, span in forward), sum(span.turns for _, span in forward)
    assert sum(len(e.targets) for e, _ in forward) - goals == merged
    counting = [([goal.k for goal in span.goals], span.turns) for e, span in forward if e.task == "REC"]
    assert sum(verbosity_factor(len(ks), n) < 1 for ks, n in counting) == crowded and len(counting) == 82
    delta = tolerance("FAR", fps, 2.0)
    assert sum(any(b - a <= 2 * delta for a, b in itertools.pairwise(ks)) for ks, _ in counting) == overlapping
    # Below 40 % of the turns nothing is charged: so many times as often as there are targets may a policy speak.
    assert int(0.4 * turns / goals) == silent_metronome


def test_timing_reads_both_kinds_of_file(clone, data_dir):
    crr, ssr, rec = ovo_timing.read(clone())
    assert [(e.t_start, e.t_end, [t.t_star for t in e.targets]) for e in (crr, ssr, rec)] == [
        (10, 45, [15]), (0, 40, [5, 22]), (0, 30, [6, 10, 22]),
    ]  # fmt: skip
    assert [e.queries[0].text for e in (ssr, rec)] == ["Describe the steps of make tea", "How many times does the event: jump happen?"]
    listed = ovo_timing.read(data_dir("synthetic") / "ovo_timing")
    assert [(e.task, e.t_start, [t.t_star for t in e.targets]) for e in listed] == [("CRR", 10, [18]), ("REC", 0, [8, 15])]


@pytest.mark.parametrize(
    ("said", "due", "expected"),
    [
        ([], [5], (0, 0)),
        ([5], [], (0, 0)),
        ([4, 6], [5], (0.5, 1)),
        ([7, 9], [5, 9], (1, 1)),
        ([7], [5, 9], (1, 0.5)),
        ([2.9], [5], (0, 0)),
    ],
)
def test_timing_precision_and_recall(said, due, expected):
    assert ovo_timing.precision_recall(said, due) == expected


def test_timing_score_of_traces(clone, make_trace):
    episodes = ovo_timing.read(clone())
    crr, ssr, rec = episodes
    traces = {
        crr.episode_id: make_trace(crr, {}),
        ssr.episode_id: make_trace(ssr, {10: "boil", 70: "x"}),
        rec.episode_id: make_trace(rec, {12: "1", 20: "2", 44: "3"}),
    }
    scores = ovo_timing.official(episodes, traces)
    assert scores["tasks"]["SSR"] == {"precision": 50.0, "recall": 50.0}
    assert scores["F1"] == {"CRR": 0.0, "SSR": 50.0, "REC": 100.0, "mean": 50.0}


def test_timing_leaves_out_what_could_not_be_run(clone, make_trace):
    _, ssr, rec = ovo_timing.read(clone())
    traces = {ssr.episode_id: make_trace(ssr, {10: "boil"}), rec.episode_id: Trace(rec.episode_id, "run", (), "VideoError: cut off")}
    assert list(ovo_timing.official([ssr, rec], traces)["tasks"]) == ["SSR"]
