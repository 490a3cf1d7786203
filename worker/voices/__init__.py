"""Preparing voices: which seconds of a recording models are to hear, and the exact words said in them."""
