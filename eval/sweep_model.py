"""The model of a sweep: how to load it, and what tells it from another."""

import hashlib
import subprocess
from dataclasses import dataclass
from pathlib import Path

from .. import Engine, Gate, __version__
from ..engine.locate import locate, locate_adapter
from ..engine.streaming_format import StreamingFormat
from .engine_session import system_prompt

BLOCKS, BLOCK = 64, 2**20  # of a file that is too large to be read whole, so many pieces of so many bytes tell it from another


@dataclass(frozen=True)
class Model:
    """Arguments of `Engine.from_pretrained` that a run is made with. `gate`: (mode, threshold, refractory)."""

    path: str
    adapter: str | None = None
    device: str = "auto"
    dtype: str = "auto"
    quantization: str | None = None
    streams: int = 16
    max_tokens: int = 16384
    tokens_per_frame: int | None = None
    gate: tuple[str, float, int] = ("softmax", 0.5, 0)
    max_new_tokens: int = 128

    def load(self):
        """The engine. Raises CheckpointError, CapacityError, ArgumentError."""
        return Engine.from_pretrained(
            self.path, device=self.device, dtype=self.dtype, quantization=self.quantization, adapter=self.adapter,
            max_streams=self.streams, max_tokens=self.max_tokens, tokens_per_frame=self.tokens_per_frame, gate=Gate(*self.gate),
            max_reply=self.max_new_tokens,
        )  # fmt: skip

    @property
    def name(self):
        return Path(self.path).resolve().name if Path(self.path).is_dir() else self.path

    def settings(self):
        """What must be equal for two parts of a run to be one, as JSON values. Raises CheckpointError."""
        directory, adapter = locate(self.path), locate_adapter(self.adapter)
        prompt = system_prompt(StreamingFormat.from_directories(directory, adapter))
        return {
            "model": self.name,
            "model_sha256": fingerprint(directory),
            "adapter": adapter and adapter.resolve().name,
            "adapter_sha256": adapter and fingerprint(adapter),
            "device": self.device,
            "dtype": self.dtype,
            "quantization": self.quantization,
            "streams": self.streams,
            "max_tokens": self.max_tokens,
            "tokens_per_frame": self.tokens_per_frame,
            "gate": list(self.gate),
            "max_new_tokens": self.max_new_tokens,
            "system_prompt_sha256": hashlib.sha256(prompt.encode()).hexdigest(),
            "engine_commit": engine_commit(),
        }


def fingerprint(directory):
    """sha256 over a folder's JSON and safetensors files: names, sizes, contents (of large files evenly spaced parts)."""
    digest = hashlib.sha256()
    for path in sorted(p for p in Path(directory).iterdir() if p.suffix in (".json", ".safetensors", ".txt", ".jinja")):
        size = path.stat().st_size
        digest.update(f"{path.name} {size}\n".encode())
        with open(path, "rb") as file:
            for i in range(BLOCKS if size > BLOCKS * BLOCK else 1):
                file.seek(i * (size - BLOCK) // (BLOCKS - 1) if size > BLOCKS * BLOCK else 0)
                digest.update(file.read(BLOCK if size > BLOCKS * BLOCK else -1))
    return digest.hexdigest()


def engine_commit():
    """The version, and in a checkout its commit."""
    root = Path(__file__).resolve().parents[1]
    if not (root / ".git").exists():
        return __version__
    try:
        told = subprocess.run(
            ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"], capture_output=True
        )
    except OSError:
        return __version__
    return f"{__version__}+{told.stdout.decode().strip()}" if told.returncode == 0 else __version__
