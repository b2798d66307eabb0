"""Stage 5: trajectories become a LoRA adapter. The towers are frozen and their tokens come from the cache, so only the decoder runs.

Works in one process, or in several under `torchrun` or `accelerate launch`, which share each batch. Every `save_every` steps the adapter
and the optimizer are saved; a killed run goes on from there.
"""

import json
import math
import random
import time
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

from ..engine.errors import ArgumentError
from .activations import Activations, free_room
from .packing import group, pack, token_weights
from .sequences import REPLY, SILENCE
from .tunable import LINEAR, load_tunable

LONGEST_ON_CPU = 512  # tokens of a packed row there: behind a longer one's mask most of the work is wasted
MULTIPLE_ON_GPU = 512  # tokens: cuDNN plans its attention anew, for a second, for every length of a row
COMPILED = 10**9  # parameters from which a minute of compilation pays: smaller decoders are tuned in little more
BALANCES = ("none", "inverse", "focal")


@dataclass(frozen=True)
class Tuning:
    """Settings of stage 5; the defaults are the paper's where it names one."""

    rank: int = 8
    alpha: int = 32
    rate: float = 1e-4
    batch: int = 8
    epochs: int = 1
    loss_balance: str = "none"
    held_out: float = 0.1
    patience: int = 3
    pack_tokens: int = 8192
    save_every: int = 50
    seed: int = 0

    def __post_init__(self):
        if self.loss_balance not in BALANCES:
            raise ArgumentError(f"loss balance {self.loss_balance!r} is not one of {', '.join(BALANCES)}")


