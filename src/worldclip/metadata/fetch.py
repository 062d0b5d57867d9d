"""Downloads of what a recipe's metadata need: dumps and page views, with checksums, resume and retries."""
