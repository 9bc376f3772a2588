"""What the operating system is asked for: files, memory, names as people see them."""
