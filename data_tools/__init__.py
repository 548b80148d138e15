"""Scripts that prepare data: run them as files, ``python data_tools/NAME.py``."""
