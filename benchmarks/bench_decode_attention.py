"""decode_attention, one new token a stream, against the peers of append_attention; see bench_append_attention.py. Nothing is masked here.

    python -m benchmarks.bench_decode_attention [--refcheck] [--alone]
"""

from .bench_append_attention import HEADS, cases
from .cases import main, speed_of

SHAPES = {
    f"{heads}/{kv_heads} heads, B={streams}, 16384": (heads, kv_heads, 1, streams, 16384) for heads, kv_heads in HEADS for streams in (1, 8)
}

test_speed = speed_of(SHAPES, cases)

if __name__ == "__main__":
    main(__doc__, SHAPES, cases)
