"""The live voice link: capture, transport, jitter buffer, concealment and playback."""
