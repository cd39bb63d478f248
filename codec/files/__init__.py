"""Audio files, pipes and file names."""
