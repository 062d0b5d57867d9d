"""Stage 6, evaluate: checkpoint -> results.jsonl, one record per model, dataset, language and task."""