class Tuner:
    """`examples`: [(Sequence, features())] with features() -> (tokens (V, h), deepstack (S, V, h) or None); `out`: the adapter's folder.

    room: bytes for activations, None for what memory has; compiled: whether the layers are, None for large decoders on a GPU.
    """

    def __init__(self, checkpoint, examples, out, settings, start=None, device=None, on_step=None, room=None, compiled=None):
        from accelerate import Accelerator

        if not examples:
            raise ArgumentError("there is no trajectory to tune on; look at skipped.jsonl and at the funnel of the report for why")
        self.settings, self.out, self.on_step = settings, Path(out), on_step
        half = torch.cuda.is_available() and device != "cpu"
        self.accelerator = Accelerator(mixed_precision="bf16" if half else "no", cpu=device == "cpu")
        self.device = self.accelerator.device
        torch.manual_seed(settings.seed)
        base = load_tunable(checkpoint, self.device, torch.bfloat16 if half else torch.float32)
        if compiled is None:  # FSDP exchanges a layer's weights round its forward
            large = sum(each.numel() for each in base.text.parameters()) >= COMPILED
            compiled = half and large and self.accelerator.distributed_type != "FSDP"
        self.blocks, self.multiple = compiled, MULTIPLE_ON_GPU if half else 1
        self.model = _with_adapter(base, settings, start)
        self.activations = Activations(base.text.layers, free_room(self.device) if room is None else room, compiled)
        self.optimizer = torch.optim.AdamW([p for p in self.model.parameters() if p.requires_grad], lr=0.0, weight_decay=0.0)
        self.model, self.optimizer = self.accelerator.prepare(self.model, self.optimizer)
        order = random.Random(f"tune {settings.seed}").sample(range(len(examples)), len(examples))
        aside = min(int(len(order) * settings.held_out), len(order) - 1)
        self.held_out, self.training = [examples[i] for i in order[:aside]], [examples[i] for i in order[aside:]]
        self.steps = math.ceil(len(self.training) / settings.batch) * settings.epochs
        kinds = torch.cat([sequence.learned for sequence, _ in self.training])
        turns = {kind: int((kinds == kind).sum()) for kind in (SILENCE, REPLY)}
        self.shares = {kind: count / max(sum(turns.values()), 1) for kind, count in turns.items()}
        self.step, self.log, self.best = 0, [], None
        self.evaluate_every = max(self.steps // 10, 1)

    def run(self):
        """Train to the end, or until the held-out loss has risen for `patience` evaluations. Returns the log, one row a step."""
        self._resume()
        self.model.train()
        while self.step < self.steps:
            began = time.perf_counter()
            row = {"step": self.step + 1, "of": self.steps, **self._update(self._batch(self.step)), "seconds": time.perf_counter() - began}
            self.step += 1
            last = self.step == self.steps
            if self.held_out and (last or self.step % self.evaluate_every == 0):
                row["held_out"] = self._evaluate()
            self.log.append(row)
            if self.on_step:
                self.on_step(row)
            if "held_out" in row and self._has_stopped_learning(row["held_out"]):
                break
            if self.step % self.settings.save_every == 0 and not last:
                self._save_state()
        if not self.held_out:
            self._save_adapter()
        return self.log

    def _batch(self, step):
        epoch, place = divmod(step * self.settings.batch, math.ceil(len(self.training) / self.settings.batch) * self.settings.batch)
        order = random.Random(f"epoch {self.settings.seed} {epoch}").sample(range(len(self.training)), len(self.training))
        batch = order[place : place + self.settings.batch]
        # A process without a share would leave the others waiting for its gradients.
        mine = batch[self.accelerator.process_index :: self.accelerator.num_processes] or batch[:1]
        return [self.training[i] for i in mine]

    def _groups(self, examples):
        """The examples of each row."""
        most = min(self.settings.pack_tokens, LONGEST_ON_CPU) if self.device.type == "cpu" else self.settings.pack_tokens
        return [[examples[i] for i in places] for places in group([len(sequence) for sequence, _ in examples], most)]

    def _row(self, chosen):
        sequences, features = [sequence for sequence, _ in chosen], [features() for _, features in chosen]
        return pack(sequences, features, self.device, self.multiple, self.blocks)

    def _loss(self, row):
        """Sum of the weighted losses of a row."""
        logits = self.model(*row.arguments())
        weight = token_weights(self.settings.loss_balance, row.kind, logits, row.target, self.shares)
        return (F.cross_entropy(logits, row.target, reduction="none") * weight).sum()

    def _update(self, examples):
        """One step. Returns {"loss", "tokens", "padding": tokens that fill rows up, "recomputed": share of the layers' work}."""
        while True:
            try:
                found = self._gradients(examples)
                break
            except torch.OutOfMemoryError:
                # Of several processes the others wait for this one's gradients; they cannot begin anew.
                if self.accelerator.num_processes > 1 or not self.activations.shrink():
                    raise
            self.optimizer.zero_grad()
            torch.cuda.empty_cache()
        settings = self.settings
        self.accelerator.clip_grad_norm_(self.model.parameters(), 1.0)
        warm = max(1, round(0.03 * self.steps))
        rate = settings.rate * min((self.step + 1) / warm, 1.0) * 0.5 * (1 + math.cos(math.pi * self.step / self.steps))
        for each in self.optimizer.param_groups:
            each["lr"] = rate
        self.optimizer.step()
        self.optimizer.zero_grad()
        return found | {"loss": float(found["loss"])}

    def _gradients(self, examples):
        """Gradients of the mean loss over a batch, row by row; nothing here waits for the device. As `_update`, the loss a tensor."""
        groups = self._groups(examples)
        learned = max(sum(int((sequence.learned > 0).sum()) for sequence, _ in examples), 1)
        total, width, padding, twice = 0.0, 0, 0, 0
        for index, chosen in enumerate(groups):
            row = self._row(chosen)
            twice += self.activations.fit(len(row.ids)) * len(row.ids)
            sync = index == len(groups) - 1
            with torch.enable_grad(), self.accelerator.no_sync(self.model) if not sync else nullcontext():
                loss = self._loss(row)
                self.accelerator.backward(loss / learned)
            total = total + loss.detach() / learned
            width += len(row.ids)
            padding += row.padding
        recomputed = twice / (width * len(self.activations.layers))
        return {"loss": total, "tokens": width - padding, "padding": padding, "recomputed": recomputed}

    @torch.no_grad()
    def _evaluate(self):
        self.model.eval()
        total, count = 0.0, 0
        for chosen in self._groups(self.held_out):
            row = self._row(chosen)
            total = total + F.cross_entropy(self.model(*row.arguments()), row.target, reduction="sum")
            count += len(row.target)
        self.model.train()
        return float(total) / max(count, 1)

    def _has_stopped_learning(self, loss):
        """Keep the best adapter; True once `patience` evaluations in a row were worse."""
        if self.best is None or loss < self.best[0]:
            self.best = (loss, 0)
            self._save_adapter()
            return False
        self.best = (self.best[0], self.best[1] + 1)
        return self.best[1] >= self.settings.patience

    def _save_adapter(self):
        if self.accelerator.is_main_process:
            self.accelerator.unwrap_model(self.model).save_pretrained(self.out, safe_serialization=True)

    def _state(self):
        return self.out / "resume"

    def _save_state(self):
        if not self.accelerator.is_main_process:
            return
        folder = self._state()
        folder.mkdir(parents=True, exist_ok=True)
        parameters = [p for p in self.accelerator.unwrap_model(self.model).parameters() if p.requires_grad]
        held = {f"{i}.value": p.detach().float().cpu() for i, p in enumerate(parameters)}
        for i, p in enumerate(parameters):
            for name in ("exp_avg", "exp_avg_sq"):
                held[f"{i}.{name}"] = self.optimizer.state[p][name].float().cpu()
        save_file(held, folder / "state.part")
        (folder / "state.part").replace(folder / f"state-{self.step}.safetensors")
        about = {"step": self.step, "best": self.best, "log": self.log, "settings": asdict(self.settings), "examples": len(self.training)}
        (folder / "state.json.part").write_text(json.dumps(about))
        (folder / "state.json.part").replace(folder / "state.json")
        for old in folder.glob("state-*.safetensors"):
            if old.name != f"state-{self.step}.safetensors":
                old.unlink()

    def _resume(self):
        file = self._state() / "state.json"
        if not file.exists():
            return
        about = json.loads(file.read_text())
        if about["settings"] != asdict(self.settings) or about["examples"] != len(self.training):
            raise ArgumentError(f"{file.parent} was made with other settings or trajectories; delete that folder to begin anew")
        held = load_file(file.with_name(f"state-{about['step']}.safetensors"))
        parameters = [p for p in self.accelerator.unwrap_model(self.model).parameters() if p.requires_grad]
        with torch.no_grad():
            for i, p in enumerate(parameters):
                p.copy_(held[f"{i}.value"])
                moments = {name: held[f"{i}.{name}"].to(p.device, p.dtype) for name in ("exp_avg", "exp_avg_sq")}
                self.optimizer.state[p] = moments | {"step": torch.tensor(float(about["step"]))}
        self.step, self.log = about["step"], about["log"]
        self.best = about["best"] and tuple(about["best"])


def _with_adapter(base, settings, start):
    """The decoder with a LoRA on all its linear layers: a new one, or the adapter directory `start` to go on with."""
    from peft import LoraConfig, PeftModel, get_peft_model
    from peft.tuners.lora import LoraLayer

    if start is not None:
        model = PeftModel.from_pretrained(base, str(start), is_trainable=True)
    else:
        # A pattern, for the tower of the whole model has linear layers of the same names.
        path = r"\.".join(base.path)
        targets = rf"{path}\.layers\.\d+\.(self_attn|mlp)\.({'|'.join(LINEAR)})"
        config = LoraConfig(r=settings.rank, lora_alpha=settings.alpha, target_modules=targets)
        model = get_peft_model(base, config)
    for module in model.modules():
        if isinstance(module, LoraLayer):
            module.cast_input_dtype_enabled = False  # autocast narrows the small matrices; PEFT would widen the activations first
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()  # moments and small steps need more than bfloat16 holds
    return model
