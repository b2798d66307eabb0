"""Videos are decoded while the group before is worked on, each of them once."""

from collections import Counter
from types import SimpleNamespace

from evostreaming.evolve.crew import Here


def test_each_video_is_decoded_once_and_before_its_group_begins(make_roles, monkeypatch):
    roles, decoded, waiting = make_roles(batch=2), Counter(), []
    monkeypatch.setattr(roles, "engine", SimpleNamespace(frames=SimpleNamespace(size_of=lambda frame: None)))

    def read(video):
        decoded[video] += 1
        return ["frame of " + video], [0.0]

    monkeypatch.setattr(roles, "_read", read)

    def work(roles, group):
        waiting.append({item["video"] for item in group} <= set(roles.ahead))
        return [roles.frames(item["video"])[0] for item in group]

    groups = [[{"video": f"{number}{letter}"} for letter in "ab"] for number in range(4)]
    seen = list(Here(roles).map(work, groups, ()))
    assert seen == [[["frame of " + item["video"]] for item in group] for group in groups]
    assert decoded == {item["video"]: 1 for group in groups for item in group}
    assert waiting == [False, True, True, True] and not roles.ahead
