"""What `evostreaming info` tells: versions, devices, ops, decoders, and what one stream of a checkpoint costs."""

import os
import platform
from importlib import metadata
from math import prod

from rich.table import Table

from . import __version__

SIZES = ((448, 448), (360, 640), (720, 1280), (1080, 1920))  # (height, width) people stream at
GIB = 2**30


def describe_machine():
    """Facts about this installation as plain JSON values."""
    import torch

    from .engine.implementations import implementations

    kinds = ["cpu"] + ["cuda"] * torch.cuda.is_available()
    return {
        "versions": {
            "evostreaming": __version__,
            "python": platform.python_version(),
            **{name: installed(name) for name in ("torch", "transformers", "triton", "av")},
            "cuda": torch.version.cuda,
        },
        "devices": [device_facts(name) for name in ["cpu", *(f"cuda:{index}" for index in range(torch.cuda.device_count()))]],
        "ops": {kind: implementations(kind) for kind in kinds},
        "video_decoders": video_decoders(),
    }


def installed(name):
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def device_facts(name):
    """Name and memory (GiB, all and free) of `cpu` or `cuda:<index>`."""
    import torch

    from .engine.cache import free_bytes

    free = free_bytes(torch.device(name))
    if name == "cpu":
        size = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        what = f"{platform.machine()}, {torch.get_num_threads()} threads"
    else:
        properties = torch.cuda.get_device_properties(name)
        size = torch.cuda.mem_get_info(name)[1]
        what = f"{properties.name}, compute capability {properties.major}.{properties.minor}"
    return {"device": name, "what": what, "memory_gib": round(size / GIB, 1), "free_gib": round((size if free is None else free) / GIB, 1)}


def video_decoders():
    """The codecs that the FFmpeg inside PyAV decodes, among those that cameras and files use, and where each is decoded by default."""
    import av

    from .engine.video import where_decoded

    wanted = ("h264", "hevc", "vp8", "vp9", "av1", "mpeg4", "mpeg2video", "mjpeg")
    codecs = [name for name in wanted if name in av.codecs_available]
    return {
        "library": f"PyAV {av.__version__}",
        "dali": installed("nvidia-dali-cuda130"),
        "codecs": codecs,
        "decoded_on": where_decoded(codecs),
    }


def describe_model(model, device="auto", dtype="auto", max_tokens=16384):
    """Sizes of a checkpoint and what a stream of `max_tokens` costs on `device`. Raises CheckpointError."""
    from .engine.cache import PAGE, bytes_per_token, most_pages
    from .engine.config import ModelConfig
    from .engine.device import choose_device, choose_dtype
    from .engine.graphs import KEPT, SHARE
    from .engine.locate import locate
    from .engine.pixels import frame_size

    directory = locate(model)
    config = ModelConfig.from_directory(directory)
    device = choose_device(device)
    dtype = choose_dtype(dtype, device)
    decoder, vision = config.decoder, config.vision
    count = parameters(directory)
    weights, token = count * dtype.itemsize, bytes_per_token(decoder, dtype)
    stream = most_pages(max_tokens) * PAGE * token
    facts = device_facts("cpu" if device.type == "cpu" else f"cuda:{device.index or 0}")
    return {
        "path": str(directory),
        "family": config.family,
        "decoder": f"{decoder.layers} layers of {decoder.hidden}, {decoder.heads} heads on {decoder.kv_heads} of {decoder.head_dim}",
        "vision": f"{vision.layers} layers of {vision.hidden}, patches of {vision.patch} pixels",
        "parameters": count,
        "dtype": str(dtype).removeprefix("torch."),
        "device": facts["device"],
        "tokens_per_frame": {
            f"{width}x{height}": config.pixels.fixed_tokens or prod(frame_size(config.pixels, height, width)) // config.pixels.unit**2
            for height, width in SIZES
        },
        "kv_bytes_per_token": token,
        "max_tokens": max_tokens,
        "stream_mib": round(stream / 2**20, 1),
        "weights_gib": round(weights / GIB, 2),
        "captures": {"kept": KEPT, "gib": round(facts["memory_gib"] / SHARE, 1)} if device.type == "cuda" else None,
        "streams_that_fit": max(0, int((facts["free_gib"] * GIB - weights) // stream)),
    }


def parameters(directory):
    """Number of weights in the safetensors files that the engine would load, read from their headers."""
    from .engine.tensor_files import TensorFiles

    files = TensorFiles(directory)
    return sum(prod(files.shape(name)) for name in files.names)


def print_tables(facts, console):
    """The facts of `describe_machine` (and `describe_model` under "model") for a reader."""
    console.print(rows("versions", {name: value or "not installed" for name, value in facts["versions"].items()}))
    devices = {item["device"]: f"{item['what']}, {item['memory_gib']} GiB ({item['free_gib']} free)" for item in facts["devices"]}
    console.print(rows("devices", devices))
    for kind, ops in facts["ops"].items():
        console.print(rows(f"ops on {kind}", ops))
    decoders = facts["video_decoders"]
    places = {}
    for codec, place in decoders["decoded_on"].items():
        places[f"on {place}"] = f"{places.get(f'on {place}', '')} {codec}".strip()
    library = decoders["library"] + (f", DALI {decoders['dali']}" if decoders["dali"] else "")
    console.print(rows(f"video ({library})", places))
    if "model" in facts:
        model = facts["model"]
        frame = ", ".join(f"{count} at {size}" for size, count in model["tokens_per_frame"].items())
        shown = {
            **{key: model[key] for key in ("path", "family", "decoder", "vision")},
            "weights": f"{model['parameters'] / 1e6:,.1f} million, {model['weights_gib']} GiB as {model['dtype']}",
            "tokens a frame": frame,
            "cache a token": f"{model['kv_bytes_per_token']:,} bytes",
            "cache a stream": f"{model['stream_mib']} MiB for {model['max_tokens']} tokens",
            "captures": "at most {kept}, in about {gib} GiB".format(**model["captures"]) if model["captures"] else "none here",
            "streams that fit": f"{model['streams_that_fit']} on {model['device']}, weights and cache alone",
        }
        console.print(rows("model", shown))


def rows(title, pairs):
    table = Table(title=title, title_justify="left", title_style="bold", show_header=False, box=None, padding=(0, 2, 0, 0))
    table.add_column(style="cyan", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in pairs.items():
        table.add_row(name, str(value))
    return table
