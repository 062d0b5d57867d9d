"""The command `pool emoji`."""

from worldclip.core.command import Command
from worldclip.plugins.emoji.build import build_emoji

POOL_EMOJI = Command(build_emoji, lambda report, flags: str(flags.out))
"""Draw the emoji pool: 3,944 images with names in 14 languages, and two held-out sets."""
