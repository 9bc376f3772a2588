"""An open plan on a backend, shared by threads, and the batches of windows that it processes."""
