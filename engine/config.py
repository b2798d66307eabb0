"""What a checkpoint is, as data: everything the engine switches on between the five families.

`ModelConfig.from_directory` reads a Hugging Face directory; the readers of each family's own spelling are in `families.py`.
"""

import json
from dataclasses import dataclass, replace
from pathlib import Path

from .errors import CheckpointError


@dataclass(frozen=True)
class DecoderConfig:
    """Sizes and switches of the language decoder.

    `mrope_section`: how many rotary frequencies listen to (time, row, column), None for 1-D positions.
    `deepstack`: how many first layers get visual features added to the visual rows.
    """

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    vocab: int
    rope_theta: float
    rms_eps: float
    qkv_bias: bool
    qk_norm: bool
    mrope_section: tuple[int, ...] | None
    mrope_interleaved: bool
    tied: bool
    deepstack: int


@dataclass(frozen=True)
class VisionConfig:
    """Sizes of a vision tower. `tower` names its file in `engine/vision`; a size that a tower does not have is 0.

    `merge`: a token joins merge x merge patches; `window`: side of an attention window in patches; `full_attention`: blocks without
    windows; `table`: side of the learned position table; `deepstack`: blocks whose output also goes to the decoder; `queries`: tokens of a
    group of frames.
    """

    tower: str
    hidden: int
    layers: int
    heads: int
    intermediate: int
    out_hidden: int
    patch: int
    merge: int
    eps: float = 1e-6
    window: int = 0
    full_attention: tuple[int, ...] = ()
    table: int = 0
    deepstack: tuple[int, ...] = ()
    queries: int = 0


@dataclass(frozen=True)
class PixelConfig:
    """How a frame becomes patch rows.

    `rule`: "smart" (sides to multiples of `unit`, area between `min_pixels` and `max_pixels`), "tile" (`side` x `side`) or "area" (area of
    `side` squared, sides to multiples of `unit`). `merge`: patches are listed in merge x merge squares. `fixed_tokens`: tokens of a frame
    whatever its size; 0 where a token covers unit x unit pixels. `weight_bits`: width of the resize's integer weights, 15 as in PyTorch
    or 23 as in Pillow, whichever the family's processor calls.
    """

    rule: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    patch: int
    merge: int
    unit: int
    min_pixels: int = 0
    max_pixels: int = 0
    side: int = 0
    fixed_tokens: int = 0
    weight_bits: int = 15


@dataclass(frozen=True)
class TurnConfig:
    """The chat format round a frame: `open` + `pad` x n + `close` + `after`, in the order query text, `query_end`, frame.

    `system`: the template's own system text, None if it has none. `think`: what the generation prompt ends with and history leaves out, as
    alternating markers and texts.
    `timestamp`: format of the seconds in front of a frame, None where the family has no such text.
    """

    system: str | None
    open: str
    pad: str
    close: str
    after: str = ""
    query_end: str = ""
    think: tuple[str, ...] = ()
    timestamp: str | None = None


@dataclass(frozen=True)
class ModelConfig:
    """One checkpoint: family name and the data of its parts."""

    family: str
    decoder: DecoderConfig
    vision: VisionConfig
    pixels: PixelConfig
    turn: TurnConfig

    @classmethod
    def from_json(cls, config, preprocessor):
        """Build from the parsed config.json and preprocessor_config.json. Raises CheckpointError for what no family accepts."""
        from .families import read_family

        return read_family(cls, config, preprocessor)

    @classmethod
    def from_directory(cls, path):
        """Read a checkpoint directory: config.json, preprocessor_config.json, and the weights' tensor names.

        The head is tied exactly if the files hold no head: published and re-saved InternVL configs claim a tie that the weights deny.
        Raises CheckpointError if a file is missing or contradicts what the engine supports.
        """
        from .tensor_files import TensorFiles
        from .weight_names import head_names

        path = checkpoint_directory(path)
        config = cls.from_json(read_json(path, "config.json", "sizes and architecture"), read_preprocessor(path))
        require_file(path, "tokenizer.json", "the vocabulary")
        stated = read_json(path, "config.json", "sizes and architecture").get("tie_word_embeddings")
        head_stored = any(name in TensorFiles(path).names for name in head_names(config))
        tied = not head_stored and stated is not False
        return replace(config, decoder=replace(config.decoder, tied=tied))


def checkpoint_directory(path):
    """The directory as a Path; CheckpointError if there is none."""
    path = Path(path)
    if not path.is_dir():
        raise CheckpointError(f"{path} is not a directory; a model is a Hugging Face checkpoint directory or the name of a built-in model")
    return path


def require_file(directory, name, what):
    """The path of a file of the checkpoint; CheckpointError says which file is missing and where it belongs."""
    file = Path(directory) / name
    if not file.is_file():
        raise CheckpointError(f"{name} ({what}) is missing; it belongs in {directory}: copy it from the published checkpoint")
    return file


def read_json(directory, name, what):
    """A JSON object of the checkpoint; CheckpointError if missing or malformed."""
    file = require_file(directory, name, what)
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise CheckpointError(f"{file} is not valid JSON ({error}); fetch the file again") from None
    if not isinstance(value, dict):
        raise CheckpointError(f"{file} holds {type(value).__name__}, expected a JSON object; fetch the file again")
    return value


def read_preprocessor(directory):
    """preprocessor_config.json, or the image processor inside processor_config.json, where transformers 5 saves it."""
    if not (directory / "preprocessor_config.json").is_file() and (directory / "processor_config.json").is_file():
        inner = read_json(directory, "processor_config.json", "image sizes and normalization").get("image_processor")
        if isinstance(inner, dict):
            return inner
    return read_json(directory, "preprocessor_config.json", "image sizes and normalization")
