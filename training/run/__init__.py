"""One run on disk: build, fit, log, checkpoint, resume, report."""
