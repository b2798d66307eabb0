"""The packets that a plan decodes, fetched from the file: by jumps to its key frames, where much lies between."""

from contextlib import ExitStack
from itertools import chain, islice

import av

FAR = 8  # packets that nobody wants in front of a key frame: to read so many takes longer than a jump


class Damaged(Exception):
    """Decoding by a plan, or on several threads, met damage, or packets that are not as the index says."""


def planned_packets(file, container, plan):
    """Yield (place in the index, packet) of what `plan` decodes, and count it in `file`, a VideoFile.

    container: `file` as opened by PyAV and not read yet; its own decoders are emptied at every jump. Raises Damaged where the file is not
    as its index says.
    """
    index, reached, jumps = plan.index, 0, True
    places = {pts: place for place, (pts, key) in enumerate(zip(index.pts, index.key)) if key}
    packets = container.demux(file.video_of(container))
    with ExitStack() as opened:
        for place in range(plan.stop):
            if not plan.feed[place]:
                continue
            try:
                following = reached
                if jumps and index.key[place] and place - reached >= FAR:
                    landed, packets = _jump(container, file.video_of(container), index.pts[place])
                    following = places.get(landed, len(index.pts))
                    jumps = reached <= following <= place  # else the container's own index is coarse, or there is none
                    if following > place:  # who knows where: from the front then
                        container, following = opened.enter_context(file.open()), 0
                        packets = container.demux(file.video_of(container))
                packet = next(islice(packets, place - following, None), None)
            except (av.FFmpegError, OSError) as error:
                raise Damaged from error
            if packet is None or packet.pts != index.pts[place]:
                raise Damaged
            file.skipped += place - reached
            file.decoded += 1
            reached = place + 1
            yield place, packet


def _jump(container, video, pts):
    """(pts of the key frame that the container finds for `pts`, or None; its packets from there on). It may be one before the right one."""
    try:
        container.seek(pts, stream=video, backward=True, any_frame=False)
        packets = container.demux(video)
        first = next(packets)
    except (av.FFmpegError, OSError):
        return None, None
    return first.pts if first.is_keyframe else None, chain([first], packets)


def stretches(plan, video, packets):
    """Yield (packet of the last jump, decoded frames). The decoder is emptied at the end, and at each jump that it would not notice by
    itself; at the others it goes on at full speed."""
    jump, begun = 0, False
    for place, packet in packets:
        if place in plan.jumps and begun and not plan.index.restart[place]:
            yield jump, video.decode(None)
            video.codec_context.flush_buffers()
            jump = place
        begun = True
        yield jump, video.decode(packet)
    yield jump, video.decode(None)
