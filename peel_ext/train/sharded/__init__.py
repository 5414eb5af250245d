"""Training by several processes, each with its own users and items."""
