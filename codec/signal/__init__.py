"""Speech signals: log-mel analysis, phase, synthesis, voice activity and concealment."""
