"""From outputs to the numbers of a result file, with their intervals."""
