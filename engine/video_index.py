"""The packets of a file read without decoding: their times, the key frames, and the pictures that no other one refers to."""

from typing import NamedTuple

import av

from .video_plan import PacketIndex


class Header(NamedTuple):
    """What the first bytes of a packet say of its picture; where they are not understood, the careful answer."""

    leaf: bool = False
    restart: bool = False
    form: bytes | None = None  # size and format of the pictures from here on, if it says them
    own: bool = True  # the packet holds a picture of its own


PLAIN, LEAF = Header(), Header(leaf=True)


def read_index(container, video, tally):
    """PacketIndex of the stream `video` of a container (both PyAV's) whose packets are counted in `tally`; None where it cannot be planned
    with."""
    pts, key, hidden, ends, said = [], [], [], [], []
    header = _reader_of(video.codec_context.name, video.codec_context.extradata or b"")
    try:
        # An hour has a hundred thousand packets: no more than needed for each.
        for packet in container.demux(video):
            if not packet.size:
                break
            time, is_key = packet.pts, packet.is_keyframe
            if time is None:
                return None
            pts.append(time)
            key.append(is_key)
            hidden.append(packet.is_discard)
            ends.append(time + (packet.duration or 0))
            said.append(header(memoryview(packet), is_key))
    except (av.FFmpegError, OSError) as error:
        tally.broken = error
        return None
    kinds = set(said)
    steady = all(kind.own for kind in kinds) and len({kind.form for kind in kinds} - {None}) < 2
    restart = [is_key and one.restart for is_key, one in zip(key, said)]
    index = PacketIndex(pts, key, [one.leaf for one in said], restart, hidden, steady)
    if not index.sound():
        return None
    shown = [i for i, cut in enumerate(hidden) if not cut]
    tally.add([pts[i] for i in shown], [ends[i] for i in shown])
    return index


def _reader_of(codec, extradata):
    sizes = extradata[:1] == b"\1"  # lengths in front of the units of a picture, not start codes
    if codec == "h264":
        length = (extradata[4] & 3) + 1 if sizes else 0
        return lambda data, key: _h264(data, key, length)
    if codec == "hevc":
        length = (extradata[21] & 3) + 1 if sizes else 0
        # A picture says it is no reference within its temporal layer only, so there must be no other.
        one_layer = sizes and extradata[21] >> 3 & 7 == 1
        return lambda data, key: _hevc(data, key, length, one_layer)
    if codec.endswith("vp9"):
        return _vp9
    if codec.endswith("vp8"):
        return _vp8
    plain = Header(restart=True) if codec == "mjpeg" else PLAIN
    return lambda data, key: plain


def _h264(data, key, length):
    """H.264, 7.3.1: the first byte of a unit is nal_ref_idc and its type: 1 a slice, 5 one of an IDR, 7 a sequence parameter set."""
    form = None
    for unit in _units(data, length):
        kind = unit[0] & 31
        if kind == 7:
            form = bytes(unit)
        elif kind in (1, 5):
            leaf = unit[0] >> 5 & 3 == 0
            return Header(leaf, kind == 5, form) if form or kind == 5 else LEAF if leaf else PLAIN
    return Header(form=form)


def _hevc(data, key, length, one_layer):
    """HEVC, 7.3.1.2: types below 32 are slices, even ones below 16 no references, 16 to 20 BLA and IDR; 33 is a sequence parameter set."""
    form = None
    for unit in _units(data, length):
        kind = unit[0] >> 1 & 63
        if kind == 33:
            form = bytes(unit)
        elif kind < 32:
            leaf, restart = one_layer and kind < 16 and kind % 2 == 0, 16 <= kind <= 20
            return Header(leaf, restart, form) if form or restart else LEAF if leaf else PLAIN
    return Header(form=form)


def _vp8(data, key):
    """VP8, 9.1 of RFC 6386: bit 0 of a header is 0 for a key frame, bit 4 says whether the picture is shown."""
    return Header(restart=not data[0] & 1, own=bool(data[0] & 16))


def _vp9(data, key):
    """VP9, 6.2: the first byte of a profile 0 header is 100 0 e t.., e: an earlier picture is shown again, t: 0 for a key frame; behind a
    key frame's sync code stand color and size."""
    return Header(restart=not data[0] & 0x0C, form=bytes(data[4:9]) if key else None, own=data[0] & 0xF8 != 0x88)


def _units(data, length):
    """The units of a packet, each preceded by `length` bytes that give its size, or by a start code where that is 0."""
    at = 0
    while length and at + length < len(data):
        begin = at + length
        at = begin + int.from_bytes(data[at:begin])
        if begin < at:
            yield data[begin:at]
    if not length:
        # The first slice begins soon, if it can be found at all.
        for unit in bytes(data[:4096]).split(b"\0\0\1")[1:]:
            if unit := unit.rstrip(b"\0"):
                yield unit
