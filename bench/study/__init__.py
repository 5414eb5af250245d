"""What each part of the method is worth: trained with it, without it, and beside rivals."""
