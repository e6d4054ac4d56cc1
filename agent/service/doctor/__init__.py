"""What is wrong with an installation, and what its support needs to know."""
