"""Dumps of a Wikipedia in three formats -> one iterator of (title, text)."""
