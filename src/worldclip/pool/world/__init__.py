"""The world pool: pictures with names and keywords in more than 200 languages, from what package registries carry.

Each module reads one part: openmoji, fluent (drawings), territories, emoji_names, cldr (texts).
"""

from worldclip.pool.world.build import build_world

__all__ = ["build_world"]
