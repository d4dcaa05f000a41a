"""The studio: a page in the browser in which a person paints a few cells and a model learns meanwhile."""
