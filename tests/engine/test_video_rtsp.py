"""A camera that speaks RTSP (RFC 2326), played by a server that sends RTP packets between its answers."""

import socket
import struct
import threading
import time
from contextlib import suppress
from fractions import Fraction

import av

from evostreaming.engine.video import open_source

SDP = "v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=camera\r\nt=0 0\r\nm=video 0 RTP/AVP 96\r\na=rtpmap:96 H264/90000\r\na=control:track\r\n"
FPS = 25


class Camera(threading.Thread):
    """Serves one connection after the other; connection k sends `counts[k]` pictures, of `film`, and breaks off."""

    def __init__(self, film, *counts):
        super().__init__(daemon=True)
        self.film, self.counts, self.sent, self.asked = film, counts, 0, []
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.address = f"rtsp://user:secret@127.0.0.1:{self.socket.getsockname()[1]}/live"

    def run(self):
        for count in self.counts:
            connection, _ = self.socket.accept()
            with suppress(OSError), connection, connection.makefile("rb") as requests:  # who watches may leave
                self.answer(connection, requests, count)
        self.socket.close()

    def answer(self, connection, requests, count):
        while line := requests.readline().decode():
            method, fields = line.split()[0], {}
            while line := requests.readline().decode().strip():
                name, _, value = line.partition(": ")
                fields[name.lower()] = value
            self.asked.append(method)
            answer = f"RTSP/1.0 200 OK\r\nCSeq: {fields['cseq']}\r\nSession: 1\r\n"
            body = SDP if method == "DESCRIBE" else ""
            answer += f"Transport: {fields['transport']}\r\n" if method == "SETUP" else ""
            answer += f"Content-Type: application/sdp\r\nContent-Length: {len(body)}\r\n" if body else ""
            connection.sendall((answer + "\r\n" + body).encode())
            if method == "PLAY":
                return self.play(connection, count)

    def play(self, connection, count):
        """RTP packets, which FFmpeg makes, each behind a dollar, its channel and its length (10.12)."""
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as packets:
            packets.bind(("127.0.0.1", 0))
            packets.settimeout(0.02)
            with av.open(f"rtp://127.0.0.1:{packets.getsockname()[1]}", "w", format="rtp") as target:
                stream = target.add_stream("libx264", rate=FPS, options={"tune": "zerolatency", "g": "5"})
                stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
                for i in range(count):
                    frame = av.VideoFrame.from_ndarray(self.film.picture(self.sent), format="rgb24")
                    frame.pts, frame.time_base = i, Fraction(1, FPS)
                    target.mux(stream.encode(frame))
                    self.sent += 1
                    self.forward(packets, connection)
                    time.sleep(1 / FPS)

    def forward(self, packets, connection):
        while True:
            try:
                data = packets.recv(65536)
            except TimeoutError:
                return
            connection.sendall(b"$\0" + struct.pack(">H", len(data)) + data)


def test_a_camera_is_watched_live_and_again_when_its_connection_breaks(film):
    camera = Camera(film, 60, 190)
    camera.start()
    shown, times = [], []
    with open_source(camera.address) as source:
        assert source.live and (source.width, source.height, source.duration) == (64, 48, None)
        for frame in source:
            shown.append(film.number(frame.pixels))
            times.append(frame.time)
            if shown[-1] >= 70:
                break
    assert camera.asked[:4] == ["OPTIONS", "DESCRIBE", "SETUP", "PLAY"] and camera.asked.count("PLAY") == 2
    assert shown[0] < 60 and len(shown) > 5 and shown == sorted(set(shown))
    assert times == sorted(set(times))
