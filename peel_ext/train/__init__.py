"""The stages of training, the folder they are kept in, and the pipeline through all of them."""
