"""The model: configuration, tokenizer, loading, inference, and other libraries' formats."""
