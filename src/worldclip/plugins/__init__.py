"""Items that stand next to the recipe: the recipe runs without any of them, and imports none of them.

Their commands stand in cli/commands.py, builders of pools in pool/config.py.
"""
