"""Converters: public datasets, as users have them on disk, to manifest rows."""
