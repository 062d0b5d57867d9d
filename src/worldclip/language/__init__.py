"""Languages: their table, identification, segmentation, and the profiles of matching."""
