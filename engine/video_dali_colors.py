"""From the RGB that DALI gives to the colors that a file says."""

import numpy as np

# Numbers of color matrices (ITU-T H.273). DALI converts every video as BT.601, which is what those that say nothing get.
BT709, BT601 = 1, (2, 5, 6)


def _to_rgb(red, blue):
    """(3, 3) from brightness and color differences to RGB; the shares of red and blue in the brightness are what matrices differ in."""
    green = 1 - red - blue
    return np.array([[1, 0, 2 - 2 * red], [1, (2 * blue - 2) * blue / green, (2 * red - 2) * red / green], [1, 2 - 2 * blue, 0]])


def _too_much(black, reach, color_reach):
    return (_to_rgb(0.299, 0.114) @ [black * 255 / reach, 0.5 * 255 / color_reach, 0.5 * 255 / color_reach]).tolist()


AS_IT_IS = np.eye(3).tolist()
# From RGB decoded with the matrix of BT.601 to what that of BT.709 gives.
FROM_601 = (_to_rgb(0.2126, 0.0722) @ np.linalg.inv(_to_rgb(0.299, 0.114))).tolist()
# What DALI 2.4 adds to red, green and blue on a GPU. There it works on values over 255 and takes 1/16 for 16 and 1/2 for 128, which stand
# for 15.94 and 127.5: gray becomes (+0.9, -0.5, +1.1). By whether black is 0 and white 255, or 16 and 235.
TOO_MUCH = {False: _too_much(16 - 255 / 16, 219, 224), True: _too_much(0, 255, 255)}


def colors_of(file, device):
    """(matrix, offset), as `recolor` takes them, for what DALI decodes of `file` (a VideoFile) on `device`."""
    matrix = FROM_601 if file.matrix == BT709 else None
    return (matrix,) if device.type == "cpu" else (matrix or AS_IT_IS, TOO_MUCH[file.full_range])
