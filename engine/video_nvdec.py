"""What the decoding engines of an NVIDIA GPU take, asked of its driver."""

import ctypes
from functools import cache

import torch

from .capture_turns import TURNS

# cudaVideoCodec of the driver's interface by FFmpeg's names.
CODECS = {"mpeg2video": 1, "mpeg4": 2, "h264": 4, "mjpeg": 5, "hevc": 8, "vp8": 9, "vp9": 10, "av1": 11}
YUV420 = 1


class _Capabilities(ctypes.Structure):
    """CUVIDDECODECAPS: what is asked, then what is answered."""

    _fields_ = [
        ("codec", ctypes.c_int), ("chroma", ctypes.c_int), ("depth_over_8", ctypes.c_uint), ("_reserved", ctypes.c_uint * 3),
        ("supported", ctypes.c_ubyte), ("engines", ctypes.c_ubyte), ("formats", ctypes.c_ushort), ("max_width", ctypes.c_uint),
        ("max_height", ctypes.c_uint), ("max_macroblocks", ctypes.c_uint), ("min_width", ctypes.c_ushort), ("min_height", ctypes.c_ushort),
        ("_histogram", ctypes.c_ubyte * 4), ("_reserved_more", ctypes.c_uint * 10),
    ]  # fmt: skip


@cache
def capabilities(codec, device="cuda"):
    """{"engines", "min": (width, height), "max": (width, height), "max_macroblocks"} for 8-bit 4:2:0 `codec` (FFmpeg's name), or None."""
    if codec not in CODECS or not torch.cuda.is_available():
        return None
    try:
        library = ctypes.CDLL("libnvcuvid.so.1")
    except OSError:
        return None
    asked = _Capabilities(codec=CODECS[codec], chroma=YUV420)
    with TURNS.device_waits(), torch.cuda.device(device):
        torch.cuda.current_stream().synchronize()  # the driver answers for the context of this thread
        failed = library.cuvidGetDecoderCaps(ctypes.byref(asked))
    if failed or not asked.supported:
        return None
    return {
        "engines": asked.engines,
        "min": (asked.min_width, asked.min_height),
        "max": (asked.max_width, asked.max_height),
        "max_macroblocks": asked.max_macroblocks,
    }
