"""Commands around the recipe."""
