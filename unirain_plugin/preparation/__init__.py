"""From data sets on disk to manifests, LMDBs and sub-images; the commands that researchers prepare data with."""
