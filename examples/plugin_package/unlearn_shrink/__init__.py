"""Two unlearning methods, found by name once this package is installed."""
