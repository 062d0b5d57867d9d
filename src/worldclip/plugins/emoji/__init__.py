"""The emoji pool: drawings with names in 14 languages, small enough for a laptop."""
