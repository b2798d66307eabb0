"""Loading a checkpoint of published size: seconds, bytes a second, and host memory above the mapped files.

    python -m benchmarks.bench_load [--model qwen2.5-vl-7b] [--directory DIR] [--json FILE]

Writes a sharded bfloat16 checkpoint with hub names and random weights (16.6 GB for Qwen2.5-VL-7B), then loads it with
`Engine.from_pretrained` in a fresh process: once with the files dropped from the page cache, once with them in it. The raw rate of the
disk, one shard read cold, stands beside. Host memory is the peak of RssAnon + RssShmem while loading, which leaves mapped file pages
out; "before" is what Python, torch and a CUDA context take by themselves. A step at the end shows that the model runs.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from threading import Event, Thread

import torch
from safetensors.torch import save_file

from evostreaming.engine.checkpoint import allocate, placements
from evostreaming.engine.config import ModelConfig
from evostreaming.engine.engine import Engine
from evostreaming.engine.weight_names import LAYOUTS

from .random_checkpoint import MODELS, read_config, write_tokenizer

SHARD = 4e9  # bytes
GB = 1e9


def published_shapes(config):
    """{tensor name: shape} of a checkpoint under its family's first published names."""
    model = allocate(config, "meta", torch.bfloat16)
    shapes = {}
    for name, places in placements(model, LAYOUTS[config.family][0]).items():
        shape = next(place.shape for place in places if not place.fold)
        pairs = any(place.fold for place in places)
        shapes[name] = (shape[0], 3, 2, config.vision.patch, config.vision.patch) if pairs else shape
    return shapes


def write_checkpoint(name, directory, device):
    """A complete checkpoint directory, one shard in memory at a time."""
    config, preprocessor = read_config(name)
    for file, content in (("config.json", config), ("preprocessor_config.json", preprocessor)):
        (directory / file).write_text(json.dumps(content))
    write_tokenizer(name, directory)
    shards, size = [[]], 0
    for tensor, shape in published_shapes(ModelConfig.from_json(config, preprocessor)).items():
        length = 2 * torch.Size(shape).numel()
        if size + length > SHARD and shards[-1]:
            shards.append([])
            size = 0
        shards[-1].append((tensor, shape))
        size += length
    generator = torch.Generator(device).manual_seed(0)
    weight_map = {}
    for index, shard in enumerate(shards):
        file = f"model-{index + 1:05}-of-{len(shards):05}.safetensors"
        tensors = {}
        for tensor, shape in shard:
            mean, std = (0.0, torch.Size(shape[1:]).numel() ** -0.5) if len(shape) > 1 else (float(not tensor.endswith("bias")), 0.1)
            values = torch.empty(shape, dtype=torch.bfloat16, device=device).normal_(mean, std, generator=generator)
            tensors[tensor] = values.cpu()
        save_file(tensors, directory / file)
        weight_map |= dict.fromkeys(tensors, file)
    (directory / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


def weight_files(directory):
    return sorted(directory.glob("*.safetensors"))


def drop_from_page_cache(file):
    descriptor = os.open(file, os.O_RDONLY)
    os.fsync(descriptor)  # only clean pages can be dropped
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(descriptor)


def disk_rate(file):
    """Bytes a second of one cold sequential read."""
    drop_from_page_cache(file)
    buffer, size, begin = bytearray(1 << 24), 0, time.perf_counter()
    with open(file, "rb", buffering=0) as stream:
        while got := stream.readinto(buffer):
            size += got
    return size / (time.perf_counter() - begin)


def memory():
    """(anonymous and shared bytes, mapped file bytes) of this process."""
    lines = (line.split() for line in Path("/proc/self/status").read_text().splitlines())
    kib = {line[0][:-1]: int(line[1]) for line in lines if line[0].startswith("Rss")}
    return 1024 * (kib["RssAnon"] + kib["RssShmem"]), 1024 * kib["RssFile"]


class MemoryPeak:
    """Samples `memory()` every few milliseconds inside a `with` block."""

    def __enter__(self):
        self.before, _ = memory()
        self.peak, self.mapped, self.done = self.before, 0, Event()
        self.thread = Thread(target=self.watch)
        self.thread.start()
        return self

    def watch(self):
        while not self.done.wait(0.004):
            private, mapped = memory()
            self.peak, self.mapped = max(self.peak, private), max(self.mapped, mapped)

    def __exit__(self, *error):
        self.done.set()
        self.thread.join()


def load(directory, device):
    """What the fresh process does: load, show one frame, print the numbers as JSON."""
    torch.zeros(1, device=device)
    with MemoryPeak() as seen:
        begin = time.perf_counter()
        engine = Engine.from_pretrained(directory, device=device, dtype="bfloat16", max_streams=1, max_tokens=2048)
        if device == "cuda":
            torch.cuda.synchronize()
        seconds = time.perf_counter() - begin
    step = engine.step(torch.randint(0, 256, (448, 448, 3), dtype=torch.uint8), force=False)
    row = {"seconds": seconds, "before_gb": seen.before / GB, "peak_gb": seen.peak / GB, "mapped_gb": seen.mapped / GB}
    print(json.dumps(row | {"probability": step.probability}))


def measure(name, directory, device):
    """Write, then load cold and warm."""
    began = time.perf_counter()
    write_checkpoint(name, directory, device)
    files = weight_files(directory)
    size = sum(file.stat().st_size for file in files)
    result = {"model": name, "bytes": size, "shards": len(files), "write_seconds": time.perf_counter() - began}
    result["disk_gb_per_s"] = disk_rate(files[0]) / GB
    for state in ("cold", "warm"):
        if state == "cold":
            for file in files:
                drop_from_page_cache(file)
        command = [sys.executable, "-m", "benchmarks.bench_load", "--load", str(directory), "--device", device]
        row = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()[-1])
        result[state] = row | {"gb_per_s": size / GB / row["seconds"]}
    return result


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="qwen2.5-vl-7b", choices=list(MODELS))
    parser.add_argument("--directory", help="where the checkpoint is written and removed again; needs 17 GB")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--json")
    parser.add_argument("--load", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.load:
        return load(options.load, options.device)
    with tempfile.TemporaryDirectory(dir=options.directory) as directory:
        result = measure(options.model, Path(directory), options.device)
    where = torch.cuda.get_device_name() if options.device == "cuda" else "CPU"
    files = f"{result['bytes'] / GB:.1f} GB in {result['shards']} shards"
    print(f"{where}: {result['model']}, {files}, disk {result['disk_gb_per_s']:.2f} GB/s")
    print("\n| files | seconds | GB/s | host memory peak GB | of it before | mapped GB |\n|---|---|---|---|---|---|")
    for state in ("cold", "warm"):
        row = result[state]
        memory_columns = f"{row['peak_gb']:.2f} | {row['before_gb']:.2f} | {row['mapped_gb']:.1f}"
        print(f"| {state} | {row['seconds']:.2f} | {row['gb_per_s']:.2f} | {memory_columns} |")
    if options.json:
        Path(options.json).write_text(json.dumps(result | {"gpu": where, "torch": torch.__version__}, indent=1))


if __name__ == "__main__":
    main()
