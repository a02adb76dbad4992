"""What can be chosen from outside the program, as data: settings and policies, read once."""
