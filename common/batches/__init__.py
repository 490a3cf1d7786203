"""From a request for a batch to its jobs: items read from wherever they are, in constant memory."""
