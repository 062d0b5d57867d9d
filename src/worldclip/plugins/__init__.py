"""Items that stand next to the recipe: the recipe runs without any of them, and imports none of them.

Each is found through a registry (core/registry.py) and registered by a line of entry_points.txt.
"""
