"""Made sound scenes: what the demo model is trained and measured on. Nothing is downloaded."""
