"""What the gate measures, each kind of number in a file of its own; `training/evaluate.py` puts them together."""
