"""Human data in files, in and out: records, the formats they are written in, and the way to the tables and back."""
