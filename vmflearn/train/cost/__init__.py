"""What a run takes: counted before it starts, and measured while it goes on."""
