"""Page-view files -> the titles of a Wikipedia by their views."""
