"""What blocks are worth to every user group: row values, and what controllers learn."""
