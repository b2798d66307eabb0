"""MLVU (CVPR 2025), offline: the multiple-choice part of the test set with its published answers, `test-ground-truth/test_mcq_gt.json`.

Fields as in the development set, six options, nine tasks; videos lie in `video/` without folders (JUNJIE99/MLVU, Evaluation_Test).
"""

from ..records import read_records
from .catalog import find_file
from .mlvu import item

OVERALL = "tasks"
FILE = "test_mcq_gt.json"


def items(path):
    """All questions; the overall score is the unweighted mean over the tasks."""
    file = find_file(path, f"test-ground-truth/{FILE}", FILE)
    return [item(record, f"mlvu_test-{record.text('question_id')}", "video") for record in read_records(file)]
