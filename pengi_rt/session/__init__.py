"""An open plan on a backend, shared by threads, and recordings cut into batches for it."""
