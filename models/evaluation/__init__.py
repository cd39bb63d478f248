"""Quality, bit rate and speed of sotto and of other codecs."""
