"""What is known, and refused, before a weight is loaded."""
