"""What several processes need to train and measure together: each has a rank, and a part of the rows."""
