"""The model before a run and after each of its rounds under RealStreamEval; of the built-in model also its offline accuracy."""

import json
import subprocess
import sys
from contextlib import redirect_stdout
from pathlib import Path

from ..engine.errors import EvoStreamingError
from ..engine.locate import locate
from ..eval.evaluate import Request, run_and_score
from ..eval.journal import write_whole
from ..eval.judges import LexicalJudge
from ..eval.sweep_model import Model
from .merged import write_merged


class Scores:
    """`suite` and `data` as for `evostreaming eval`; results lie in RUN/scores/round_<i>, 0 being the model as it came."""

    def __init__(self, model, out, suite, data, device, tokens_per_frame, say):
        self.model, self.folder, self.suite, self.data, self.say = model, Path(out) / "scores", suite, data, say
        self.device, self.tokens_per_frame = device, tokens_per_frame

    def __call__(self, number, adapter):
        """Evaluate the model with the adapter of a round. What was done before is not done again."""
        out = self.folder / f"round_{number}"
        if not (out / "scores.json").exists():
            wanted = Model(self.model, adapter and str(adapter), self.device, tokens_per_frame=self.tokens_per_frame)
            with redirect_stdout(sys.stderr):  # its tables stand beside the progress, not in the result
                run_and_score(Request(self.suite, self.data, out, wanted, []), LexicalJudge(), self.say)
        if self.model == "tiny" and not (out / "offline.json").exists():
            write_whole(out / "offline.json", (json.dumps(self.offline(adapter, out / "merged")) + "\n").encode())

    def offline(self, adapter, merged):
        """Percent of the world's own questions, asked in the old way on scenes that no training saw, that are answered right."""
        checkpoint = locate(self.model)
        if adapter is not None:
            write_merged(checkpoint, adapter, merged)
            checkpoint = merged
        # Nothing imports the room that made the built-in model.
        command = [sys.executable, "-m", "evostreaming.tiny.evaluate", str(checkpoint), "--held-out", "--per-task", "60", "--json"]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise EvoStreamingError(f"the offline accuracy could not be computed: {(done.stderr.strip() or 'killed').splitlines()[-1]}")
        return 100 * json.loads(done.stdout.splitlines()[-1])["held_out"]["overall"]
