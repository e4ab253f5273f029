"""The command ``unlearn``."""
