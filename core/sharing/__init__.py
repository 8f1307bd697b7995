"""One decomposition computed by several processes."""
