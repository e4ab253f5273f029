"""One small file per unlearning method; each reads like the pseudo-code of its paper."""
