"""Many models trained and edited as one: batches, losses, random streams, training."""
