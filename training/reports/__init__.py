"""What a run measured: kept while it runs, and shown to people afterwards."""
