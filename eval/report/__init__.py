"""metrics.json and report.html: figures, gallery, pooled folds, Neuroglancer layers."""
