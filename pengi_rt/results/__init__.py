"""What the tasks return."""
