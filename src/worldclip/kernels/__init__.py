"""Compiled loops over bytes, without policy."""
