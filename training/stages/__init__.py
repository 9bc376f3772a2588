"""The three training stages, each a module whose ``forward`` turns a batch into losses."""
