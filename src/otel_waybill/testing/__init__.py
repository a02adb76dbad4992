"""For tests of programs that use this package, and for its own."""
