"""Synthetic sound scenes, on which the demo model is trained and tested. No downloads."""
