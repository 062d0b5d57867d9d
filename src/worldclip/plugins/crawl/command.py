"""The command `pool wat`."""

import json

from worldclip.core.command import Command
from worldclip.plugins.crawl.wat import build_wat

POOL_WAT = Command(build_wat, lambda report, flags: json.dumps(report, ensure_ascii=False, indent=1))
"""Extract image links and their texts from Common Crawl WAT files, ready for img2dataset."""
