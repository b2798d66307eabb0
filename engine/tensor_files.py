"""The safetensors files of a directory, mapped, never copied: names, and one tensor at a time."""

import json
import os
from pathlib import Path
from threading import Thread

from safetensors import SafetensorError, safe_open

from .errors import CheckpointError

PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")


class TensorFiles:
    """A single `<stem>.safetensors` or the shards that `<stem>.safetensors.index.json` lists.

    `names`: every tensor name and its file, in the order of the bytes. Raises CheckpointError if there is nothing to read, if a shard is
    missing, or if a file is truncated or corrupt; pickled weights are refused.
    """

    def __init__(self, directory, stem="model"):
        self.directory = Path(directory)
        self.handles = {}
        self.names = {}
        for file in self.files(stem):
            handle = self.open(file)
            self.handles[file] = handle
            self.names.update(dict.fromkeys(handle.offset_keys(), file))

    def files(self, stem):
        index, single = self.directory / f"{stem}.safetensors.index.json", self.directory / f"{stem}.safetensors"
        if index.is_file():
            try:
                shards = sorted(set(json.loads(index.read_text())["weight_map"].values()))
            except (ValueError, KeyError, TypeError, AttributeError):
                raise CheckpointError(f"{index} is not a safetensors index; fetch the file again") from None
            missing = [name for name in shards if not (self.directory / name).is_file()]
            if missing:
                raise CheckpointError(f"{index} lists {', '.join(missing[:3])} ({len(missing)} missing); fetch them into {self.directory}")
            return [self.directory / name for name in shards]
        if single.is_file():
            return [single]
        pickled = sorted(file.name for pattern in PICKLES for file in self.directory.glob(pattern))
        if pickled:
            raise CheckpointError(
                f"{self.directory} holds only pickled weights ({', '.join(pickled[:3])}), which can run code when opened; "
                f"convert them to safetensors ({stem}.safetensors)"
            )
        raise CheckpointError(f"{self.directory} holds no {stem}.safetensors and no {stem}.safetensors.index.json; fetch the weights")

    def open(self, file):
        try:
            return safe_open(file, framework="pt", device="cpu")
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"{file} cannot be read as safetensors ({error}); it is truncated or corrupt, fetch it again") from None

    def shape(self, name):
        """The shape of a tensor without reading it."""
        return tuple(self.handles[self.names[name]].get_slice(name).get_shape())

    def dtype(self, name):
        """The stored type, as safetensors spells it: "F32", "BF16", ..."""
        return self.handles[self.names[name]].get_slice(name).get_dtype()

    def tensor(self, name):
        """The tensor on the CPU, backed by the mapped file."""
        return self.handles[self.names[name]].get_tensor(name)

    def in_order(self):
        """(name, tensor) of everything as it lies on disk; while one file is used the system reads the next."""
        files = list(self.handles)
        read_soon(files[0])
        for file, following in zip(files, [*files[1:], None]):
            if following is not None:
                read_soon(following)
            for name in self.handles[file].offset_keys():
                yield name, self.tensor(name)


def read_soon(file):
    """Have the system read a file into its page cache, in the background: page faults alone would keep the disk half idle."""

    def ask():
        descriptor = os.open(file, os.O_RDONLY)
        try:
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_WILLNEED)
        finally:
            os.close(descriptor)

    if hasattr(os, "posix_fadvise"):
        Thread(target=ask, daemon=True).start()
