"""Wikitext -> plain prose: what entries need of an article, in one pass over its bytes."""
