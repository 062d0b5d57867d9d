"""The names of the metadata sources.  Imports nothing, so that configs and pages may use it."""

METADATA_SOURCES = ("number", "wordnet", "unigram", "bigram", "title", "wordfreq", "cldr", "emoji", "pool")
"""In the order of a list's entries; of equal entries the first stays."""
