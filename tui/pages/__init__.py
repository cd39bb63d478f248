"""Pages to look at and listen to: folders of plain files that a browser shows without a network."""
