"""The model `evostreaming` of lmms-eval: one engine that answers questions beside what it was shown, or watches whole episodes."""

import os
import time
from dataclasses import replace
from itertools import groupby

from accelerate import Accelerator
from lmms_eval.api.instance import GenerationResult, TokenCounts
from lmms_eval.api.model import lmms
from lmms_eval.models.model_utils.gen_metrics import log_metrics
from tqdm import tqdm

from ...engine.errors import ArgumentError
from ..offline import load
from ..sweep_model import Model
from .asking import Asker, Question
from .episodes import episode_of, watch
from .prompt import from_messages, from_visuals


class ChatModel(lmms):
    """`--model evostreaming`.

    pretrained: as `Engine.from_pretrained`. max_num_frames: shown of each video, evenly apart. batch_size: videos (or sets of images)
    whose questions are answered together. streams, gate, threshold, refractory: of the streaming tasks.
    """

    is_simple = False

    def __init__(
        self,
        pretrained="tiny",
        adapter=None,
        max_num_frames=32,
        tokens_per_frame=None,
        max_tokens=16384,
        dtype="auto",
        streams=16,
        gate="softmax",
        threshold=0.5,
        refractory=0,
        device="auto",
        batch_size=1,
        max_batch_size=None,
    ):
        super().__init__()
        self.accelerator = Accelerator()
        self._rank, self._world_size = self.accelerator.process_index, self.accelerator.num_processes
        self.batch_size = 1 if batch_size == "auto" else int(batch_size)
        self.max_num_frames = int(max_num_frames)
        self.device = self.accelerator.device
        if device in ("auto", "cuda") and self.device.type == "cuda":
            device = str(self.device)  # of several processes each has its own GPU
        self.model = Model(
            expanded(pretrained), adapter and expanded(adapter), device=device, dtype=dtype, streams=int(streams),
            max_tokens=int(max_tokens), tokens_per_frame=tokens_per_frame, gate=(gate, float(threshold), int(refractory)),
        )  # fmt: skip
        self._asker = None

    @property
    def asker(self):
        """Its engine is loaded when the first question is asked."""
        if self._asker is None:
            self._asker = Asker(load(replace(self.model, streams=Asker.room(self.batch_size))), self.max_num_frames, self.batch_size)
        return self._asker

    def clean(self):
        """Give the device's memory back."""
        if self._asker is not None:
            self._asker.close()
            self._asker = None
        super().clean()

    def generate_until(self, requests):
        """Answers in the order of the requests; of a streaming task's request, the trace of its episode as JSON."""
        began = time.perf_counter()
        results, questions, episodes = [GenerationResult("", TokenCounts(output_tokens=0))] * len(requests), [], {}
        for i, request in enumerate(requests):
            if is_filler(request):
                continue
            episode = episode_of(self._doc(request))
            if episode is None:
                questions.append((i, request))
            else:
                episodes.setdefault(episode, []).append(i)
        asked = tqdm((self._question(request) for _, request in questions), "questions", len(questions), disable=self.rank != 0)
        for (i, _), (text, tokens) in zip(questions, self.asker.answers(asked) if questions else ()):
            results[i] = GenerationResult(text, TokenCounts(output_tokens=tokens))
        if episodes:
            self.clean()  # the engine that watches episodes is another one
        for episode, trace, tokens in watch(self.model, list(episodes)):
            for i in episodes[episode]:
                results[i] = GenerationResult(trace, TokenCounts(output_tokens=tokens))
        spent, tokens = time.perf_counter() - began, sum(result.token_counts.output_tokens for result in results)
        log_metrics(total_elapsed_time=spent, total_gen_tokens=tokens, avg_speed=tokens / max(spent, 1e-9))
        return results

    def generate_until_multi_round(self, requests):
        """A list of answers each, one a round; a round shows and asks what its task makes of the answers before."""
        if self.is_simple:
            raise ArgumentError("tasks of several rounds run without --force_simple")
        return [[] if is_filler(request) else self._rounds(request) for request in tqdm(requests, "rounds", disable=self.rank != 0)]

    def loglikelihood(self, requests):
        """`(loss, greedy)` of each continuation, see `Engine.likelihoods`: the smallest loss is the model's choice, as lmms-eval has it."""
        pairs = []
        choices = groupby(requests, lambda request: (is_filler(request), request.args[0], request.args[3:]))
        for (filler, context, where), group in tqdm(choices, "questions", disable=self.rank != 0):
            group = list(group)
            if filler:
                pairs += [(0.0, False)] * len(group)
                continue
            # There is no document, and nothing to see, where a task asks how likely its choices are by themselves.
            doc = self._doc(group[0]) if where else None
            visuals = group[0].args[2](doc) if where else ()
            replies = [reply(doc) if callable(reply) else reply for reply in (request.args[1] for request in group)]
            pairs += self.asker.likelihoods(Question(from_visuals(visuals, context), where), replies)
        # lmms-eval 0.7.3 makes a string of whatever it does not know, and a pair of numbers is among that.
        return [GenerationResult(pair) for pair in pairs]

    def _rounds(self, request):
        doc, to_messages, settings = self._doc(request), *request.args[1:3]
        answers, messages, told = [], to_messages(doc), None
        while messages is not None:
            ((text, _),) = self.asker.answers([Question(from_messages(messages), (*request.args[3:], len(answers)), settings)])
            answers.append(text)
            told = to_messages(doc, round_idx=len(answers), previous_output=list(answers), previous_round_info=told and told[3])
            messages = told[0] if isinstance(told, tuple) and not told[1] else None
        return answers

    def _question(self, request):
        context, first, second, *where = request.args
        # Tasks that are given as a dictionary ask the simple way, whatever the model is.
        if isinstance(first, dict):
            return Question(from_visuals(second(self._doc(request)), context), where, first)
        return Question(from_messages(first(self._doc(request))), where, second)

    def _doc(self, request):
        doc_id, task, split = request.args[-3:]
        return self.task_dict[task][split][doc_id]


class SimpleModel(ChatModel):
    """The same with `--force_simple`, as tasks of output type `multiple_choice` and `loglikelihood` need it."""

    is_simple = True


def expanded(path):
    """No shell sees a `~` behind `pretrained=`."""
    return os.path.expanduser(str(path))


def is_filler(request):
    """Whether it only keeps the processes in step, and nobody reads its answer."""
    return isinstance(request.metadata, dict) and bool(request.metadata.get("__padding_only__"))
