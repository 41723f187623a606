"""What `gpu_speed.py` measures, how it keeps to its time, and what it shows."""
