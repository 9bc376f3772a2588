"""Public datasets as users have them on disk, turned into manifest rows."""
