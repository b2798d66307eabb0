"""Stage 3: which segments of a video each question needs: the matrix {I, R} over segments and questions."""

from .stage import each, run_stage, sound

SIDE_BY_SIDE = 64  # segments watched in one batch
DOUBT = 0.1  # probability from which a question of another video may be relevant after all
SURE = 0.3  # probability that the surest segment of a question must reach: what no part of the video bears on, it cannot answer


def segments(times, seconds):
    """Lists of the places of the frames in each segment of `seconds`, empty segments left out."""
    found = {}
    for place, time in enumerate(times):
        found.setdefault(int(time // seconds), []).append(place)
    return list(found.values())


def relevant(line, share):
    """{I, R} of a question's probabilities, a segment each: R from `share` of the surest one on, as the question was asked about this very
    video and some segment must bear on it; none where even the surest is not SURE. A segment too many costs little: the policy is
    heard there and has nothing new to say."""
    surest = max(line)
    return [surest >= SURE and p >= share * surest for p in line]


def annotate(crew, rows, out, progress=None):
    """Rows {"video", "category", "questions", "borrowed", "segments": [[places of frames]], "relevant": [[P(yes) a segment] a question],
    "foreign"}.

    foreign: {"text", "relevant"} of a question "tell me when" of another video, for streams in which nothing is to be said; or null.
    """
    waiting = [(row["video"], question["text"]) for row in rows if row["category"] == "AM" for question in row["questions"]]
    return run_stage("relevance", rows, out, crew, judge, (waiting,), progress)


def judge(roles, items, waiting):
    """{video: row or Skip} of a group. Every segment is watched alone, and pairs of segment and question are decided in batches."""
    made = each(items, lambda item: Annotation(item, *roles.frames(item["video"]), roles.settings.segment_s, waiting))
    there = [made[item["video"]] for item in sound(items, made)]
    parts = [(annotation, index) for annotation in there for index in range(len(annotation.parts))]
    for begin in range(0, len(parts), SIDE_BY_SIDE):
        some = parts[begin : begin + SIDE_BY_SIDE]
        with roles.watching() as watch:
            streams = watch([annotation.segment(index) for annotation, index in some])
            pairs = [(stream, line, text) for stream, (annotation, _) in zip(streams, some) for line, text in annotation.lines()]
            for (_, line, _), yes in zip(pairs, roles.yes([pair[0] for pair in pairs], [pair[2] for pair in pairs])):
                line.append(round(yes, 4))
    return made | {annotation.row["video"]: annotation.result() for annotation in there}


class Annotation:
    """One video on its way through stage 3: its segments, its questions and that of another video, and a line of the matrix for each."""

    def __init__(self, row, frames, times, seconds, waiting):
        self.row, self.frames, self.times, self.parts = row, frames, times, segments(times, seconds)
        self.texts = [question["text"] for question in row["questions"]]
        others = [text for video, text in waiting if video != row["video"] and text not in self.texts]
        self.foreign = others[sum(row["video"].encode()) % len(others)] if others else None
        self.table = [[] for _ in range(len(self.texts) + bool(others))]

    def segment(self, index):
        return [self.frames[i] for i in self.parts[index]], [self.times[i] for i in self.parts[index]]

    def lines(self):
        """(line of the matrix, its question)."""
        return zip(self.table, [*self.texts, self.foreign])

    def result(self):
        foreign = {"text": self.foreign, "relevant": self.table.pop()} if self.foreign is not None else None
        kept = {name: self.row[name] for name in ("video", "category", "questions", "borrowed")}
        return {**kept, "segments": self.parts, "relevant": self.table, "foreign": foreign}
