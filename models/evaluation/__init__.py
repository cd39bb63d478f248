"""Quality, bit rate and speed of sotto and of other speech codecs, measured alike."""
