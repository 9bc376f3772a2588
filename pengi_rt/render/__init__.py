"""How results are shown: rows of JSON, CSV and text, subtitles, and pictures."""
