"""The tests, one file per section of ane_bench.py, in its order."""
