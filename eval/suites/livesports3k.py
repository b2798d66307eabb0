"""LiveSports-3K (LiveCC, CVPR 2025): `LiveSports-3K-CC.json`, commentary on sports events; `LiveSports-3K-QA.json`, multiple choice.

The commentary's own judge, GPT-4o, says which of two texts is nearer to the commentator's, in both orders. `official` is the verdict on
every event by this run's judge; with another model's texts it compares, too (`commentary.against`). `predictions` gives the lines that the
benchmark's own judge reads, `official_win_rate` the score from its answers.
"""

from ..episodes import Episode, Query, Target
from ..errors import SchemaError
from ..multiple_choice import Item, option_lines, right_letter
from ..pairwise import NEARER
from ..records import read_jsonl, read_records
from .catalog import find_file
from .commentary import commentary, judged, win_rate

CC, QA = "LiveSports-3K-CC.json", "LiveSports-3K-QA.json"
OVERALL = "items"
CONTEST = NEARER
PROMPT = "You are the commentator of this live video: {title}. Say what happens, as it happens.{before}"
CHOICE = "Answer with the option's letter from the given choices directly."


def read(path, fps=2.0):
    """FAR episodes, one an event, asked at its start; the one target is all that the commentator said from `begin` to `end`."""
    return [_episode(record, fps) for record in read_records(find_file(path, CC))]


def items(path):
    """The questions of the QA part; the task is the kind of question, the group whether it needs reading."""
    return [_item(record) for record in read_records(find_file(path, QA))]


def official(episodes, traces, judge):
    """`{"verdict": percent}`: mean verdict on the whole commentary of an event."""
    return {"verdict": judged(episodes, traces, judge)}


def references(episodes):
    """`{(video, event): what the commentator said}`."""
    return {_event(episode): episode.targets[0].answer for episode in episodes}


def passages(episodes, rows):
    """`{(video, event): text}` of predictions."""
    return {(row.text("video_id"), str(row.data.get("event_id"))): row.text("pred") for row in rows}


def predictions(episodes, traces):
    """`{"video_id", "event_id", "begin", "end", "pred"}` of every event that was run, as the benchmark's judge reads them."""
    rows = []
    for episode in episodes:
        trace, event = traces.get(episode.episode_id), episode.meta["event"]
        if trace is not None and trace.err is None:
            rows.append({**event, "pred": commentary(episode, trace, event["begin"], event["end"])})
    return rows


def official_win_rate(path, name):
    """Win rate of model `name` in percent, from the judge's lines `{"video_event_id", "ab_winner", "ba_winner"}`. Raises SchemaError."""
    votes = [(record.text("ab_winner") == name, record.text("ba_winner") == name) for record in read_jsonl(path)]
    if not votes:
        raise SchemaError(path, "", "", "holds no verdict")
    return win_rate(votes)


def _event(episode):
    return episode.meta["event"]["video_id"], str(episode.meta["event"]["event_id"])


def _episode(record, fps):
    begin, end, video, event = record.number("begin"), record.number("end"), record.text("video_id"), record.integer("event_id")
    if end <= begin:
        record.fail("end", f"is {end:g}, not after begin {begin:g}")
    before = record.text("preasr_text", "")
    text = PROMPT.format(title=record.text("event_title", "a game"), before=f" Said so far: {before}" if before else "")
    return Episode(
        f"livesports3k-{video}-{event}", "livesports3k", "CC", "FAR", record.text("video", f"{video}.mp4"), begin, end, fps,
        (Query("q", begin, text, "text"),), (Target("g0", "q", end, (begin, end), record.text("event_asr_text")),),
        {"video_id": video, "event": {"video_id": video, "event_id": event, "begin": begin, "end": end}},
    )  # fmt: skip


def _item(record):
    video, options = record.text("video_id"), record.strings("options")
    prompt = f"{record.text('question')}\n{option_lines(options)}\n{CHOICE}"
    reads = "with text in the picture" if record.data.get("OCR") else "without"
    return Item(
        f"livesports3k-{video}-{record.integer('question_id')}", record.text("q_type"), f"{video}.mp4", prompt, options,
        right_letter(record, "answer", len(options)), {"OCR": reads},
    )  # fmt: skip
