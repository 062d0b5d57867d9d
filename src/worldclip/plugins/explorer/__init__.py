"""The curation explorer: a folder of static pages that shows every decision of a run and what another one would keep.

explore.py writes the folder; page/ holds its page, in plain HTML, CSS and JavaScript.
"""
