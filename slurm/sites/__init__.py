"""What is particular to a cluster: the site files, their records, and sbatch's options."""
