"""Volumes of medical programs beside NIfTI: NRRD and MetaImage."""
