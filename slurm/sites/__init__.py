"""Facts of each cluster: the site files, their records, and sbatch's options."""
