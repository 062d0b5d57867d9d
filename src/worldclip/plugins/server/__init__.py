"""`worldclip serve`: a search page and an API in OpenAI's shape over one loaded model."""
