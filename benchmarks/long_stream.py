"""Hours of video through a bounded window, on a simulated clock of two frames a second.

Memory has to stay flat and a step as fast at the end as when the window had just filled. What the window holds has to be right: the logits
at the end are compared with a fresh prefill of exactly the retained tokens. That holds exactly where keys depend on a token and its place
alone, in the first decoder layer, so this part drives the model with that layer only through forty windows; deeper layers keep what
evicted frames once told their neighbors.
"""

import copy
import resource
import time
from contextlib import contextmanager
from dataclasses import replace

import torch

from .measure import quantiles, wait
from .peers import model_inputs
from .subject import Unavailable
from .workload import SYSTEM, frame_shape, make_frames, retained

FPS = 2
FRAMES = 16
WINDOWS = 40  # at 7B enough for positions to be rebased on the way


def long_stream(subject, frames, window, tokens=None, report=lambda done, *said: None):
    """`frames` frames through a window of `window` tokens: yields what is known after each tenth of them and at the end, dicts of plain
    values, times in ms. Raises Unavailable when the frames do not fill the window."""
    shape = frame_shape(subject.config.pixels, tokens)
    show = make_frames(FRAMES, shape, subject.device)
    engine = subject.engine(window, 1, tokens)
    spent, memory, filled, live, found = [], [], None, 0, None
    with engine.open(query="Tell me when something changes.", system=SYSTEM) as stream:
        for index in range(frames):
            wait(subject.device)
            begin = time.perf_counter()
            engine.step(show[index % FRAMES], stream, time=index / FPS, force=False)
            spent.append((time.perf_counter() - begin) * 1e3)
            memory.append(memory_in_use(subject.device))
            if filled is None and stream.context.table.live <= live:
                filled = index
            live = stream.context.table.live
            if (index + 1) % (frames // 10) == 0 and (found := summary(spent, memory, filled, window)):
                report(0.9 * (index + 1) / frames, said(found, frames))
                yield found
    found = summary(spent, memory, filled, window)
    if not found:
        raise Unavailable(f"{frames} frames do not fill a window of {window} tokens and ten frames more; give more frames")
    try:
        found["logits_difference"] = retained_difference(subject, window, tokens, show)
    except Unavailable as reason:
        found["logits_reason"] = str(reason)
    yield found


def summary(spent, memory, filled, window):
    """The first and last tenth of the steps since the window had filled; None before there are ten."""
    tenth = 0 if filled is None else (len(spent) - filled) // 10
    if not tenth:
        return None
    first, last = spent[filled : filled + tenth], spent[-tenth:]
    slow = [quantiles(part) for part in (first, last)]
    device, host = ([each[place] for each in memory] for place in (0, 1))
    return {
        "frames": len(spent), "seconds_of_video": len(spent) / FPS, "window": window, "filled_after": filled,
        "first_ms": slow[0]["p50"], "last_ms": slow[1]["p50"], "first_p99_ms": slow[0]["p99"], "last_p99_ms": slow[1]["p99"],
        "drift_percent": 100 * (slow[1]["p50"] / slow[0]["p50"] - 1),
        "memory_growth": max(device[-tenth:]) - max(device[filled : filled + tenth]),
        "host_memory_growth": max(host[-tenth:]) - max(host[filled : filled + tenth]),
    }  # fmt: skip


def said(found, frames):
    """A line of progress."""
    return (
        f"  {found['frames']} of {frames} frames: {found['last_ms']:.2f} ms a step, drift {found['drift_percent']:+.2f} %, "
        f"memory {found['memory_growth']:+d} bytes"
    )


def memory_in_use(device):
    """Bytes: (allocated on the device, peak of the process on the host); on a CPU both are the host's."""
    host = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return torch.cuda.memory_allocated(device) if device.type == "cuda" else host, host


def retained_difference(subject, window, tokens, show):
    """Relative L2 difference of the logits after WINDOWS windows from transformers' on the retained tokens, first decoder layer only."""
    reference = subject.reference()
    engine = one_layer(subject).engine(window, 1, tokens)
    with engine.open(query="Tell me when something changes.", system=SYSTEM, logits=True) as stream:
        appended = 0
        while appended < WINDOWS * window:
            step = engine.step(show[stream.index % FRAMES], stream, force=False)
            appended += sum(len(span.ids) for span in stream.context.window if span.turn == step.index)
        turns = retained(engine, stream, show)
    inputs = model_inputs(subject.config, turns, subject.device, subject.dtype)
    with first_layer_only(reference), torch.inference_mode():
        expected = reference(**inputs, use_cache=False, logits_to_keep=1).logits[0, -1].float()
    return ((step.logits - expected).norm() / expected.norm()).item()


def one_layer(subject):
    """The subject with the first decoder layer alone, over the same weights."""
    cut = copy.copy(subject)
    cut.config = replace(subject.config, decoder=replace(subject.config.decoder, layers=1))
    decoder = copy.copy(subject.model.decoder)
    decoder.__dict__ = decoder.__dict__ | {"_modules": dict(decoder._modules), "config": cut.config.decoder}
    decoder.layers = decoder.layers[:1]
    cut.model = replace(subject.model, config=cut.config, decoder=decoder)
    return cut


@contextmanager
def first_layer_only(reference):
    """transformers' model with its first decoder layer alone, as long as this lasts."""
    text = reference.model.language_model
    layers, count = text.layers, text.config.num_hidden_layers
    text.layers, text.config.num_hidden_layers = layers[:1], 1
    try:
        yield
    finally:
        text.layers, text.config.num_hidden_layers = layers, count
