"""The worth of blocks to every user group: row values, and what controllers learn."""
