"""The ground floor: errors, artifacts, execution over shards, hashes.  It knows no stage."""
