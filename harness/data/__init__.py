"""Data sources: each module has one function that returns a :class:`harness.task.Source`."""
