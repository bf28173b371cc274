"""What is here is read by type checkers, and run by test_typing.py in a process of its own."""

collect_ignore_glob = ["*.py"]
