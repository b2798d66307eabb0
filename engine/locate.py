"""From what the user names to a directory on disk: a path, the built-in model or adapter, or a hub id."""

from importlib import resources
from pathlib import Path

from .errors import CheckpointError

BUILT_IN = ("tiny",)
ADAPTERS = ("tiny-evolved",)
WANTED = ["*.json", "*.safetensors", "*.txt", "*.jinja"]  # never code, never pickles


def locate(name):
    """Directory of the checkpoint `name`. Raises CheckpointError when there is none."""
    if str(name) in BUILT_IN:  # first: a folder of that name may stand where the user does; ./tiny means the folder
        return asset(name)
    if Path(name).is_dir():
        return Path(name)
    if str(name).count("/") != 1 or str(name).startswith((".", "/", "~")):
        raise CheckpointError(f'{name}: no such directory; give a checkpoint directory, a hub id "owner/name", or "{BUILT_IN[0]}"')
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(str(name), allow_patterns=WANTED))
    except Exception as error:
        raise CheckpointError(
            f"{name}: no such directory, and it cannot be fetched from the hub ({type(error).__name__}: {str(error).splitlines()[0]}); "
            "download the checkpoint and give its directory"
        ) from error


def locate_adapter(name):
    """Directory of the adapter `name`: a path, or "tiny-evolved", what "tiny" taught itself; None stays None. Raises CheckpointError."""
    if not name:
        return None
    if str(name) not in ADAPTERS:
        if not Path(name).is_dir():
            raise CheckpointError(f"{name} is not a directory; an adapter is a PEFT directory with adapter_config.json in it")
        return Path(name)
    if not asset(name).is_dir():
        raise CheckpointError(f'the adapter "{name}" is not part of this installation; make one with evostreaming evolve, give its folder')
    return asset(name)


def asset(name):
    return Path(str(resources.files("evostreaming") / "assets" / str(name)))
