"""Access to the operating system: files, memory, streams, and text that is safe to print."""
