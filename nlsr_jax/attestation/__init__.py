"""What an output is made of, as a statement that others can check, and its signatures."""
