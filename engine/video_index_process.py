"""Processes that read the indexes of long files. Ten minutes of video have 15,000 packets; going through them in Python holds up whatever
else this process does in Python, and is held up by it: beside a few busy threads a file takes a second instead of a tenth.

`python -m evostreaming.engine.video_index_process` answers lines on its standard input until that ends: a JSON array of what FFmpeg opens
and the stream's number in, a JSON object out. It imports PyAV and nothing large.
"""

import atexit
import json
import os
import subprocess
import sys
import threading

import av

from .video_index import read_index
from .video_packets import Tally, open_container, read_alone
from .video_plan import PacketIndex

LONG = 2000  # packets from which on a process is asked
MOST = 4  # processes


def answer(address, number):
    """The index of stream `number` of a file, and how its packets were counted, as JSON types."""
    tally = Tally()
    with open_container(address) as container:
        video = container.streams[number]
        read_alone(container, video)
        index = read_index(container, video, tally)
    return {"index": index and list(index), "tally": [tally.packets, tally.reached, tally.longest_step]}


class IndexReaders:
    """Up to `most` processes; each begins when it is needed and waits for the next file."""

    def __init__(self, most):
        self._places, self._lock, self._idle = threading.BoundedSemaphore(most), threading.Lock(), []

    def read(self, address, number):
        """(PacketIndex or None, Tally), as `read_index` has them. Raises OSError where no process answers."""
        with self._places:
            with self._lock:
                process = self._idle.pop() if self._idle else None
            process = process or _begun()
            try:
                process.stdin.write(json.dumps([address, number]) + "\n")
                process.stdin.flush()
                found = json.loads(process.stdout.readline())
            except ValueError as error:
                process.kill()
                raise OSError("the process that reads indexes has ended") from error
            except BaseException:
                process.kill()
                raise
            with self._lock:
                self._idle.append(process)
        tally = Tally()
        tally.packets, tally.reached, tally.longest_step = found["tally"]
        return found["index"] and PacketIndex(*found["index"]), tally

    def close(self):
        """End the processes that wait."""
        while self._idle:
            process = self._idle.pop()
            process.kill()
            process.communicate()


def _begun():
    command = [sys.executable, "-P", "-m", __name__]  # without -P whatever lies in the working folder under a library's name would be run
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)


def main():
    for line in sys.stdin:
        try:
            found = answer(*json.loads(line))
        except (av.FFmpegError, OSError):
            found = {"index": None, "tally": [0, None, 0]}  # whoever decodes the file says what is wrong with it
        print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
else:
    READERS = IndexReaders(min(MOST, len(os.sched_getaffinity(0))))
    atexit.register(READERS.close)
