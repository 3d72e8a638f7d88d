"""What a network is: its layers, how it runs, and which channels exist as one."""
