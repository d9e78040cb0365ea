"""Neural networks and running them. Imports nothing of ours outside this folder."""
