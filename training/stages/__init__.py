"""The three stages: each a module whose ``forward`` turns a batch into losses."""
