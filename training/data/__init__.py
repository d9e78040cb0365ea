"""What a run learns from: rows of the store, of a snapshot or of a file, as examples in splits."""
