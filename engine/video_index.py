"""The packets of a file read without decoding: their times, the key frames, and the pictures that no other one refers to."""

from typing import NamedTuple

from .video_plan import PacketIndex


class Header(NamedTuple):
    """What the first bytes of a packet say of its picture; where they are not understood, the careful answer."""

    leaf: bool = False
    restart: bool = False
    form: bytes | None = None  # size and format of the pictures from here on, if it says them
    own: bool = True  # the packet holds a picture of its own


def read_index(packets, video):
    """PacketIndex of `packets` of the stream `video` (PyAV), or None where it cannot be planned with."""
    index = PacketIndex([], [], [], [], [])
    codec, extradata = video.codec_context.name, video.codec_context.extradata or b""
    header, forms, own = _reader_of(codec, extradata), set(), True
    for packet in packets:
        if packet.pts is None:
            return None
        said = header(memoryview(packet), packet.is_keyframe)
        forms.add(said.form)
        own = own and said.own
        index.pts.append(packet.pts)
        index.key.append(packet.is_keyframe)
        index.leaf.append(said.leaf)
        index.restart.append(packet.is_keyframe and said.restart)
        index.hidden.append(packet.is_discard)
    return index._replace(steady=own and len(forms - {None}) < 2) if index.sound() else None


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
    return lambda data, key: Header(restart=codec == "mjpeg")


def _h264(data, key, length):
    """H.264, 7.3.1: the first byte of a unit is nal_ref_idc and its type: 1 a slice, 5 one of an IDR, 7 a sequence parameter set."""
    form = None
    for unit in _units(data, length):
        kind = unit[0] & 31
        if kind == 7:
            form = bytes(unit)
        elif kind in (1, 5):
            return Header(leaf=unit[0] >> 5 & 3 == 0, restart=kind == 5, form=form)
    return Header(form=form)


def _hevc(data, key, length, one_layer):
    """HEVC, 7.3.1.2: types below 32 are slices, even ones below 16 no references, 16 to 20 BLA and IDR; 33 is a sequence parameter set."""
    form = None
    for unit in _units(data, length):
        kind = unit[0] >> 1 & 63
        if kind == 33:
            form = bytes(unit)
        elif kind < 32:
            return Header(leaf=one_layer and kind < 16 and kind % 2 == 0, restart=16 <= kind <= 20, form=form)
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
