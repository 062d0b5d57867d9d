"""Commands beside the recipe."""
