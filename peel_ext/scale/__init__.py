"""Training and measuring by several processes together: each has a rank, and a part of the rows."""
