"""Outputs: what identifies one, how it is made, and where it is kept."""
