"""One driver for each peer: it does `job` the way that the peer's own documents show, and nothing faster or slower."""
