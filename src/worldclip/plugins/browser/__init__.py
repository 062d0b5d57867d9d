"""Pages that run a model in the browser, as a format of `worldclip export`."""
