"""vLLM, where it is importable: the conversation so far as one prompt for every frame, prefix caching on, one token asked for."""

from importlib.util import find_spec

import torch

from .reference_models import image_of
from .subject import Unavailable


class Vllm:
    """Needs a checkpoint directory. It hands out log-probabilities of the most likely tokens only, so `step` gives logits that are -inf
    elsewhere, and the check compares the most likely token."""

    name, slow, top_only = "vLLM, prefix caching", True, True

    def __init__(self, subject, workload):
        found = find_spec("vllm")
        if found is None or found.origin is None:  # a folder of that name is no package
            raise Unavailable("vllm cannot be imported here")
        if subject.directory is None:
            raise Unavailable("vLLM loads checkpoint directories, not random weights")
        import vllm

        turns = [*workload.history, workload.turn]
        pixels, images, ids = workload.config.pixels, [], []
        mean, std = (torch.tensor(values)[:, None, None] for values in (pixels.mean, pixels.std))
        for turn in turns:
            image = image_of(turn.rows.float().cpu(), turn.shape, pixels.patch, pixels.merge) * std + mean
            images.append((image * 255).round().clamp(0, 255).to(torch.uint8).permute(1, 2, 0).contiguous().numpy())
            # vLLM repeats a frame's placeholder itself.
            ids += [token for index, token in enumerate(turn.ids) if not (turn.visual[index] and index and turn.visual[index - 1])]
        self.vocabulary, self.prompt = workload.config.decoder.vocab, {"prompt_token_ids": ids, "multi_modal_data": {"image": images}}
        self.sampling = vllm.SamplingParams(max_tokens=1, temperature=0.0, logprobs=1)
        self.engine = vllm.LLM(
            str(subject.directory), enable_prefix_caching=True, max_model_len=workload.context + 2048,
            limit_mm_per_prompt={"image": len(images)}, gpu_memory_utilization=0.4,
        )  # fmt: skip

    def step(self):
        out = self.engine.generate([self.prompt], self.sampling, use_tqdm=False)[0].outputs[0]
        logits = torch.full((self.vocabulary,), float("-inf"))
        for token, found in out.logprobs[0].items():
            logits[token] = found.logprob
        return logits

    def rewind(self):
        # The same frame again would be found in the prefix cache; one that differs in a pixel is not, and what stands before it is.
        frame = self.prompt["multi_modal_data"]["image"][-1]
        frame[0, 0, 0] = (int(frame[0, 0, 0]) + 1) % 256
