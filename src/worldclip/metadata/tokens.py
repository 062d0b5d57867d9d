"""Text of a Wikipedia -> the tokens that n-grams are counted over, table-driven (RECIPE: metadata)."""
