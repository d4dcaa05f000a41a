"""Files of microscopes and slide scanners, read by their libraries: the extra ``[formats]``."""
