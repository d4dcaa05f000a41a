"""Files of drawn objects, one module a format: ImageJ ROIs, GeoJSON, COCO, labelme, CVAT, napari, Cellpose."""
