"""A question, heard or read, answered by a language model and spoken."""
