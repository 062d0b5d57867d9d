"""Publish what a run curated as a dataset of the hub."""
