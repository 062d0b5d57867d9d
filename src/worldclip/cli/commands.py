"""Our commands: name -> module and object, which is imported when the command runs."""

from __future__ import annotations

SECTIONS = {
    "Recipe": {
        "run": "worldclip.cli.stages:RUN",
        "init": "worldclip.tools.draft_recipe:INIT",
        "status": "worldclip.tools.status:STATUS",
    },
    "Pools": {
        "pool check": "worldclip.tools.check_pool:check_pool",
        "pool dedup": "worldclip.tools.dedup:dedup_pool",
    },
    "Entry lists": {"fetch metadata": "worldclip.cli.fetch:FETCH_METADATA"},
    "Models": {
        "classify": "worldclip.tools.models:classify",
        "evaluate MODEL": "worldclip.tools.models:evaluate",
        "export MODEL": "worldclip.tools.models:export",
        "fetch dataset": "worldclip.tools.fetch_dataset:FETCH_DATASET",
        "consolidate": "worldclip.tools.models:consolidate",
    },
    "Looking": {
        "languages": "worldclip.tools.list_languages:list_languages",
        "doctor": "worldclip.tools.doctor:DOCTOR",
        "estimate": "worldclip.tools.estimate:ESTIMATE",
        "inspect": "worldclip.tools.inspect_run:inspect",
        "compare": "worldclip.tools.models:compare_runs",
        "embed": "worldclip.tools.embed:EMBED",
        "search": "worldclip.tools.search:SEARCH",
    },
    "Plug-ins": {
        "pool emoji": "worldclip.plugins.emoji.build:POOL_EMOJI",
        "pool world": "worldclip.plugins.world.commands:pool_world",
        "pool pack": "worldclip.plugins.pack_files:POOL_PACK",
        "pool wat": "worldclip.plugins.crawl.wat:POOL_WAT",
        "publish": "worldclip.plugins.publish.publish:publish",
        "explore": "worldclip.plugins.explorer.explore:EXPLORE",
        "serve": "worldclip.plugins.server.serve:SERVE",
    },
}
"""Section of `worldclip --help` -> its commands, in their order.  MODEL in a name stands for any model in place of a
recipe or a run.  Commands of other packages are added to the plug-ins."""
