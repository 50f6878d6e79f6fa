"""From what a network found to a labelled spine: pure functions on structures."""
