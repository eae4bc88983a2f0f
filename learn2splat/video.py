"""Films as MP4 files (H.264), through PyAV."""

from __future__ import annotations

import io
from collections.abc import Iterable

import numpy as np
from torch import Tensor


def mp4(pictures: Iterable[Tensor], fps: int = 30, quality: int = 20) -> bytes:
    """An MP4 file that any browser plays.

    Args:
        pictures: [H, W, 3] each, in 0..1, of one size with even sides.
        fps: pictures a second.
        quality: H.264's constant rate factor, 0 (lossless) to 51; 6 more halve the size.

    Raises:
        ValueError: there are no pictures, or a side is odd.
    """
    import av

    stream_bytes = io.BytesIO()
    with av.open(stream_bytes, "w", format="mp4") as container:
        stream = None
        for picture in pictures:
            height, width = picture.shape[:2]
            if stream is None:
                if height % 2 or width % 2:
                    raise ValueError(f"a film of {width} x {height}: both sides must be even")
                stream = container.add_stream("libx264", rate=fps, options={"crf": str(quality)})
                stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
            pixels = (picture.clamp(0, 1) * 255).round().byte().numpy()
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")))
        if stream is None:
            raise ValueError("a film of no pictures")
        container.mux(stream.encode(None))
    return stream_bytes.getvalue()
