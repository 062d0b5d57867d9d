"""Many models in one table, results of mteb among them; and our models as encoders of mteb."""
