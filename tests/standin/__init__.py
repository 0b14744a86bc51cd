"""A stand-in for Apple's libraries: its source, and the script that builds it."""
