"""Hydra configuration groups, shipped with the package and found as ``pkg://harness.conf``."""
