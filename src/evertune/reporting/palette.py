"""Colours that colour-blind people can tell apart, and text that can be read on them."""

from __future__ import annotations

# Okabe and Ito's set without its yellow, which cannot be seen on white, and with two darker hues; a second round over
# them is dashed.
LINES = ("#0072B2", "#D55E00", "#009E73", "#AA4499", "#E69F00", "#56B4E9", "#882255", "#555555")
# The same hues for a dark page.
LINES_DARK = ("#4FA8DC", "#F28C45", "#34C49C", "#D98BCB", "#F2BE4A", "#8FD0F5", "#D76C98", "#B5B5B5")
DASHES = ("", "5 3")

# One hue, lightness falls steadily: order survives any colour blindness and a grey printer.
_SCALE = ((247, 251, 255), (209, 226, 243), (154, 200, 225), (82, 157, 204), (28, 108, 177), (8, 48, 107))
# Pure black and white: the better of them always reaches the contrast of 4.5 that text needs.
_DARK_TEXT, _LIGHT_TEXT = "#000000", "#ffffff"


def heat(value: float) -> str:
    """Background of a score in [0, 1], as ``#rrggbb``: pale for 0, deep blue for 1."""
    position = min(1.0, max(0.0, value)) * (len(_SCALE) - 1)
    index = min(int(position), len(_SCALE) - 2)
    share = position - index
    channels = (round(a + (b - a) * share) for a, b in zip(_SCALE[index], _SCALE[index + 1], strict=True))
    return "#" + "".join(f"{channel:02x}" for channel in channels)


def luminance(colour: str) -> float:
    """Relative luminance of ``#rrggbb``, 0 for black and 1 for white (WCAG 2)."""
    channels = [int(colour[start : start + 2], 16) / 255 for start in (1, 3, 5)]
    linear = [channel / 12.92 if channel <= 0.04045 else ((channel + 0.055) / 1.055) ** 2.4 for channel in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    """Contrast ratio of two colours, 1 to 21 (WCAG 2); text needs 4.5."""
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def text_on(background: str) -> str:
    """The better readable of dark and light text on a background."""
    return max((_DARK_TEXT, _LIGHT_TEXT), key=lambda text: contrast(text, background))
