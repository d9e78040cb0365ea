"""Programs that speak HTTP only. Import nothing of ours outside this folder."""
